"""Blobs in a table beside the tasks' own, in parts.

The store makes the table with its schema. The connections are blobs' own, so that the megabytes of one result do not
stand in the way of the tasks' small statements.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import LiteralString, cast

import psycopg

from raincheck.ports.blob_store import checked_key, expired_before
from raincheck.ports.tls import Tls
from raincheck.stores.postgres.connections import Address, Connection, Connections, quote
from raincheck.stores.postgres.errors import store_error
from raincheck.stores.shared.sql_files import load_statements

_STATEMENTS = load_statements("postgres", "blobs.sql")
_PART = 256 * 1024
_CONNECTIONS = 2
# What a slow line carries, beyond the patience for one answer.
_BYTES_PER_SECOND = 1_000_000


class PostgresBlobs:
    """A `raincheck.ports.blob_store.BlobStore` in the schema of a PostgreSQL store.

    Args:
        url, schema, timeout_seconds, tls: As those of `raincheck.stores.postgres.store.PostgresStore`.
    """

    def __init__(
        self, url: str, *, schema: str = "raincheck", timeout_seconds: float = 5.0, tls: Tls | None = None
    ) -> None:
        self._address = Address.of(url, schema=schema, tls=tls, timeout_seconds=timeout_seconds)
        quoted = quote(schema).replace("%", "%%")
        self._sql: dict[str, LiteralString] = {
            name: cast("LiteralString", text.replace("raincheck.", f"{quoted}.")) for name, text in _STATEMENTS.items()
        }
        self._connections = Connections(self._address, _CONNECTIONS)

    async def open(self) -> None:
        """See `BlobStore.open`: connections are made when they are wanted."""
        await self._connections.open()

    async def close(self) -> None:
        """See `BlobStore.close`."""
        await self._connections.close()

    async def put(self, key: str, body: bytes) -> None:
        """See `BlobStore.put`: all parts in one transaction."""
        checked_key(key)
        async with self._connection(len(body)) as connection, connection.transaction():
            for part, start in enumerate(range(0, max(1, len(body)), _PART)):
                given = {"key": key, "part": part, "body": body[start : start + _PART]}
                await connection.execute(self._sql["put_part"], given, binary=True)

    async def get(self, key: str, offset: int, length: int) -> bytes | None:
        """See `BlobStore.get`."""
        first, last = offset // _PART, max(offset, offset + length - 1) // _PART
        given = {"key": checked_key(key), "first": first, "last": last}
        async with self._connection(length) as connection:
            cursor = await connection.execute(self._sql["get_parts"], given, binary=True)
            rows = await cursor.fetchall()
        if not rows:
            return None
        begin = offset - first * _PART
        return b"".join(body for part, body in rows if part >= first)[begin : begin + length]

    async def remove(self, key: str) -> None:
        """See `BlobStore.remove`."""
        async with self._connection() as connection:
            await connection.execute(self._sql["remove"], {"key": checked_key(key)})

    async def purge(self, now: datetime, limit: int) -> int:
        """See `BlobStore.purge`."""
        async with self._connection() as connection:
            cursor = await connection.execute(self._sql["purge"], {"before": expired_before(now), "limit": limit})
            return (await cursor.fetchall())[0][0]

    @asynccontextmanager
    async def _connection(self, size: int = 0) -> AsyncGenerator[Connection]:
        until = asyncio.get_running_loop().time() + self._address.timeout_seconds + size / _BYTES_PER_SECOND
        try:
            async with self._connections.one(until) as connection:
                yield connection
        except (psycopg.Error, TimeoutError, OSError) as error:
            # Where one connection was lost, the idle ones are likely to be.
            await self._connections.forget_idle()
            raise store_error(error, self._address.place) from error
