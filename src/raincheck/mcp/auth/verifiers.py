"""Token verifiers: the static tokens of the settings and the JWTs of an issuer, for the SDK.

A token is looked at and forgotten: what is handed on, and what is logged, holds none of it but its claims.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.auth.settings import AuthSettings as SdkAuthSettings

from raincheck.config.sections.auth import AuthSettings, is_loopback
from raincheck.config.settings import Settings
from raincheck.domain.redaction import REDACTED
from raincheck.errors import ConfigurationError

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104


class NamedTokens(TokenVerifier):
    """The tokens of the settings; the principal is the name that a token has there.

    Args:
        digests: The SHA-256 of each token, by name.
        scopes: The OAuth scopes that their bearers have.
    """

    def __init__(self, digests: Mapping[str, bytes], scopes: Sequence[str] = ()) -> None:
        self._digests = dict(digests)
        self._scopes = list(scopes)

    async def verify_token(self, token: str) -> AccessToken | None:
        """See `TokenVerifier`. Takes the same time whichever token it is, or none."""
        given = hashlib.sha256(token.encode()).digest()
        found = None
        for name, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return None if found is None else AccessToken(token=REDACTED, client_id=found, scopes=self._scopes)


class _AnyOf(TokenVerifier):
    def __init__(self, *verifiers: TokenVerifier) -> None:
        self._verifiers = verifiers

    async def verify_token(self, token: str) -> AccessToken | None:
        for verifier in self._verifiers:
            if (found := await verifier.verify_token(token)) is not None:
                return found
        return None


def make_verifier(settings: Settings, environ: Mapping[str, str]) -> TokenVerifier | None:
    """What checks the callers' tokens; None on stdio, and where anybody may call.

    Raises:
        ConfigurationError: A token is missing, or other machines could call and nothing says that they may.
    """
    server, auth = settings.server, settings.server.auth
    if server.transport == "stdio":
        return None
    if auth is None:
        if not is_loopback(server.host) and not server.allow_anonymous:
            raise ConfigurationError(
                f"whoever reaches {server.host} could call every operation: add the table [server.auth] to "
                f"{settings.source}, or allow it with --allow-anonymous (allow_anonymous = true in [server])"
            )
        return None
    try:
        digests = auth.token_digests(environ)
    except ConfigurationError as error:
        raise ConfigurationError(f"'tokens' in [server.auth] of {settings.source}: {error.message}") from None
    if auth.issuer and _resource(auth) is None and server.host in _EVERYWHERE:
        raise ConfigurationError(
            f"missing key 'resource_url' in [server.auth] of {settings.source}: the address that clients use is not "
            f"{server.host}"
        )
    named = NamedTokens(digests, auth.required_scopes)
    if auth.issuer is None:
        return named
    from raincheck.mcp.auth.jwks import IssuerKeys
    from raincheck.mcp.auth.jwt import JwtTokens

    jwts = JwtTokens(auth, IssuerKeys(auth.issuer, auth.jwks_url))
    return _AnyOf(named, jwts) if digests else jwts


def sdk_settings(auth: AuthSettings, address: str) -> SdkAuthSettings:
    """The SDK's settings: what it tells callers without a token, and the scopes it asks for.

    Args:
        auth: Ours.
        address: Where the server listens.
    """
    resource = _resource(auth) or address
    # As texts: a URL made before would get a slash at its end, and clients compare letter by letter.
    return SdkAuthSettings.model_validate(
        {
            # Without an issuer there is no metadata, and this is not announced.
            "issuer_url": auth.issuer or resource,
            "resource_server_url": resource if auth.issuer else None,
            "required_scopes": list(auth.required_scopes),
            "validate_token_resource": False,  # `aud` is checked here.
        }
    )


def _resource(auth: AuthSettings) -> str | None:
    if auth.resource_url is not None:
        return auth.resource_url
    audience = auth.audience or ""
    return audience if audience.startswith(("https://", "http://")) else None
