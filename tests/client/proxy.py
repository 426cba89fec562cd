"""A way to the server on which things get lost: each request can be forwarded, dropped or answered with nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import defaultdict
from typing import Any

from support.proxy import Listener

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Fault:
    """What happens to one request.

    Args:
        forward: Whether the server gets it.
        answer: The bytes that the client gets; None: the connection is closed.
    """

    def __init__(self, *, forward: bool, answer: bytes | None = None) -> None:
        self.forward = forward
        self.answer = answer


LOSE_REQUEST = Fault(forward=False)
LOSE_ANSWER = Fault(forward=True)


def http(body: bytes, *, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


GARBAGE = Fault(forward=True, answer=http(b'{"jsonrpc": "2.0", "id": 1, "resu'))
BAD_GATEWAY = Fault(forward=False, answer=http(b"<h1>502</h1>", status="502 Bad Gateway", kind="text/html"))


class Proxy(Listener):
    """Forwards HTTP/1.1 requests to a server, but for the faults that `next` orders.

    Attributes:
        port: Where it listens.
        seen: Every request: its name (the method, or the tool that it calls), its headers and its JSON.
        times: When each of them came.
        results: By name: changes the `result` of the server's answers, once each.
    """

    def __init__(self, upstream: int) -> None:
        super().__init__()
        self._upstream = upstream
        self._faults: dict[str, list[Fault]] = defaultdict(list)
        self.results: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.times: list[float] = []
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def next(self, name: str, *faults: Fault) -> None:
        """Order what happens to the next requests of that name."""
        self._faults[name] += faults

    def names(self) -> list[str]:
        return [name for name, _, _ in self.seen]

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See `Listener.converse`."""
        while await self._exchange(reader, writer):
            pass

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head, body = await _message(reader)
        name = self._record(head, body)
        fault = self._faults[name].pop(0) if self._faults[name] else Fault(forward=True)
        changed = self.results[name].pop(0) if self.results[name] and fault.answer is None else None
        ordered = fault is LOSE_ANSWER or fault is LOSE_REQUEST
        answer = await self._forward(head, body) if fault.forward else b""
        if ordered:
            return False
        if changed is not None:
            told: dict[str, Any] = json.loads(answer.split(b"\r\n\r\n", 1)[1])
            answer = http(json.dumps({**told, "result": changed}).encode())
        writer.write(answer if fault.answer is None else fault.answer)
        await writer.drain()
        return True

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream, limit=2**24)
        try:
            writer.write(head + body)
            return b"".join(await _message(reader))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _record(self, head: bytes, body: bytes) -> str:
        self.times.append(time.monotonic())
        message: dict[str, Any] = json.loads(body) if body else {}
        method = str(message.get("method"))
        name = message["params"]["name"] if method == "tools/call" else method
        lines = (line.partition(":") for line in head.decode().split("\r\n")[1:])
        self.seen.append((name, {key.lower(): value.strip() for key, _, value in lines}, message))
        return name


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return head, await reader.readexactly(int(length[1])) if length else b""
