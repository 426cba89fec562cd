"""A blob store that encrypts blobs at rest, in pieces, so that a page needs few of them."""

from __future__ import annotations

from datetime import datetime

from raincheck.encryption.cipher import SEALED_BYTES, PayloadCipher, place_of
from raincheck.ports.blob_store import BlobStore, checked_key

_PIECE = 64 * 1024


class EncryptedBlobStore:
    """A `raincheck.ports.blob_store.BlobStore` around another one.

    Args:
        inner: Keeps the sealed bodies.
        cipher: Encrypts with the first key, decrypts with any.
    """

    def __init__(self, inner: BlobStore, cipher: PayloadCipher) -> None:
        self._inner = inner
        self._sealer = cipher

    async def open(self) -> None:
        """See `BlobStore.open`."""
        await self._inner.open()

    async def close(self) -> None:
        """See `BlobStore.close`."""
        await self._inner.close()

    async def put(self, key: str, body: bytes) -> None:
        """See `BlobStore.put`."""
        checked_key(key)
        pieces = range(0, len(body), _PIECE)
        sealed = [
            self._sealer.encrypt_bytes(body[start : start + _PIECE], _place(key, number))
            for number, start in enumerate(pieces)
        ]
        await self._inner.put(key, b"".join(sealed))

    async def get(self, key: str, offset: int, length: int) -> bytes | None:
        """See `BlobStore.get`."""
        sealed_piece = _PIECE + SEALED_BYTES
        first, last = offset // _PIECE, max(offset, offset + length - 1) // _PIECE
        found = await self._inner.get(key, first * sealed_piece, (last + 1 - first) * sealed_piece)
        if found is None:
            return None
        opened = [
            self._sealer.decrypt_bytes(found[start : start + sealed_piece], _place(key, number))
            for number, start in enumerate(range(0, len(found), sealed_piece), start=first)
        ]
        begin = offset - first * _PIECE
        return b"".join(opened)[begin : begin + length]

    async def remove(self, key: str) -> None:
        """See `BlobStore.remove`."""
        await self._inner.remove(key)

    async def purge(self, now: datetime, limit: int) -> int:
        """See `BlobStore.purge`."""
        return await self._inner.purge(now, limit)


def _place(key: str, number: int) -> str:
    return place_of("blob", key, str(number))
