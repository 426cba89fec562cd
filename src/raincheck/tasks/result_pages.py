"""Pages of a result: what is between two places of its body, and never half a character.

A page is the text between the characters that begin at or before its two ends: pages of one length put together are the
whole, wherever their borders fall. Of a body that is no text (`StoredResult.form` "binary") it is the bytes themselves.
"""

from __future__ import annotations

from typing import NamedTuple

from raincheck.errors import InvalidParameters
from raincheck.tasks.results import StoredResult

PAGE_LENGTH = 8 * 1024
"""How long a page is whose caller names no length, in bytes: what a model's context takes without harm."""

_CONTINUES = 0b10000000
_LONGEST_CHARACTER = 4


class ResultPage(NamedTuple):
    """A page of a result.

    Attributes:
        data: What is on it.
        next_offset: Where the page after it begins; None after the last one.
    """

    data: bytes
    next_offset: int | None


async def read_page(stored: StoredResult, offset: int, length: int) -> ResultPage:
    """The page of `length` bytes from `offset` on, both of them checked to be no less than 0.

    Raises:
        InvalidParameters: It begins beyond the end.
        TaskNotFound: The blob has expired.
        StoreError: It cannot be read.
    """
    if offset > stored.size:
        raise InvalidParameters(f"The offset is beyond the end: the result has {stored.size} bytes.")
    end = min(offset + length, stored.size)
    if stored.form == "binary":
        data = await stored.read(offset, end - offset)
    else:
        data = await _whole_characters(stored, offset, end)
    return ResultPage(data, end if end < stored.size else None)


async def _whole_characters(stored: StoredResult, offset: int, end: int) -> bytes:
    """The characters that begin from where the one at `offset` does to before the one at `end`."""
    begin = max(0, offset - _LONGEST_CHARACTER + 1)
    data = await stored.read(begin, end + 1 - begin)
    return data[_character(data, offset - begin) : _character(data, end - begin)]


def _character(data: bytes, at: int) -> int:
    while 0 < at < len(data) and data[at] & 0b11000000 == _CONTINUES:
        at -= 1
    return min(at, len(data))
