"""Messages between a worker and the child process of an isolated operation: JSON objects, each after its length."""

from __future__ import annotations

import asyncio
import os
import struct
import threading
from typing import Any

import pydantic_core

from raincheck.domain.unicode_text import well_formed_json

_LENGTH = struct.Struct(">I")
_MOST_BYTES = 2**31


class MessageTooLarge(Exception):
    """A message announces more bytes than the reader allows."""


def packed(message: dict[str, Any]) -> bytes:
    """A message as bytes; a lone surrogate is U+FFFD."""
    try:
        body = pydantic_core.to_json(message)
    except pydantic_core.PydanticSerializationError:
        body = pydantic_core.to_json(well_formed_json(message))
    return _LENGTH.pack(len(body)) + body


async def read_message(reader: asyncio.StreamReader, limit: int) -> dict[str, Any] | None:
    """The next message, None at the end.

    Raises:
        MessageTooLarge: It is larger than `limit` bytes.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > limit:
            raise MessageTooLarge
        return pydantic_core.from_json(await reader.readexactly(length))
    except asyncio.IncompleteReadError:
        return None


class Channel:
    """The child's blocking end. Writing is safe from any thread."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._lock = threading.Lock()

    def read(self) -> dict[str, Any] | None:
        """The next message, None at the end: the other side is gone."""
        head = self._exactly(_LENGTH.size)
        if head is None:
            return None
        body = self._exactly(_LENGTH.unpack(head)[0])
        return None if body is None else pydantic_core.from_json(body)

    def write(self, message: dict[str, Any]) -> None:
        """Send a message whole."""
        left = memoryview(packed(message))
        with self._lock:
            while left:
                left = left[os.write(self._writing, left[:_MOST_BYTES]) :]

    def _exactly(self, count: int) -> bytes | None:
        found = bytearray()
        while len(found) < count:
            chunk = os.read(self._reading, min(count - len(found), 2**20))
            if not chunk:
                return None
            found += chunk
        return bytes(found)
