"""The codings of HTTP bodies (RFC 9110 §8.4), read to their end: a body that was cut off is no whole one.

The HTTP client's own decoders take what a cut-off stream gave for all of it, and stop after the first member of gzip.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

ACCEPTED = "gzip, deflate"
"""`Accept-Encoding`: what a `Decoder` reads."""

_PIECE = 2**20
# With each member that ends, what is left of the slice is copied.
_SLICE = 2**14
# No coding makes a body twice as large, but for the heads of small ones.
_MOST_LARGER = 2
_SPARE_BYTES = 2**20
_MOST_CODINGS = 2
_GZIP = zlib.MAX_WBITS | 16
_NAMES = {"gzip": True, "x-gzip": True, "deflate": False}
# The other ones that are registered (RFC 9110 §16.6.1). What else stands there changes nothing of the body: servers
# put a charset there, or how it once came to them.
_UNREAD = {"aes128gcm", "br", "compress", "dcb", "dcz", "exi", "pack200-gzip", "x-compress", "zstd"}


class UnknownCoding(ValueError):
    """The body is in a coding that is not read; its text names it."""


class Decoder:
    """Decodes one body, in pieces of bounded size.

    Args:
        content_encoding: The header, empty where there is none.

    Raises:
        UnknownCoding: It names a coding that is none of `ACCEPTED`, or too many.
    """

    def __init__(self, content_encoding: str) -> None:
        named = [part.strip() for part in content_encoding.lower().split(",")]
        unread = next((each for each in named if each in _UNREAD), None)
        codings = [each for each in named if each in _NAMES]
        if unread is not None or len(codings) > _MOST_CODINGS:
            raise UnknownCoding(unread or content_encoding)
        # They are listed in the order in which they were applied.
        self._layers = [_Inflater(gzip=_NAMES[each]) for each in reversed(codings)]

    def decode(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes of the body give, with empty pieces in between: no step takes long, the whole may.

        Raises:
            zlib.error: They are not in that coding, or are many and give next to nothing.
        """
        pieces: Iterable[bytes] = (data,)
        for layer in self._layers:
            pieces = layer.decode(pieces)
        yield from pieces

    def end(self) -> None:
        """The body ends here.

        Raises:
            EOFError: Its coding does not: it was cut off.
        """
        if any(layer.open for layer in self._layers):
            raise EOFError


class _Inflater:
    """One coding: members of gzip one after another, or one stream of deflate, with zlib's head or without."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._head = b""
        self._members = 0
        self._taken = 0
        self._given = 0
        self._member: zlib._Decompress | None = None  # pyright: ignore[reportPrivateUsage]  it has no public name

    @property
    def open(self) -> bool:
        return self._member is not None or bool(self._head)

    def decode(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            for start in range(0, len(piece), _SLICE):
                part = piece[start : start + _SLICE]
                self._taken += len(part)
                for made in self._made(part):
                    self._given += len(made)
                    yield made
                if self._taken > _SPARE_BYTES + _MOST_LARGER * self._given:
                    raise zlib.error("it gives next to nothing")
                yield b""

    def _made(self, part: bytes) -> Iterator[bytes]:
        rest = self._head + part
        self._head = b""
        while rest:
            if self._member is None:
                # What fills up a block of a tape or a disk is no member, and nothing else may follow one.
                rest = rest.lstrip(b"\0") if self._members else rest
                if len(rest) < 2:
                    self._head = rest
                    break
                self._member = self._begun(rest)
            made = self._member.decompress(rest, _PIECE)
            while made:
                yield made
                made = b"" if self._member.eof else self._member.decompress(self._member.unconsumed_tail, _PIECE)
            rest = b""
            if self._member.eof:
                rest, self._member = self._member.unused_data, None
                self._members += 1

    def _begun(self, head: bytes) -> zlib._Decompress:  # pyright: ignore[reportPrivateUsage]
        if self._gzip:
            return zlib.decompressobj(_GZIP)
        if self._members:
            raise zlib.error("data after the end of the stream")
        # Many servers send deflate without the head that RFC 9110 §8.4.1.2 wants.
        has_head = head[0] & 0x0F == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)
