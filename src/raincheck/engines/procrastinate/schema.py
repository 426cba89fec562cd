"""The schema of procrastinate in PostgreSQL: created and upgraded here.

They have a schema of their own, so that a procrastinate that a team runs already in the same database is not touched.
procrastinate does not record which of its migrations are in; here they are recorded by name.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg
from procrastinate.exceptions import ConnectorException
from procrastinate.schema import SchemaManager
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import PoolTimeout

from raincheck.engines.queue.publisher import QueueRefused, QueueUnavailable
from raincheck.errors import ConfigurationError
from raincheck.extras import install_command
from raincheck.ports.tls import Tls

SCHEMA = "raincheck_queue"
"""The schema that holds procrastinate's tables; queues in it differ by their names."""

_CONNECT_SECONDS = 4
_LOCK = 0x7261696E6A6F6273
_REFUSALS = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|(?:role|database) \"[^\"]*\" does not exist"
    r"|permission denied|not permitted to log in|certificate|does not support SSL"
)


def parameters_of(url: str, tls: Tls | None) -> dict[str, Any]:
    """The connection's parameters: the address, TLS, and our schema as the search path.

    Raises:
        ConfigurationError: It is no address of a PostgreSQL server.
    """
    try:
        given: dict[str, Any] = conninfo_to_dict(url)
    except psycopg.Error:
        # Never the value or the reason: either may hold a password.
        raise ConfigurationError(
            "the queue's address is no valid one of PostgreSQL: postgresql://[user:password@]host[:port]/database"
        ) from None
    given.setdefault("connect_timeout", _CONNECT_SECONDS)
    given.setdefault("application_name", "raincheck-queue")
    # What the queue says of its jobs need not survive a power cut: the store says what is to be done. (A job that comes
    # with its task is part of the store's own transaction, and as durable.)
    given["options"] = f"{given.get('options') or ''} -c search_path={SCHEMA} -c synchronous_commit=off".strip()
    if tls is not None and tls.ca is not None:
        given |= {"sslmode": "verify-full", "sslrootcert": tls.ca}
    if tls is not None and tls.cert is not None:
        given |= {"sslcert": tls.cert, "sslkey": tls.key}
        given.setdefault("sslmode", "require")
    return given


def place_of(parameters: dict[str, Any]) -> str:
    """The server and database, for messages; no user, no password."""
    host = parameters.get("host") or parameters.get("hostaddr") or "localhost"
    return f"{host}:{parameters.get('port') or 5432}/{parameters.get('dbname') or ''}"


@contextmanager
def mapped() -> Generator[None]:
    """PostgreSQL's and procrastinate's errors as those of a queue."""
    try:
        yield
    except ConnectorException as error:
        raise _queue_error(error.__cause__ or error) from error
    except (psycopg.Error, PoolTimeout, OSError) as error:
        raise _queue_error(error) from error


def _queue_error(error: BaseException) -> QueueUnavailable:
    text = _line(error)
    if isinstance(error, errors.InsufficientPrivilege):
        return QueueRefused(f"PostgreSQL says {text}; the user must own the schema {SCHEMA}, or be let to create it")
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None and _REFUSALS.search(str(error)):
        return QueueRefused(f"PostgreSQL refuses us: {text}")
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return QueueUnavailable(f"PostgreSQL says {text}")
    return QueueUnavailable(f"PostgreSQL does not answer: {text}")


def _line(error: BaseException) -> str:
    told = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    # The lines that follow are libpq's advice.
    return (told or str(error)).partition("\n")[0][:300].strip().rstrip(".") or type(error).__name__


async def ensure_schema(connection: psycopg.AsyncConnection[Any]) -> None:
    """Make or upgrade procrastinate's tables, if they are not as this procrastinate has them.

    Args:
        connection: One with `parameters_of` and autocommit, for this only.

    Raises:
        ConfigurationError: They were made by a newer procrastinate.
    """
    if not await _missing(connection):
        return
    await connection.execute("SET lock_timeout = '20s'")
    await connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
    for name, statements in await _missing(connection):
        async with connection.transaction():
            await connection.execute(statements.encode())
            await connection.execute(_own_statements().encode())
            await _record(connection, name)


async def _missing(connection: psycopg.AsyncConnection[Any]) -> list[tuple[str | None, str]]:
    """What has to be run, in order: the whole schema, named None, or single migrations."""
    shipped = _shipped()
    cursor = await connection.execute(
        "SELECT to_regnamespace(%s) IS NULL, to_regclass('raincheck_migrations') IS NULL", [SCHEMA]
    )
    no_schema, no_tables = await cursor.fetchone() or (True, True)
    if no_tables:
        # Not IF NOT EXISTS: that asks for the right to create even where there is nothing to do.
        return [(None, (f"CREATE SCHEMA {SCHEMA};\n" if no_schema else "") + SchemaManager.get_schema())]
    cursor = await connection.execute("SELECT name FROM raincheck_migrations")
    applied = {row[0] for row in await cursor.fetchall()}
    if newer := sorted(applied - shipped.keys()):
        raise ConfigurationError(
            f"the tables of procrastinate in the schema {SCHEMA} are of a newer version than the one installed here "
            f"(migration {newer[-1]}): {install_command('procrastinate', upgrade=True)}"
        )
    return [(name, path.read_text(encoding="utf-8")) for name, path in shipped.items() if name not in applied]


async def _record(connection: psycopg.AsyncConnection[Any], name: str | None) -> None:
    names = list(_shipped()) if name is None else [name]
    await connection.execute("INSERT INTO raincheck_migrations (name) SELECT unnest(%s::text[])", [names])


def _shipped() -> dict[str, Path]:
    """procrastinate's migrations by name, in order."""
    return {path.name: path for path in sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))}


def _own_statements() -> str:
    return (resources.files("raincheck.engines.procrastinate") / "sql" / "own.sql").read_text(encoding="utf-8")
