"""The schema in PostgreSQL: ownership, creation and upgrades."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, NamedTuple, cast

from raincheck.errors import StoreUnavailable, StoreUnusable
from raincheck.stores.postgres.connections import Address, Connection, quote, statements
from raincheck.stores.shared.sql_files import read_sql, sql_folder

logger = logging.getLogger(__name__)

_MIGRATION = re.compile(r"(\d{3})_\w+\.sql")


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    """One step of the schema: its number, from 1 without gaps, and its SQL."""

    version: int
    sql: str


class _Facts(NamedTuple):
    """What there is. `version` is None where the schema is not ours, 0 where there is nothing of ours yet."""

    exists: bool
    may_use: bool
    may_create_in_it: bool
    may_create_it: bool
    user: str
    version: int | None


def packaged_migrations() -> tuple[Migration, ...]:
    """The steps of this release, in order."""
    names = sorted(entry.name for entry in sql_folder("postgres").iterdir())
    found = ((int(match[1]), name) for name in names if (match := _MIGRATION.fullmatch(name)))
    return tuple(Migration(version=version, sql=read_sql("postgres", name)) for version, name in found)


async def check(connection: Connection, address: Address, latest: int) -> bool:
    """Whether the schema is there, in the latest version, and may be used.

    Raises:
        StoreUnusable: It is of a newer version, or another program's.
        StoreUnavailable: A right is missing; the message says which.
    """
    facts = await _facts(connection, address, latest)
    if facts.version != latest:
        return False
    lacking_rights = statements(address.schema)["lacking_rights"]
    cursor = await connection.execute(lacking_rights, {"schema": address.schema}, prepare=False)
    lacking = ", ".join(row[0] for row in await cursor.fetchall())
    if lacking:
        raise StoreUnavailable(f"The task store {address.place}: the user {facts.user!r} needs the rights {lacking}.")
    return True


async def warn_of_weak_settings(connection: Connection, address: Address) -> None:
    """Say in the log where the server may lose what it has acknowledged."""
    cursor = await connection.execute(statements(address.schema)["durability"], prepare=False)
    off = [name for (name,) in await cursor.fetchall()]
    if off:
        logger.warning(
            "the task store %s has %s off: a power cut may take tickets, start again what was done, and repeat fencing "
            "numbers",
            address.place,
            " and ".join(off),
        )


async def migrate(connection: Connection, address: Address, migrations: Sequence[Migration]) -> None:
    """Bring the schema to the last of these versions, in one transaction; other processes that start meanwhile wait.

    Raises:
        StoreUnusable: It is of a newer version, or another program's.
        StoreUnavailable: A right is missing; the message says which.
        psycopg.Error: As PostgreSQL has it; everything is as it was.
    """
    latest = migrations[-1].version
    sql = statements(address.schema)
    async with connection.transaction():
        await connection.execute(
            "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true)", prepare=False
        )
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_lock_of(address.schema),), prepare=False)
        facts = await _facts(connection, address, latest)
        if facts.version == latest:
            return
        _require_rights(facts, address)
        if not facts.exists:
            await connection.execute(_of(f"CREATE SCHEMA {quote(address.schema)}"), prepare=False)
        if not facts.version:
            await connection.execute(sql["create_version"], {}, prepare=False)
        for migration in migrations[facts.version or 0 :]:
            text = migration.sql.replace("raincheck.", f"{quote(address.schema)}.")
            await connection.execute(_of(text), prepare=False)
        await connection.execute(sql["set_version"], {"version": latest}, prepare=False)


def missing(address: Address) -> StoreUnusable:
    """The error where nothing may be made or upgraded."""
    return StoreUnusable(
        f'The task store {address.place} does not have the schema "{address.schema}" of this raincheck: '
        'run "raincheck store migrate".'
    )


async def _facts(connection: Connection, address: Address, latest: int) -> _Facts:
    sql = statements(address.schema)
    cursor = await connection.execute(sql["schema_facts"], {"schema": address.schema}, prepare=False)
    row: tuple[Any, ...] = (await cursor.fetchall())[0]
    exists, may_use, may_create_in_it, may_create_it, may_read_version, occupied, user = row
    if exists and not may_use:
        raise StoreUnavailable(
            f'The task store {address.place}: the user {user!r} needs the right USAGE on the schema "{address.schema}".'
        )
    if may_read_version is False:
        raise StoreUnavailable(
            f"The task store {address.place}: the user {user!r} needs the rights SELECT on "
            f"{address.schema}.raincheck_schema."
        )
    if occupied and not may_read_version:
        raise StoreUnusable(
            f'The task store {address.place}: the schema "{address.schema}" belongs to another program: '
            "set 'schema_name' in [state]."
        )
    version = 0
    if may_read_version:
        cursor = await connection.execute(sql["schema_version"], {}, prepare=False)
        version = (await cursor.fetchall())[0][0]
    if version > latest:
        raise StoreUnusable(
            f"The task store {address.place} has schema version {version}, "
            f"this raincheck knows versions up to {latest}: upgrade raincheck."
        )
    return _Facts(exists, may_use, may_create_in_it, may_create_it, user, version)


def _require_rights(facts: _Facts, address: Address) -> None:
    if not facts.exists and not facts.may_create_it:
        raise StoreUnavailable(
            f"The task store {address.place}: the user {facts.user!r} needs the right CREATE on the database, "
            f'or a schema "{address.schema}" in which it has the right CREATE.'
        )
    if facts.exists and not facts.may_create_in_it:
        raise StoreUnavailable(
            f"The task store {address.place}: the user {facts.user!r} needs the right CREATE "
            f'on the schema "{address.schema}".'
        )


def _lock_of(schema: str) -> int:
    return int.from_bytes(hashlib.sha256(f"raincheck:{schema}".encode()).digest()[:8], signed=True)


def _of(text: str) -> LiteralString:
    # Its only variable part is a quoted name.
    return cast("LiteralString", text)
