"""Raw HTTP/1.1 connections to a server, for what no HTTP library sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from support.serving import PROTOCOL, Caller

__all__ = ["Answer", "Wire", "call", "head", "wired"]

SECONDS = 10.0
"""For an answer that is due at once, on a busy machine."""


class Answer(NamedTuple):
    """One response; the body as text."""

    status: int
    headers: Mapping[str, str]
    body: str


def head(target: str, *lines: str, method: str = "POST", host: str = "127.0.0.1") -> bytes:
    """A request's head, with these lines beside those that it needs."""
    return "\r\n".join((f"{method} {target} HTTP/1.1", f"host: {host}", *lines, "", "")).encode()


def call(tool: str, arguments: Mapping[str, Any], *lines: str, target: str = "/mcp", host: str = "127.0.0.1") -> bytes:
    """A whole call of a tool by the present protocol."""
    body = Caller.envelope(1, "tools/call", {"name": tool, "arguments": dict(arguments)})
    return head(target, *of_call(tool), f"content-length: {len(body)}", *lines, host=host) + body


def of_call(tool: str) -> tuple[str, ...]:
    """The lines that a call of a tool has in its head."""
    return (
        "content-type: application/json",
        "accept: application/json, text/event-stream",
        f"mcp-protocol-version: {PROTOCOL}",
        "mcp-method: tools/call",
        f"mcp-name: {tool}",
    )


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, first: bytes = b"") -> Wire:
        wire = cls(*await asyncio.open_connection("127.0.0.1", port))
        wire.writer.write(first)
        return wire

    async def answer(self, seconds: float = SECONDS) -> Answer:
        """The next response, within so many seconds."""
        async with asyncio.timeout(seconds):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = b""
            if (length := headers.get("content-length")) is not None:
                body = await self.reader.readexactly(int(length))
        return Answer(int(first.split(" ")[1]), headers, body.decode())

    async def ended(self, seconds: float = SECONDS) -> bytes:
        """All that comes until the server ends the connection, within so many seconds."""
        found = b""
        async with asyncio.timeout(seconds):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    found += piece
        return found

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def wired(port: int, *firsts: bytes) -> AsyncGenerator[list[Wire]]:
    """A connection for each of these beginnings, while the block runs."""
    wires = [await Wire.open(port, first) for first in firsts]
    try:
        yield wires
    finally:
        for wire in wires:
            wire.close()
            with contextlib.suppress(OSError):
                await wire.writer.wait_closed()


def result_of(answer: Answer) -> Any:
    """What a call gave, from an answer that must be 200."""
    assert answer.status == 200, answer
    found = json.loads(re.sub(r"^.*?data: ", "", answer.body, flags=re.DOTALL))
    return found["result"]
