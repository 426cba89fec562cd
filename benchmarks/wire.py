"""A raw MCP client over HTTP/1.1 with keep-alive: a general HTTP library costs more per call than the servers do.

Requests are those of protocol 2026-07-28: one self-contained POST each, no session.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Call", "CallFailed", "Connection", "envelope", "http_request"]

PROTOCOL = "2026-07-28"
TASKS = "io.modelcontextprotocol/tasks"


class CallFailed(Exception):
    """The server answered with an HTTP status other than 200, or with a JSON-RPC error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One MCP request: its method, the name that the headers repeat, and its params without the envelope."""

    method: str
    name: str | None = None
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    declares_tasks: bool = False


def envelope(call: Call, request_id: int = 1) -> dict[str, Any]:
    """The JSON-RPC request, with the `_meta` that protocol 2026-07-28 asks of every request."""
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": PROTOCOL,
        "io.modelcontextprotocol/clientInfo": {"name": "benchmarks", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}} if call.declares_tasks else {},
    }
    return {"jsonrpc": "2.0", "id": request_id, "method": call.method, "params": {**call.params, "_meta": meta}}


def http_request(call: Call, port: int, token: str | None = None) -> bytes:
    """The whole request, with the bearer's token where there is one."""
    body = json.dumps(envelope(call), separators=(",", ":")).encode()
    name = f"mcp-name: {call.name}\r\n" if call.name else ""
    bearer = f"authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"accept: application/json, text/event-stream\r\nmcp-protocol-version: {PROTOCOL}\r\n"
        f"mcp-method: {call.method}\r\n{name}{bearer}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _unchunk(data: bytearray, start: int) -> bytes | None:
    """The whole body of a chunked response, or None while some of it is missing."""
    parts: list[bytes] = []
    while (end := data.find(b"\r\n", start)) >= 0:
        size = int(data[start:end].split(b";")[0], 16)
        if len(data) < end + 2 + size + 2:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(bytes(data[end + 2 : end + 2 + size]))
        start = end + 2 + size + 2
    return None


class _Exchange(asyncio.Protocol):
    def __init__(self) -> None:
        self.buffer = bytearray()
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        headers = bytes(self.buffer[:head]).lower()
        at = headers.find(b"content-length:")
        if at >= 0:
            stop = headers.find(b"\r\n", at)
            length = int(headers[at + 15 : stop if stop >= 0 else None])
            body = bytes(self.buffer[head + 4 :]) if len(self.buffer) >= head + 4 + length else None
        else:
            body = _unchunk(self.buffer, head + 4)
        if body is None:
            return
        self.buffer.clear()
        if self.answer is not None and not self.answer.done():
            self.answer.set_result((int(headers[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionResetError("the server closed the connection"))
        self.answer = None


class Connection:
    """One keep-alive connection; one request at a time."""

    def __init__(self, port: int, transport: asyncio.Transport, exchange: _Exchange, token: str | None = None) -> None:
        self._port = port
        self._token = token
        self._transport = transport
        self._exchange = exchange
        self._prepared: dict[int, tuple[Call, bytes]] = {}

    @classmethod
    async def open(cls, port: int, token: str | None = None) -> Connection:
        """Connect to a server on the loopback, as the bearer of that token.

        Raises:
            OSError: Nobody listens there.
        """
        transport, exchange = await asyncio.get_running_loop().create_connection(_Exchange, "127.0.0.1", port)
        return cls(port, transport, exchange, token)

    async def call(self, call: Call) -> dict[str, Any]:
        """Send one request and wait for its result. A `Call` object that is used again is serialised once.

        Raises:
            CallFailed: Any other answer than a JSON-RPC result.
            ConnectionResetError: The server went away.
        """
        prepared = self._prepared.get(id(call))
        if prepared is None or prepared[0] is not call:
            self._prepared.clear()
            prepared = self._prepared[id(call)] = (call, http_request(call, self._port, self._token))
        if self._transport.is_closing():
            raise ConnectionResetError("the server closed the connection")
        answer = self._exchange.answer = asyncio.get_running_loop().create_future()
        self._transport.write(prepared[1])
        status, body = await answer
        if body.startswith((b"event:", b"id:", b"data:", b":")):
            body = next(line[5:] for line in reversed(body.splitlines()) if line.startswith(b"data:"))
        if status != 200:
            raise CallFailed(f"HTTP {status}: {body[:300]!r}")
        message = json.loads(body)
        if "result" not in message:
            raise CallFailed(json.dumps(message.get("error", message))[:300])
        return message["result"]

    def close(self) -> None:
        self._transport.close()
