"""The port of blobs: the bodies of large results, beside the task store.

A blob is put before the task that refers to it is settled, and its key is unknown before: what can be read is
durable. Its key says when it may go, some time after its task's retention, so that every adapter removes what has
expired, the orphans of crashes among it, by the order of keys alone.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Protocol

_KEY = re.compile(r"(\d{10})-[0-9a-f]{32}")
_HOUR = "%Y%m%d%H"


class BlobStore(Protocol):
    """Keeps blobs: bodies of bytes under keys of `blob_key`, each written once and never changed.

    Every verb but `close` raises `StoreUnavailable` or `StoreUnusable` where the blobs cannot be reached. All belong to
    the event loop on which `open` was awaited.
    """

    async def open(self) -> None:
        """Get ready; what is only needed for large results is made with the first one.

        Raises:
            StoreUnusable: There can never be a blob here as it is set up.
        """
        ...

    async def close(self) -> None:
        """Let go of every connection and file. Idempotent."""
        ...

    async def put(self, key: str, body: bytes) -> None:
        """Keep a body, durably, until the moment that the key says. Of a put that fails nothing can be read; the same
        body may be put again under the same key."""
        ...

    async def get(self, key: str, offset: int, length: int) -> bytes | None:
        """`length` bytes from `offset` on, fewer at the end; None where there is no such blob (any more)."""
        ...

    async def remove(self, key: str) -> None:
        """Remove it now, where it is still there."""
        ...

    async def purge(self, now: datetime, limit: int) -> int:
        """Remove up to `limit` blobs whose time has come; how many. 0 where they go by themselves."""
        ...


def blob_key(expires_at: datetime) -> str:
    """A fresh key of a blob that stays until then, to the hour: 128 random bits after the hour in UTC."""
    hour = expires_at.astimezone(UTC) + timedelta(hours=1)
    return f"{hour.strftime(_HOUR)}-{secrets.token_hex(16)}"


def checked_key(key: str) -> str:
    """The key itself, where it is one: it becomes part of file names and commands.

    Raises:
        ValueError: It is none of `blob_key`.
    """
    if not is_key(key):
        raise ValueError("not a blob's key")
    return key


def is_key(key: str) -> bool:
    """Whether it is one of `blob_key`."""
    return _KEY.fullmatch(key) is not None


def expiry_of(key: str) -> datetime:
    """When the blob may be removed."""
    return datetime.strptime(checked_key(key)[:10], _HOUR).replace(tzinfo=UTC)


def expired_before(now: datetime) -> str:
    """What the keys of all blobs whose time has come are smaller than."""
    return (now.astimezone(UTC) + timedelta(hours=1)).strftime(_HOUR)
