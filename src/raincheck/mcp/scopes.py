"""Whose call it is: the scope of a request."""

from __future__ import annotations

from typing import Any

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.context import ServerRequestContext

__all__ = ["ANONYMOUS", "LOCAL", "scope_of"]

LOCAL = "local"
"""The local user: stdio, and clients in the same process."""

ANONYMOUS = "anonymous"
"""Everybody who calls over HTTP without authentication: one scope for all of them."""


def scope_of(ctx: ServerRequestContext[Any, Any]) -> str:
    """The authenticated principal (issuer and subject, or the client id), the local user, or `ANONYMOUS`."""
    if (token := get_access_token()) is not None:
        claims: dict[str, Any] = getattr(token, "claims", None) or {}
        subject = getattr(token, "subject", None) or token.client_id
        return f"principal:{claims.get('iss', '')}|{subject}"
    return LOCAL if ctx.request is None else ANONYMOUS
