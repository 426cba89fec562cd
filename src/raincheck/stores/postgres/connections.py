"""The connection pool of PostgreSQL, with bounded waits and silence.

Waiting for a server is bounded by cutting the connection off: what waits on it then ends by itself. (Cancelling would
ask the server, which may be the one that does not answer.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import socket
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, LiteralString, cast

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool

from raincheck.errors import ConfigurationError, StoreUnusable
from raincheck.ports.tls import Tls
from raincheck.stores.postgres.errors import is_lost
from raincheck.stores.shared.sql_files import load_statements

Connection = AsyncConnection[tuple[Any, ...]]

OLDEST_SERVER = 12
"""The oldest PostgreSQL that is supported."""

_STATEMENTS = load_statements("postgres", "queries.sql")


def statements(schema: str) -> dict[str, LiteralString]:
    """The statements of the PostgreSQL store by name, for that schema."""
    quoted = quote(schema).replace("%", "%%")
    return {name: cast("LiteralString", text.replace("raincheck.", f"{quoted}.")) for name, text in _STATEMENTS.items()}


def quote(identifier: str) -> str:
    """An identifier as SQL takes it."""
    return '"' + identifier.replace('"', '""') + '"'


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Address:
    """Where the store is, and how it is spoken to.

    Attributes:
        parameters: For libpq; they may hold a password.
        schema: The schema that holds the tables.
        place: What errors call it.
        timeout_seconds: How long an answer may take.
    """

    parameters: Mapping[str, Any]
    schema: str
    place: str
    timeout_seconds: float

    @classmethod
    def of(cls, url: str, *, schema: str, tls: Tls | None, timeout_seconds: float) -> Address:
        """From the settings.

        Raises:
            ConfigurationError: The address is not one of PostgreSQL.
        """
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error:
            # Its message would repeat the address, and with it a password.
            raise ConfigurationError(
                "'url' in [state] must be a PostgreSQL address: postgresql://user@host:port/database"
            ) from None
        parameters: dict[str, Any] = {
            "application_name": "raincheck",
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": int(timeout_seconds * 1000),
            **given,
            "connect_timeout": max(2, round(timeout_seconds)),
            "client_encoding": "UTF8",
        }
        if tls is not None and tls.ca is not None:
            parameters |= {"sslmode": "verify-full", "sslrootcert": tls.ca}
        if tls is not None and tls.cert is not None:
            parameters |= {"sslcert": tls.cert, "sslkey": tls.key}
        host = given.get("host") or given.get("hostaddr") or "localhost"
        database = given.get("dbname") or given.get("user") or ""
        place = f"postgresql://{host}:{given.get('port') or 5432}/{database}"
        return cls(parameters=parameters, schema=schema, place=place, timeout_seconds=timeout_seconds)

    @property
    def patience_seconds(self) -> float:
        """How long one attempt may take: there is time for another connection where this one is dead."""
        return self.timeout_seconds / 2

    @property
    def session(self) -> str:
        """The settings of a session, as JSON.

        Every statement reads ranges of an index, few rows of each: a plan made when the tables were empty must not
        walk through them once they are full, so none may be made that walks.
        """
        patience = self.patience_seconds * 1000
        return json.dumps(
            {
                "statement_timeout": str(max(1, int(patience))),
                "lock_timeout": str(max(1, int(patience * 0.8))),
                "idle_in_transaction_session_timeout": str(max(1, int(patience))),
                "enable_seqscan": "off",
                "enable_bitmapscan": "off",
                "enable_hashjoin": "off",
                "enable_mergejoin": "off",
                "plan_cache_mode": "force_generic_plan",
                "jit": "off",
            }
        )


class Connections:
    """The pool: at most `size` connections, made when they are wanted.

    Attributes:
        address: Where they lead.
        direct: Whether they lead to the server itself. A pooler between (PgBouncer) hands each transaction to another
            session: nothing may be prepared, set or listened for.
    """

    def __init__(self, address: Address, size: int) -> None:
        self.address = address
        self.direct = True
        self._sql = statements(address.schema)
        self._waiting: set[asyncio.Timeout] = set()
        self._error: Exception | None = None
        self._pool = AsyncConnectionPool[Connection](
            # The class is asked for `connect` alone.
            connection_class=cast("type[Connection]", SimpleNamespace(connect=self._connect_for_pool)),
            min_size=0,
            max_size=size,
            num_workers=size,
            timeout=math.inf,
            # A further attempt comes with the next request.
            reconnect_timeout=0,
            reconnect_failed=self._report_failure,
            open=False,
        )

    async def open(self) -> None:
        """Begin to hand connections out; none is made yet."""
        log = logging.getLogger("psycopg.pool")
        if log.level == logging.NOTSET:
            # It logs every attempt to connect; the store's callers have the error.
            log.setLevel(logging.CRITICAL)
        await self._pool.open()

    @asynccontextmanager
    async def one(self, until: float) -> AsyncGenerator[Connection]:
        """A connection for the block, cut off at `until` (on the loop's clock); one that fails is not used again.

        Raises:
            TimeoutError: None became free.
            psycopg.Error: None could be made.
        """
        waiting = asyncio.timeout_at(until)
        self._waiting.add(waiting)
        try:
            async with waiting:
                connection = await self._pool.getconn()
        except TimeoutError:
            raise self._error or TimeoutError from None
        finally:
            self._waiting.discard(waiting)
        lost = False
        try:
            with cut_off_at(connection, until):
                yield connection
        except BaseException as error:
            lost = is_lost(error)
            raise
        finally:
            # What a transaction left behind cannot be ended in time on a server that may not answer.
            if lost or connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
                await connection.close()
            await self._pool.putconn(connection)

    async def connect(self, until: float) -> Connection:
        """A further connection, of the caller's own.

        Raises:
            TimeoutError: It took too long.
            psycopg.Error: It cannot be made.
            StoreUnusable: The server or the database can never be used.
        """
        async with asyncio.timeout_at(until):
            connection = await AsyncConnection.connect(autocommit=True, prepare_threshold=0, **self.address.parameters)
        try:
            # What is counted under a lock is counted after it was taken, whatever the database's default is.
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            with cut_off_at(connection, until):
                await self._arrive(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def forget_idle(self) -> None:
        """Replace the idle connections: where one connection was lost, the others are likely to be."""
        await self._pool.drain()

    async def close(self) -> None:
        """Close every connection; none is in use."""
        await self._pool.close(self.address.patience_seconds)

    async def _connect_for_pool(self, _: str) -> Connection:
        try:
            connection = await self.connect(asyncio.get_running_loop().time() + self.address.patience_seconds)
        except Exception as error:
            self._error = error
            raise
        self._error = None
        return connection

    def _report_failure(self, _: AsyncConnectionPool[Connection]) -> None:
        """Have the requests that wait for a connection fail at once."""
        for waiting in self._waiting:
            waiting.reschedule(asyncio.get_running_loop().time())

    async def _arrive(self, connection: Connection) -> None:
        version = connection.info.server_version // 10000
        if version < OLDEST_SERVER:
            raise StoreUnusable(
                f"The task store {self.address.place} is PostgreSQL {version}: "
                f"raincheck needs {OLDEST_SERVER} or newer."
            )
        cursor = await connection.execute(
            self._sql["arrive"],
            {"pid": connection.info.backend_pid, "settings": self.address.session},
            prepare=False,
        )
        direct, encoding, _ = (await cursor.fetchall())[0]
        if encoding != "UTF8":
            raise StoreUnusable(
                f"The task store {self.address.place} is a database in {encoding}: raincheck needs one in UTF8."
            )
        self.direct = bool(direct)
        if not direct:
            connection.prepare_threshold = None


@contextmanager
def cut_off_at(connection: Connection, until: float) -> Generator[None]:
    """Cut the connection off at that moment of the loop's clock, unless the block is over by then.

    Raises:
        TimeoutError: It was cut off.
    """
    late = False

    def end() -> None:
        nonlocal late
        late = True
        cut(connection)

    timer = asyncio.get_running_loop().call_at(until, end)
    try:
        yield
    except psycopg.Error as error:
        if late:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


def cut(connection: Connection) -> None:
    """End the connection on this side, so that a request that waits for its server fails at once."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)
