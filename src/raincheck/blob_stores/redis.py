"""Blobs in Redis (or Valkey), under the store's prefix and hash tag; Redis itself lets them expire.

A body goes over in pieces under another name and is renamed when it is whole, so that no command holds the server for
long and none finds half of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from redis.exceptions import RedisError

from raincheck.ports.blob_store import checked_key, expiry_of
from raincheck.ports.tls import Tls
from raincheck.stores.redis.connections import Address
from raincheck.stores.redis.errors import no_answer, store_error
from raincheck.stores.redis.rows import stored_text

_PIECE = 1024 * 1024
_CONNECTIONS = 2


class RedisBlobs:
    """A `raincheck.ports.blob_store.BlobStore` on the server of a Redis store.

    Args:
        url, key_prefix, timeout_seconds, tls: As those of `raincheck.stores.redis.store.RedisStore`.
    """

    def __init__(
        self, url: str, *, key_prefix: str = "mcp_task:", timeout_seconds: float = 5.0, tls: Tls | None = None
    ) -> None:
        self._root = stored_text(key_prefix) + b"{rc}:"
        self._address = Address(url=url, tls=tls, timeout_seconds=timeout_seconds, root=self._root)
        self._client: Any = None

    async def open(self) -> None:
        """See `BlobStore.open`: connections are made when they are wanted."""

    async def close(self) -> None:
        """See `BlobStore.close`."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def put(self, key: str, body: bytes) -> None:
        """See `BlobStore.put`."""
        part, milliseconds = self._root + b"blob-part:" + checked_key(key).encode(), _expiry(key)
        async with self._calls() as client:
            await client.set(part, body[:_PIECE], pxat=milliseconds)
            for start in range(_PIECE, len(body), _PIECE):
                await client.append(part, body[start : start + _PIECE])
            await client.rename(part, self._name(key))

    async def get(self, key: str, offset: int, length: int) -> bytes | None:
        """See `BlobStore.get`."""
        name = self._name(key)
        pieces: list[bytes] = []
        async with self._calls() as client:
            for start in range(offset, offset + length, _PIECE):
                end = min(start + _PIECE, offset + length) - 1
                pieces.append(await client.getrange(name, start, end))
                if len(pieces[-1]) < end - start + 1:
                    break
            # An empty answer is also that for a key which is not there.
            if not any(pieces) and not await client.exists(name):
                return None
        return b"".join(pieces)

    async def remove(self, key: str) -> None:
        """See `BlobStore.remove`."""
        async with self._calls() as client:
            await client.unlink(self._name(key))

    async def purge(self, now: datetime, limit: int) -> int:
        """See `BlobStore.purge`: Redis lets them expire."""
        return 0

    def _name(self, key: str) -> bytes:
        return self._root + b"blob:" + checked_key(key).encode()

    @asynccontextmanager
    async def _calls(self) -> AsyncGenerator[Any]:
        if self._client is None:
            self._client = self._address.client(_CONNECTIONS)
        try:
            yield self._client
        except TimeoutError as error:
            raise no_answer(self._address.place, self._address.timeout_seconds) from error
        except (RedisError, OSError) as error:
            raise store_error(error, self._address.place) from error


def _expiry(key: str) -> int:
    return int(expiry_of(key).timestamp() * 1000)
