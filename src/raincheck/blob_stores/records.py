"""Blobs as records of the task store itself: for stores that have no better place, and those that a library user gives.

What the store does to records holds for these too: it keeps them durable, encrypts them where it does, removes them
when they have expired.
"""

from __future__ import annotations

import asyncio
import base64
from datetime import datetime

from raincheck.ports.blob_store import checked_key, expiry_of
from raincheck.ports.records import Record, RecordStore

_KIND = "blob"
# A multiple of three, so that only the last part has padding; as base64, and sealed once more, it fits into a record.
_PART = 132 * 1024
_AT_ONCE = 4


class RecordBlobStore:
    """A `raincheck.ports.blob_store.BlobStore` in records.

    Args:
        store: The open store.
    """

    def __init__(self, store: RecordStore) -> None:
        self._store = store

    async def open(self) -> None:
        """See `BlobStore.open`; its user opens the store."""

    async def close(self) -> None:
        """See `BlobStore.close`."""

    async def put(self, key: str, body: bytes) -> None:
        """See `BlobStore.put`."""
        expires_at = expiry_of(key)
        records = [
            Record(
                kind=_KIND,
                key=_part_key(key, number),
                value=base64.b64encode(body[start : start + _PART]).decode(),
                expires_at=expires_at,
            )
            for number, start in enumerate(range(0, max(len(body), 1), _PART))
        ]
        for first in range(0, len(records), _AT_ONCE):
            # A part that is there already is the same: no other blob has this key.
            await asyncio.gather(*(self._store.put_record(record) for record in records[first : first + _AT_ONCE]))

    async def get(self, key: str, offset: int, length: int) -> bytes | None:
        """See `BlobStore.get`."""
        checked_key(key)
        first, last = offset // _PART, max(offset, offset + length - 1) // _PART
        numbers = list(range(first, last + 1))
        parts: list[bytes] = []
        for start in range(0, len(numbers), _AT_ONCE):
            some = numbers[start : start + _AT_ONCE]
            found = await asyncio.gather(*(self._store.get_record(_KIND, _part_key(key, number)) for number in some))
            parts += [base64.b64decode(record.value) for record in found if record is not None]
            if any(record is None for record in found):
                break
        if not parts and (first == 0 or await self._store.get_record(_KIND, _part_key(key, 0)) is None):
            return None
        begin = offset - first * _PART
        return b"".join(parts)[begin : begin + length]

    async def remove(self, key: str) -> None:
        """See `BlobStore.remove`."""
        checked_key(key)
        number = 0
        while await self._store.remove_record(Record(kind=_KIND, key=_part_key(key, number), value=None)):
            number += 1

    async def purge(self, now: datetime, limit: int) -> int:
        """See `BlobStore.purge`: the store's own purge takes expired records along."""
        return 0


def _part_key(key: str, number: int) -> str:
    return f"{key}.{number}"
