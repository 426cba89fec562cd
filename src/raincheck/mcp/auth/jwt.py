"""The JWTs of an issuer, as the SDK's token verifier."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import jwt
from mcp.server.auth.provider import AccessToken, TokenVerifier

from raincheck.config.sections.auth import AuthSettings
from raincheck.domain.redaction import REDACTED
from raincheck.mcp.auth.jwks import IssuerKeys

logger = logging.getLogger(__name__)

_LONGEST_TOKEN = 16 * 1024


class JwtTokens(TokenVerifier):
    """The JWTs of one issuer for one audience; the principal is issuer and subject, or the client without one.

    Args:
        settings: With an issuer and an audience.
        keys: The issuer's.
    """

    def __init__(self, settings: AuthSettings, keys: IssuerKeys) -> None:
        self._settings = settings
        self._keys = keys

    async def verify_token(self, token: str) -> AccessToken | None:
        """See `TokenVerifier`. Whatever is wrong with the token, or with the issuer, it is not taken."""
        try:
            return self._accepted(await self._claims(token))
        except jwt.PyJWTError as error:
            logger.info("refused a JWT: %s", type(error).__name__)
        except Exception as error:  # noqa: BLE001  the caller chose these bytes: refused, never a 500
            # No traceback: its last line may hold a part of the token.
            logger.error("refused a JWT that could not be read: %s", type(error).__name__)
        return None

    async def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > _LONGEST_TOKEN:
            raise jwt.DecodeError("too long")
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._settings.algorithms:
            raise jwt.InvalidAlgorithmError
        await self._keys.ready()
        claims = self._signed(token, kid, algorithm)
        # A wrong signature by the key that the token names is wrong for good; an unknown key may be a new one.
        if claims is None and not (kid and self._keys.matching(kid, algorithm)) and await self._keys.refresh():
            claims = self._signed(token, kid, algorithm)
        if claims is None:
            raise jwt.InvalidSignatureError
        return claims

    def _signed(self, token: str, kid: str | None, algorithm: str) -> dict[str, Any] | None:
        for key in self._keys.matching(kid, algorithm):
            try:
                return self._decoded(token, key, algorithm)
            except jwt.InvalidSignatureError:
                continue
        return None

    def _decoded(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._settings.audience,
            issuer=self._settings.issuer,
            leeway=self._settings.leeway_seconds,
            options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
        )

    def _accepted(self, claims: Mapping[str, Any]) -> AccessToken:
        subject = _text(claims, "sub")
        client = _text(claims, "client_id") or _text(claims, "azp") or subject
        if client is None:
            raise jwt.MissingRequiredClaimError("sub")
        return AccessToken(
            token=REDACTED,
            client_id=client,
            scopes=_scopes(claims),
            expires_at=int(claims["exp"] + self._settings.leeway_seconds),
            subject=subject,
            claims={**claims, "iss": self._settings.issuer},
        )


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    return value if isinstance(value, str) and value else None


def _scopes(claims: Mapping[str, Any]) -> list[str]:
    found: Any = claims.get("scope", claims.get("scp", ""))
    return [str(each) for each in found] if isinstance(found, list) else str(found).split()  # pyright: ignore
