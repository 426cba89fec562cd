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
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raincheck.health import PATHS, Health
from raincheck.mcp.hang_up import ending_with_its_caller, noting_hang_ups

__all__ = ["http_app", "with_health"]

_PROGRESS_TOKEN = b'"progressToken"'
_LARGEST_BODY = 65536
"""Of a call that hears of progress: what arrives in one piece."""

_PRESENT = frozenset(version.encode() for version in MODERN_PROTOCOL_VERSIONS)


def http_app(server: MCPServer[Any], *, host: str, security: TransportSecuritySettings | None) -> ASGIApp:
    """The application that serves `server` at /mcp."""
    exchanges = server.streamable_http_app(host=host, json_response=True, transport_security=security)
    answered = ending_with_its_caller(exchanges)
    streams = server.streamable_http_app(host=host, transport_security=security)
    streamed = noting_hang_ups(streams)

    @asynccontextmanager
    async def both(app: Starlette) -> AsyncGenerator[None]:
        async with exchanges.router.lifespan_context(exchanges), streams.router.lifespan_context(streams):
            yield

    living = Starlette(lifespan=both)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await living(scope, receive, send)
            return
        version = next((value for name, value in scope["headers"] if name == b"mcp-protocol-version"), None)
        if version not in _PRESENT:
            await streams(scope, receive, send)
            return
        if not _may_hear_of_progress(scope):
            await answered(scope, receive, send)
            return
        first = await receive()
        wants_progress = _PROGRESS_TOKEN in first.get("body", b"")
        await (streamed if wants_progress else answered)(scope, _again(first, receive), send)

    return app


def _may_hear_of_progress(scope: Scope) -> bool:
    """Whether its headers let a request's answer be a stream.

    One whose body is announced as large is not waited for here: it may have to be refused before it is sent.
    """
    streams, small = False, True
    for name, value in scope["headers"]:
        streams = streams or (name == b"accept" and b"text/event-stream" in value)
        if name == b"content-length":
            small = value.isdigit() and len(value) < 10 and int(value) <= _LARGEST_BODY
    return streams and small


def _again(first: Message, receive: Receive) -> Receive:
    """`receive` with that message, already taken, in front."""
    waiting = [first]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def with_health(app: ASGIApp, health: Health) -> ASGIApp:
    """The application, and beside it the paths of `raincheck.health`: for whoever asks, under whatever host name."""

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
