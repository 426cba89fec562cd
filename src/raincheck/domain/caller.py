"""The caller of a task: its identity, and its credentials where the operation asks for them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

LOCAL: Final = "local"
"""The scope of the local user: stdio, and clients in the same process."""

ANONYMOUS: Final = "anonymous"
"""The scope of all callers over HTTP without authentication."""

_SHORTEST = 4
# The header that a token comes in.
_BEARS = "authorization"


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """What a caller was let in with; never shown, and stored sealed only.

    Attributes:
        token: Its access token.
        expires_at: When the token expires, in seconds since 1970; None: not known.
        resource: The resource indicator of the token (RFC 8707).
        claims: All claims of the token.
        headers: Headers of its HTTP request, by their names in lower case.
    """

    token: str | None = None
    expires_at: float | None = None
    resource: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict[str, Any])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def __repr__(self) -> str:
        return "Credentials(...)"

    @property
    def expired(self) -> bool:
        """Whether the token is not good any more."""
        return self.expires_at is not None and self.expires_at <= time.time()

    @property
    def texts(self) -> frozenset[str]:
        """What no message and no log line may repeat."""
        found = [self.token or "", *self.headers.values()]
        # "Bearer TOKEN": its second half alone too.
        found += [text.partition(" ")[2] for text in self.headers.values()]
        return frozenset(text for text in found if len(text) >= _SHORTEST)


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who called an operation, as far as its server knows.

    Attributes:
        scope: Whose task it is; two callers that can be told apart never share one.
        subject, issuer, client_id: Of the access token: who it stands for, who made it, which OAuth client asked for
            it. None where the token does not say, or there is none.
        granted_scopes: The OAuth scopes of the token.
        claims: The claims that the operation's `caller_claims` names, as far as the token has them.
        client_name: The MCP client's name, as it says itself: good for a log, no proof of anything.
        credentials: None unless the operation asks (`caller_token`, `forward_headers`).
    """

    scope: str
    subject: str | None = None
    issuer: str | None = None
    client_id: str | None = None
    granted_scopes: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict[str, Any])
    client_name: str = ""
    credentials: Credentials | None = field(default=None, repr=False)

    @property
    def token(self) -> str | None:
        """The access token it called with: None where the operation does not ask for it (`caller_token = true`), where
        there was none, and once it has expired."""
        held = self.credentials
        return None if held is None or held.expired else held.token

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of its request that the operation's `forward_headers` names, by their names in lower case; none
        with the token once that has expired."""
        held = self.credentials
        if held is None:
            return {}
        return {name: value for name, value in held.headers.items() if name != _BEARS or not held.expired}

    @property
    def expired(self) -> bool:
        """Whether the operation was given the token, itself or in a header, and it is not good any more."""
        held = self.credentials
        return held is not None and held.expired and (held.token is not None or _BEARS in held.headers)

    @property
    def secret_texts(self) -> frozenset[str]:
        """What no message and no log line may repeat."""
        return frozenset[str]() if self.credentials is None else self.credentials.texts

    def kept(self, *, claims: Collection[str], token: bool, headers: Collection[str]) -> Caller:
        """What of it an operation gets that asks for these: every other claim, token and header is left out."""
        held = self.credentials
        if held is not None:
            asked = {name.lower() for name in headers}
            passed = {name: value for name, value in held.headers.items() if name in asked}
            until = held.expires_at if _BEARS in passed else None
            whole = token and held.token
            held = replace(held, headers=passed) if whole else Credentials(expires_at=until, headers=passed)
            held = held if held.token or held.headers else None
        chosen = {name: value for name, value in self.claims.items() if name in claims}
        return replace(self, claims=chosen, credentials=held)

    def public(self) -> dict[str, Any]:
        """The members that an operator may see; empty ones are left out."""
        members: dict[str, Any] = {
            "subject": self.subject,
            "issuer": self.issuer,
            "client_id": self.client_id,
            "granted_scopes": list(self.granted_scopes),
            "claims": dict(self.claims),
            "client_name": self.client_name,
        }
        return {name: value for name, value in members.items() if value}

    def whole(self) -> dict[str, Any]:
        """All of it but its scope, as a JSON object: for a store that seals, and for a process of our own."""
        held = self.credentials
        if held is None:
            return self.public()
        members = {
            "token": held.token,
            "expires_at": held.expires_at,
            "resource": held.resource,
            "claims": dict(held.claims),
            "headers": dict(held.headers),
        }
        return {**self.public(), "credentials": {name: value for name, value in members.items() if value}}

    @classmethod
    def of(cls, scope: str, whole: Mapping[str, Any]) -> Caller:
        """What `whole` gave, again."""
        members = dict(whole)
        held = members.pop("credentials", None)
        members["granted_scopes"] = tuple(members.get("granted_scopes", ()))
        return cls(scope=scope, credentials=None if held is None else Credentials(**held), **members)
