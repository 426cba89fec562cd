"""`[server.auth]`: who may call over HTTP. No value of this table is ever repeated in a message."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator, model_validator

from raincheck.config.section import Section
from raincheck.errors import ConfigurationError

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Asymmetric signatures only: a server that can check a token must not be able to make one."""

_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_HASH = re.compile(r"sha256:[0-9A-Fa-f]{64}")
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_TOKEN = re.compile(r"[\x21-\x7e]{16,4096}")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


class AuthSettings(Section):
    """`[server.auth]`: the tokens that are taken, and the issuer whose JWTs are."""

    tokens: Mapping[str, str] = Field(
        default_factory=dict[str, str],
        repr=False,
        description="Bearer tokens, by the name of the caller: each `sha256:…`, the token's hash as "
        "`raincheck check --hash-token` prints it, or `${NAME}`, the environment variable that holds the token. "
        "Never the token itself.",
    )
    issuer: str | None = Field(
        default=None, description="The issuer whose JWTs are taken, exactly as in their `iss`; https, but on loopback."
    )
    audience: str | None = Field(
        default=None, min_length=1, description="What a JWT must name in its `aud`; required with `issuer`."
    )
    jwks_url: str | None = Field(
        default=None, description="Where the issuer's keys are; unset: where the issuer's metadata says."
    )
    algorithms: Annotated[tuple[Algorithm, ...], Field(strict=False)] = Field(
        default=("RS256", "PS256", "ES256", "EdDSA"), min_length=1, description="The signatures that a JWT may have."
    )
    required_scopes: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="What a JWT must name in its `scope` or `scp`, all of them; else 403."
    )
    leeway_seconds: float = Field(
        default=30, ge=0, le=300, description="How far the issuer's clock and this one may be apart."
    )
    resource_url: str | None = Field(
        default=None,
        description="The server's address as its clients know it, for the OAuth metadata; unset: `audience` where "
        "that is an address, else the one that the server listens on.",
    )

    def token_digests(self, environ: Mapping[str, str]) -> Mapping[str, bytes]:
        """The SHA-256 of each caller's token, by the caller's name.

        Raises:
            ConfigurationError: A variable is missing or holds no usable token, or two callers have the same one.
        """
        digests: dict[str, bytes] = {}
        for name, text in self.tokens.items():
            try:
                hashed = hash_token(_from_environment(text[2:-1], environ)) if text.startswith("$") else text
            except ValueError as error:
                raise ConfigurationError(f"{name}: {error}") from None
            digest = bytes.fromhex(hashed.removeprefix("sha256:"))
            if digest in digests.values():
                raise ConfigurationError(f"{name}: another caller has the same token; give each one its own")
            digests[name] = digest
        return digests

    @field_validator("tokens", mode="after")
    @classmethod
    def _no_plain_token(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name, text in value.items():
            if not _NAME.fullmatch(name):
                raise ValueError("a caller's name has 1 to 64 of the characters A-Z a-z 0-9 _ . @ -")
            if not _HASH.fullmatch(text) and not _REFERENCE.fullmatch(text):
                raise ValueError(
                    f"{name} must be sha256:… (64 hex digits) or ${{NAME}}; hash a token with "
                    "`raincheck check --hash-token` and keep the token itself out of the file"
                )
        return value

    @field_validator("issuer", "jwks_url", mode="after")
    @classmethod
    def _is_trusted_address(cls, value: str | None) -> str | None:
        return None if value is None else trusted_address(value)

    @field_validator("resource_url", mode="after")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None:
            _address(value)
        return value

    @field_validator("required_scopes", mode="after")
    @classmethod
    def _are_scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_SCOPE.fullmatch(each) for each in value):
            raise ValueError("each is one OAuth scope, without a space or a quote")
        return value

    @model_validator(mode="after")
    def _somebody_may_call(self) -> AuthSettings:
        if self.issuer is None:
            given = {"audience", "jwks_url", "algorithms", "required_scopes"} & self.model_fields_set
            if given:
                raise ValueError(f"{min(given)!r} is for JWTs, and 'issuer' is missing")
            if not self.tokens:
                raise ValueError("nobody could call: neither 'tokens' nor 'issuer' is set")
        elif self.audience is None:
            raise ValueError("JWTs meant for other services would be taken: 'audience' is missing beside 'issuer'")
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that host, as far as its name says."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def trusted_address(value: str) -> str:
    """The address, if what comes from there can be believed.

    Raises:
        ValueError: It is not https, and not on loopback either.
    """
    parts = _address(value)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("it must begin with https:// (http:// is for loopback only)")
    return value


def hash_token(token: str) -> str:
    """`sha256:…`, as the file holds it.

    Raises:
        ValueError: No such token can be sent, or it is too short to be a secret.
    """
    if not _TOKEN.fullmatch(token):
        raise ValueError("a token has 16 to 4096 visible ASCII characters, without spaces; better 32 or more, random")
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def _from_environment(variable: str, environ: Mapping[str, str]) -> str:
    token = environ.get(variable, "").strip()
    if not token:
        raise ValueError(f"there is no environment variable {variable}")
    return token


def _address(value: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or not value.isprintable() or " " in value:
        raise ValueError("it must be an address that starts with https://")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("it must hold no user, no password and no #fragment")
    return parts
