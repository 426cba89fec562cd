"""The streamable HTTP application of `raincheck serve`: one address, answered as each protocol version needs it.

A request of the present protocol is one exchange, and its answer plain JSON: streams would cost a tenth to nearly half
of the throughput (`subscriptions/listen` streams all the same). A client of an older protocol may be asked something
while its call is open, so its answers come on streams, and its sessions live in a session manager of their own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["http_app"]

_PRESENT = frozenset(version.encode() for version in MODERN_PROTOCOL_VERSIONS)


def http_app(server: MCPServer[Any], *, host: str, security: TransportSecuritySettings | None) -> ASGIApp:
    """The application that serves `server` at /mcp."""
    exchanges = server.streamable_http_app(host=host, json_response=True, transport_security=security)
    streams = server.streamable_http_app(host=host, transport_security=security)

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
        await (exchanges if version in _PRESENT else streams)(scope, receive, send)

    return app
