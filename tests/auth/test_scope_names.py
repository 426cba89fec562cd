"""A scope's name tells principals apart, whatever stands in their parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.authentication import UnauthenticatedUser

from raincheck.mcp.auth.scopes import ANONYMOUS, LOCAL, scope_of, scope_of_token

# The characters that a name is made of come often, so that two of them come close to each other.
_PART = st.text(st.sampled_from("|=%:/ab*\ud800é") | st.characters(), max_size=12)
_LONG = st.sampled_from(["x" * 600, "x" * 601])
_Principal = tuple[str | None, str | None, str]
_PRINCIPAL = st.tuples(st.none() | _PART, st.none() | _PART | _LONG, _PART)


def token(issuer: str | None, subject: str | None, client: str) -> AccessToken:
    return AccessToken.model_construct(
        token="t",
        client_id=client,
        scopes=[],
        subject=subject,
        claims=None if issuer is None else {"iss": issuer},
        expires_at=None,
        resource=None,
    )


def identity(principal: _Principal) -> tuple[object, ...]:
    issuer, subject, client = principal
    return (issuer, "subject", subject) if subject else (issuer, "client", client)


@given(_PRINCIPAL, _PRINCIPAL)
def test_two_principals_never_share_a_scope(one: _Principal, other: _Principal) -> None:
    assume(identity(one) != identity(other))
    assert scope_of_token(token(*one)) != scope_of_token(token(*other))


@given(_PRINCIPAL)
def test_a_scope_is_short_plain_text_and_never_one_that_means_something_else(principal: _Principal) -> None:
    scope = scope_of_token(token(*principal))
    assert scope not in (LOCAL, ANONYMOUS)
    assert len(scope) < 600
    assert scope.isascii()
    assert scope.isprintable()


def test_one_user_has_one_scope_through_two_clients_of_an_issuer() -> None:
    assert scope_of_token(token("https://i", "ada", "web")) == scope_of_token(token("https://i", "ada", "cli"))
    assert scope_of_token(token("https://i", "ada", "web")) == "principal:iss=https%3A%2F%2Fi|sub=ada"
    assert scope_of_token(token(None, None, "web")) == "principal:client=web"


def test_the_scope_is_that_of_the_message_not_of_what_opened_the_connection() -> None:
    def scope(**request: Any) -> str:
        return scope_of(SimpleNamespace(request=SimpleNamespace(scope=request)))  # pyright: ignore[reportArgumentType]

    opened = auth_context_var.set(AuthenticatedUser(token(None, None, "ada")))
    try:
        assert scope(user=AuthenticatedUser(token(None, None, "bob"))) == "principal:client=bob"
        assert scope(user=UnauthenticatedUser()) == ANONYMOUS
        assert scope() == "principal:client=ada"
    finally:
        auth_context_var.reset(opened)
    assert scope() == ANONYMOUS
    assert scope_of(SimpleNamespace(request=None)) == LOCAL  # pyright: ignore[reportArgumentType]
