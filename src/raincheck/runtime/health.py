"""Whether this process lives and whether it should get work, for load balancers, orchestrators and their probes.

`/healthz` is answered by a process whose event loop runs; `/readyz` says 503 with the reason while work should go
elsewhere. Anybody may ask: nothing of a task, a setting or an address is in the answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

from raincheck.runtime.listening import Acceptor, listen
from raincheck.runtime.service import Service

PATHS = ("/healthz", "/readyz")

_STORE_SECONDS = 2.0
_REQUEST_SECONDS = 5.0
_LONGEST_HEAD = 8192
_MOST_CONNECTIONS = 32
_PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class HealthAnswer(NamedTuple):
    """An HTTP status and a JSON document."""

    status: int
    body: bytes


class Health:
    """What is answered at `PATHS`.

    Attributes:
        service: Whose health it is; None while it starts.
    """

    def __init__(self, service: Service | None = None) -> None:
        self.service = service
        self._asking: asyncio.Task[str | None] | None = None

    async def answer(self, method: str, path: str) -> HealthAnswer:
        """The answer to a request."""
        if path not in PATHS:
            return _document(404, {"status": "not found", "paths": list(PATHS)})
        if method not in ("GET", "HEAD"):
            return _document(405, {"status": "method not allowed", "allowed": ["GET", "HEAD"]})
        if path == "/healthz":
            return _document(200, {"status": "ok"})
        reason = await self._reason()
        if reason is None:
            return _document(200, {"status": "ready", "reasons": []})
        return _document(503, {"status": "not ready", "reasons": [reason]})

    async def _reason(self) -> str | None:
        if self.service is None:
            return "this process is starting"
        # However many ask at once, the store is asked one question.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self.service.unready(_STORE_SECONDS))
        return await asyncio.shield(self._asking)


@asynccontextmanager
async def answering(health: Health, host: str, port: int) -> AsyncGenerator[int]:
    """Answer at `PATHS` over HTTP while the block runs, for a process that has no HTTP server; yields the port.

    Raises:
        OSError: The address cannot be listened on.
    """
    # In the order of their beginning.
    open_now: dict[asyncio.Task[None], None] = {}

    def connected(accepted: socket.socket, _host: str) -> None:
        if len(open_now) >= _MOST_CONNECTIONS:
            # A new request is answered at once: the oldest one only holds its place.
            oldest = next(iter(open_now))
            oldest.cancel()
            del open_now[oldest]
        exchange = asyncio.create_task(_connection(health, accepted))
        open_now[exchange] = None

        def over(ended: asyncio.Task[None]) -> None:
            open_now.pop(ended, None)
            accepted.close()  # One that was cancelled before it began has not.

        exchange.add_done_callback(over)

    with listen(host, port) as listener:
        acceptor = Acceptor(listener, connected)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            acceptor.stop()
            left = list(open_now)
            for exchange in left:
                exchange.cancel()
            await asyncio.gather(*left, return_exceptions=True)


async def _connection(health: Health, accepted: socket.socket) -> None:
    with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
        async with asyncio.timeout(_REQUEST_SECONDS):
            reader, writer = await asyncio.open_connection(sock=accepted, limit=_LONGEST_HEAD)
            try:
                await _exchange(health, reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()


async def _exchange(health: Health, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request and its answer, then the connection ends (RFC 9112, section 9.6)."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        head = b""
    method, target, version = (*head.split(b"\r\n", 1)[0].decode("latin-1").split(" "), "", "", "")[:3]
    if version.startswith("HTTP/1."):
        answer = await health.answer(method, target.partition("?")[0])
    else:
        answer = _document(400, {"status": "bad request"})
    lines = (
        f"HTTP/1.1 {answer.status} {_PHRASES[answer.status]}",
        "content-type: application/json",
        f"content-length: {len(answer.body)}",
        "cache-control: no-store",
        "connection: close",
    )
    writer.write("\r\n".join((*lines, "", "")).encode() + (b"" if method == "HEAD" else answer.body))
    await writer.drain()


def _document(status: int, content: dict[str, str | list[str]]) -> HealthAnswer:
    return HealthAnswer(status, json.dumps(content).encode())
