"""Which client a request comes from, and whether it gave up on it."""

from __future__ import annotations

from typing import Any

from mcp.server.context import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from raincheck.mcp.server.disconnects import hung_up
from raincheck.polling.known_clients import Client

_LONGEST = 100


def client_of(ctx: ServerRequestContext[Any, Any]) -> Client:
    """The client, as it names itself: untrusted, and cut to a bounded length."""
    params = ctx.session.client_params
    info = None if params is None else params.client_info
    modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
    over_http = ctx.request is not None
    return Client(
        name="" if info is None else info.name[:_LONGEST],
        version="" if info is None else info.version[:_LONGEST],
        transport="http" if over_http else "stdio",
        modern=modern,
        wants_progress=(ctx.meta or {}).get("progress_token") is not None,
        session=_session_of(ctx, modern=modern),
    )


def _session_of(ctx: ServerRequestContext[Any, Any], *, modern: bool) -> object | None:
    """What all requests of one connection share. The SDK has no public name for it."""
    connection: Any = getattr(ctx.session, "_connection", None)
    if ctx.request is not None:
        return None if modern else connection
    # On a pipe, the SDK makes a connection for each request of the present protocol; they share the channel back.
    return getattr(connection, "outbound", None)


def gave_up(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether a request that is being cancelled was given up by its client, not by the end of its connection or server.

    Over HTTP the present protocol cancels by hanging up; elsewhere `notifications/cancelled` does.
    """
    if ctx.request is not None and ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return hung_up(ctx.request)
    outbound: Any = getattr(ctx.session, "_request_outbound", None)
    cancelled = getattr(outbound, "cancel_requested", None)
    return cancelled is not None and bool(cancelled.is_set())
