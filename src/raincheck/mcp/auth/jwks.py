"""The public keys of an issuer: fetched when first needed, kept, and fetched again when they are old or unknown."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import jwt

from raincheck.config.sections.auth import trusted_address
from raincheck.egress.client import EgressClient, trusted_certificates
from raincheck.egress.errors import AnswerTooLarge, OutgoingError, RequestFailed
from raincheck.operations.untrusted_json import NotJson, read_json

logger = logging.getLogger(__name__)

Fetch = Callable[[str], Awaitable[Any]]

_FETCH_SECONDS = 5.0
_LARGEST_ANSWER = 1024 * 1024
_MOST_KEYS = 100
_MOST_TRIED = 8


class IssuerKeys:
    """Finds the keys that may have signed a token.

    At most one request is under way, and after each one there is a pause, whatever tokens come in. While the issuer is
    unreachable, the keys that are known go on being used, but not for ever.

    Args:
        issuer: Its identifier.
        jwks_url: Where its keys are; None to ask its metadata (RFC 8414, or OpenID Connect Discovery).
        fetch: Gets a JSON document.
        clock: A monotonic clock.
        fresh_seconds: After that, keys are fetched again, while they are still used.
        stale_seconds: After that, they are used no more.
        pause_seconds: Between the end of one request and the next one.
    """

    def __init__(
        self,
        issuer: str,
        jwks_url: str | None,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
        fresh_seconds: float = 600.0,
        stale_seconds: float = 86400.0,
        pause_seconds: float = 5.0,
    ) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._fetch = fetch or fetch_json
        self._clock = clock
        self._fresh_seconds = fresh_seconds
        self._stale_seconds = stale_seconds
        self._pause_seconds = pause_seconds
        self._keys: list[Mapping[str, Any]] = []
        self._built: dict[tuple[int, str], jwt.PyJWK | None] = {}
        self._loaded_at: float | None = None
        self._tried_at: float | None = None
        self._loading: asyncio.Task[bool] | None = None

    async def ready(self) -> None:
        """Wait for keys where there are none that may be used; start to renew those that are old."""
        age = None if self._loaded_at is None else self._clock() - self._loaded_at
        if age is None or age > self._stale_seconds:
            self._keys, self._built = [], {}
            await self.refresh()
        elif age > self._fresh_seconds:
            self._start()

    def matching(self, kid: str | None, algorithm: str) -> list[jwt.PyJWK]:
        """The keys of that id that can make such a signature; every such key where the token names none."""
        found: list[jwt.PyJWK] = []
        for index, key in enumerate(self._keys):
            if kid is not None and key.get("kid") != kid:
                continue
            if (built := self._build(index, algorithm)) is not None:
                found.append(built)
        return found[:_MOST_TRIED]

    async def refresh(self) -> bool:
        """Fetch the keys now, unless that was tried a moment ago; whether they were fetched."""
        loading = self._start()
        # Shielded: others wait for it too, and one caller that hangs up must not end it.
        return False if loading is None else await asyncio.shield(loading)

    def _start(self) -> asyncio.Task[bool] | None:
        if self._loading is not None and not self._loading.done():
            return self._loading
        if self._tried_at is not None and self._clock() - self._tried_at < self._pause_seconds:
            return None
        self._loading = asyncio.create_task(self._load(), name="raincheck issuer keys")
        return self._loading

    async def _load(self) -> bool:
        try:
            keys = _usable(await self._fetch(self._jwks_url or await self._discovered()))
        except (OutgoingError, OSError, ValueError, RecursionError) as error:
            logger.warning("cannot get the keys of the issuer %s: %s", self._issuer, _reason(error))
            return False
        finally:
            self._tried_at = self._clock()
        self._keys, self._built, self._loaded_at = keys, {}, self._clock()
        logger.info("got %d keys of the issuer %s", len(keys), self._issuer)
        return True

    async def _discovered(self) -> str:
        problem: Exception = ValueError("it has no metadata")
        for url in _metadata_addresses(self._issuer):
            try:
                metadata = await self._fetch(url)
            except ValueError as error:
                problem = error
                continue
            if not isinstance(metadata, dict):
                problem = ValueError("its metadata is no JSON object")
                continue
            known = cast("dict[str, Any]", metadata)
            if known.get("issuer") != self._issuer:  # RFC 8414, section 3.3
                problem = ValueError("its metadata names another issuer")
            elif isinstance(address := known.get("jwks_uri"), str):
                return trusted_address(address)
            else:
                problem = ValueError("its metadata has no jwks_uri")
        raise problem

    def _build(self, index: int, algorithm: str) -> jwt.PyJWK | None:
        place = (index, algorithm)
        if place not in self._built:
            key = dict(self._keys[index])
            try:
                fits = key.get("alg") in (None, algorithm)
                self._built[place] = jwt.PyJWK(key, algorithm) if fits else None
            except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
                self._built[place] = None
        return self._built[place]


async def fetch_json(url: str) -> Any:
    """The JSON document at an address, within a few seconds and a megabyte; redirects are not followed.

    Raises:
        RequestFailed: It cannot be reached, or not in time.
        ValueError: The answer is not 200, too large, or no JSON.
    """
    # Reading the certificates blocks for tens of milliseconds.
    await asyncio.to_thread(trusted_certificates)
    client = EgressClient(
        None, connect_seconds=_FETCH_SECONDS, total_seconds=_FETCH_SECONDS, max_body_bytes=_LARGEST_ANSWER
    )
    try:
        answer = await client.request(
            "GET", url, headers={"accept": "application/json"}, name=urlsplit(url).hostname or "the issuer"
        )
    except AnswerTooLarge:
        raise ValueError("the answer is too large") from None
    finally:
        await client.aclose()
    if answer.status != 200:
        raise ValueError(f"HTTP status {answer.status}")
    return read_json(answer.body)


def _usable(document: Any) -> list[Mapping[str, Any]]:
    keys: Any = cast("dict[str, Any]", document).get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise ValueError('the answer is no key set: there is no list "keys"')
    listed = [cast("Mapping[str, Any]", key) for key in cast("list[Any]", keys)[:_MOST_KEYS] if isinstance(key, dict)]
    # A key that can also sign is no public key.
    public = [key for key in listed if key.get("kty") != "oct" and "d" not in key and key.get("use", "sig") == "sig"]
    if not public:
        raise ValueError("there is no public signing key in it")
    return public


def _metadata_addresses(issuer: str) -> tuple[str, str]:
    scheme, place, path, _, _ = urlsplit(issuer)
    path = path.rstrip("/")
    return (
        urlunsplit((scheme, place, f"/.well-known/oauth-authorization-server{path}", "", "")),
        urlunsplit((scheme, place, f"{path}/.well-known/openid-configuration", "", "")),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, RequestFailed) and error.timed_out:
        return f"no answer within {_FETCH_SECONDS:g} s"
    if isinstance(error, NotJson):
        return f"the answer is no JSON: {error}"
    return " ".join(str(error).split())[:200] or type(error).__name__
