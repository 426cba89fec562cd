"""The scope and the caller of a request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken, principal_components
from mcp.server.context import ServerRequestContext
from pydantic_core import to_jsonable_python

from raincheck.domain.caller import ANONYMOUS, LOCAL, Caller, Credentials
from raincheck.domain.task import PRINCIPAL
from raincheck.mcp.auth.verifiers import REDACTED
from raincheck.mcp.wire.clients import client_of

_LONGEST = 512


def scope_of(ctx: ServerRequestContext[Any, Any]) -> str:
    """The authenticated principal, the local user, or `ANONYMOUS`."""
    return scope_of_request(ctx.request)


def scope_of_request(request: Any) -> str:
    """The same, of an HTTP request that went through the authentication; None stands for none."""
    token = _token_of(request)
    if token is not None:
        return scope_of_token(token)
    return LOCAL if request is None else ANONYMOUS


def caller_of(ctx: ServerRequestContext[Any, Any]) -> Caller:
    """Who calls, with all that the request says of it: what an operation is given of that is its policy's."""
    token, request = _token_of(ctx.request), ctx.request
    headers: dict[str, str] = {} if request is None else dict(getattr(request, "headers", None) or {})
    scope, name = scope_of_request(request), client_of(ctx).name
    if token is None:
        held = Credentials(headers=headers) if headers else None
        return Caller(scope=scope, client_name=name, credentials=held)
    client_id, issuer, subject = principal_components(token)
    claims: dict[str, Any] = to_jsonable_python(token.claims or {}, fallback=str)
    return Caller(
        scope=scope,
        subject=subject,
        issuer=issuer,
        client_id=client_id,
        granted_scopes=tuple(token.scopes),
        claims=claims,
        client_name=name,
        credentials=Credentials(
            token=_bearer(headers) if token.token == REDACTED else token.token,
            expires_at=token.expires_at,
            resource=token.resource,
            claims=claims,
            headers=headers,
        ),
    )


def _bearer(headers: Mapping[str, str]) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def scope_of_token(token: AccessToken) -> str:
    """The scope of a principal: issuer and subject, or issuer and client where no subject is known.

    Two principals never share one: each part is named and percent-encoded, so that no text in a part can look like
    another part, and a long one is hashed whole. `raincheck tasks list --scope` takes it as it is.
    """
    client_id, issuer, subject = principal_components(token)
    parts = [("iss", issuer), ("sub", subject) if subject else ("client", client_id)]
    encoded = [f"{name}={quote(text, safe='', errors='surrogatepass')}" for name, text in parts if text is not None]
    plain = "|".join(encoded)
    if len(plain) > _LONGEST:
        plain = f"sha256={hashlib.sha256(plain.encode()).hexdigest()}"
    return f"{PRINCIPAL}{plain}"


def _token_of(request: Any) -> AccessToken | None:
    scope: Any = getattr(request, "scope", None)
    if isinstance(scope, dict) and "user" in scope:
        # What this very message was sent with; a context variable may be that of the connection's first one.
        user: Any = scope["user"]  # pyright: ignore[reportUnknownVariableType]
        return user.access_token if isinstance(user, AuthenticatedUser) else None
    return get_access_token()
