"""The HTTP application of `raincheck serve`: one address, answered as each protocol version needs it.

A request of the present protocol is one exchange, and its answer plain JSON: streams would cost a tenth to nearly half
of the throughput. Where a call carries a `progressToken` its answer becomes a stream with the first progress that there
is to tell, and `subscriptions/listen` always is one. A client of an older protocol may be asked something while its
call is open, so its answers come on streams, and its sessions live in a session manager of their own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import (
    DEFAULT_MAX_REQUEST_BODY_SIZE,
    RequestBodyLimitMiddleware,
    TransportSecuritySettings,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raincheck.mcp.server.disconnects import ending_with_its_caller, noting_hang_ups
from raincheck.mcp.server.plain_responses import refuse
from raincheck.runtime.health import PATHS, Health

MCP_PATH = "/mcp"

UNCHECKED = TransportSecuritySettings(enable_dns_rebinding_protection=False)
"""`Host` and `Origin` are looked at before, for every path (`checked_heads`)."""

_PROGRESS_TOKEN = b'"progressToken"'
_LARGEST_BODY = DEFAULT_MAX_REQUEST_BODY_SIZE

_PRESENT = frozenset(version.encode() for version in MODERN_PROTOCOL_VERSIONS)


def http_app(server: MCPServer[Any], *, host: str) -> ASGIApp:
    """The application that serves `server` at /mcp, under whatever name it is called."""
    exchanges = server.streamable_http_app(host=host, json_response=True, transport_security=UNCHECKED)
    one_exchange = server.session_manager
    streams = server.streamable_http_app(host=host, transport_security=UNCHECKED)
    sessions = server.session_manager
    # Beneath the check of the bearer, which the SDK puts around its manager: before that no body is read. It takes the
    # place of the SDK's own reader.
    one_exchange.asgi_app = _ByProtocol(exchange=one_exchange.asgi_app.app, stream=sessions.asgi_app.app)
    exchanges.router.redirect_slashes = False

    @asynccontextmanager
    async def both(app: Starlette) -> AsyncGenerator[None]:
        async with exchanges.router.lifespan_context(exchanges), streams.router.lifespan_context(streams):
            yield

    living = Starlette(lifespan=both)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (living if scope["type"] == "lifespan" else exchanges)(scope, receive, send)

    return app


class _ByProtocol(RequestBodyLimitMiddleware):
    """Reads a request's body, and has it answered by one exchange or on streams."""

    def __init__(self, *, exchange: ASGIApp, stream: ASGIApp) -> None:
        super().__init__(exchange, _LARGEST_BODY)
        self._answered = ending_with_its_caller(exchange)
        self._streamed = noting_hang_ups(stream)
        self._sessions = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _too_large(scope):
            await refuse(send, 413, f"the body is larger than {_LARGEST_BODY} bytes")
            return
        body = await _whole(receive)
        if body is None:
            await refuse(send, 413, f"the body is larger than {_LARGEST_BODY} bytes")
            return
        version = next((value for name, value in scope["headers"] if name == b"mcp-protocol-version"), None)
        if version not in _PRESENT:
            chosen = self._sessions
        elif _PROGRESS_TOKEN in body and _takes_streams(scope):
            chosen = self._streamed
        else:
            chosen = self._answered
        await chosen(scope, _again(body, receive), send)


def _too_large(scope: Scope) -> bool:
    announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return announced.isdigit() and int(announced) > _LARGEST_BODY


async def _whole(receive: Receive) -> bytes | None:
    """The request's body; None where it is too large.

    Raises:
        ClientDisconnect: It never came as a whole.
    """
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        return message.get("body", b"")
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > _LARGEST_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)
        message = await receive()
    raise ClientDisconnect


def _takes_streams(scope: Scope) -> bool:
    return any(name == b"accept" and b"text/event-stream" in value for name, value in scope["headers"])


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` with the body, already taken, in front."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def with_health(app: ASGIApp, health: Health) -> ASGIApp:
    """The application, and beside it the paths of `raincheck.runtime.health`: for any client, under whatever host
    name."""

    async def whole(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await app(scope, receive, send)
            return
        answer = await health.answer(scope["method"], scope["path"])
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer.body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    return whole
