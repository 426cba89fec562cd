"""The caller's token where tools look for it: the SDK's `get_access_token()`, and FastMCP's, which asks that one."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken

from raincheck.domain.caller import Caller


@contextmanager
def restored_caller(caller: Caller) -> Generator[None]:
    """While the block runs, the token that the caller's operation asks for; none where it asks for none.

    A task may start in the context of the call that made it, of another one, or of none: so what is there counts for
    nothing.
    """
    before = auth_context_var.set(_user(caller))
    try:
        yield
    finally:
        auth_context_var.reset(before)


def _user(caller: Caller) -> AuthenticatedUser | None:
    held, token = caller.credentials, caller.token
    if held is None or token is None:
        return None
    return AuthenticatedUser(
        AccessToken(
            token=token,
            client_id=caller.client_id or "",
            scopes=list(caller.granted_scopes),
            expires_at=None if held.expires_at is None else int(held.expires_at),
            resource=held.resource,
            subject=caller.subject,
            claims=dict(held.claims),
        )
    )
