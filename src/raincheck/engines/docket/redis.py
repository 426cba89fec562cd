"""docket's Redis: its address with TLS and pools, its health, and the clean-up after dead workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from raincheck.engines.queue.publisher import QueueRefused, QueueUnavailable
from raincheck.errors import ConfigurationError
from raincheck.ports.tls import Tls

_T = TypeVar("_T")

_ANSWER_SECONDS = 2.0
_GROUP = "docket-workers"
_REFUSING_WORDS = ("CERTIFICATE_VERIFY_FAILED", "DB index is out of range", "invalid DB index")
_REFUSALS = (AuthenticationError, AuthorizationError, NoPermissionError, InvalidResponse)


def address_of(url: str, tls: Tls | None) -> str:
    """The address for redis-py, with the certificates of `tls`.

    Raises:
        ConfigurationError: It is no address of a Redis server.
    """
    parts = urlsplit(url)
    if tls is not None and parts.scheme in ("redis", "rediss"):
        options = {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": "true",
            "ssl_ca_certs": tls.ca,
            "ssl_certfile": tls.cert,
            "ssl_keyfile": tls.key,
        }
        url = with_query(
            urlunsplit(parts._replace(scheme="rediss")),
            **{key: value for key, value in options.items() if value is not None},
        )
    try:
        _pool(url)
    except (ValueError, TypeError):
        # Never the value or the reason: either may hold a password.
        raise ConfigurationError(
            "the queue's address is no valid one of Redis: redis://[user:password@]host[:port][/database]"
        ) from None
    return url


def with_query(url: str, **options: str) -> str:
    """The address with further options."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode({**dict(parse_qsl(parts.query)), **options})))


def place_of(url: str) -> str:
    """The server and database, for messages; no user, no password."""
    known: dict[str, Any] = _pool(url).connection_kwargs
    where = known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
    return f"{where}/{known.get('db', 0)}"


def probe_of(url: str) -> Redis:
    """A client that fails fast."""
    seconds = _ANSWER_SECONDS
    options = with_query(url, socket_timeout=str(seconds), socket_connect_timeout=str(seconds), max_connections="4")
    return Redis(connection_pool=_pool(options, retry=Retry(NoBackoff(), 0)))


async def ping(redis: Redis) -> None:
    """See whether it answers; `mapped` it."""
    await _bounded(redis.ping())  # pyright: ignore[reportUnknownMemberType]


async def remove_idle_consumers(redis: Redis, stream: str, *, idle_ms: int) -> None:
    """Every worker that ever was is a consumer of the stream's group until it is removed; `mapped` it."""
    try:
        consumers: list[dict[str, Any]] = await _bounded(redis.xinfo_consumers(stream, _GROUP))
    except ResponseError:
        # No worker has used this docket yet, or it was flushed.
        return
    for consumer in consumers:
        if consumer["pending"] == 0 and consumer["idle"] >= idle_ms:
            await _bounded(redis.xgroup_delconsumer(stream, _GROUP, consumer["name"]))


def _pool(url: str, **options: Any) -> ConnectionPool:
    return ConnectionPool.from_url(url, **options)  # pyright: ignore[reportUnknownMemberType]


async def _bounded(answer: Awaitable[_T]) -> _T:
    """The answer, if it is there in time."""
    async with asyncio.timeout(_ANSWER_SECONDS):
        return await answer


@contextmanager
def mapped() -> Generator[None]:
    """Redis's errors as those of a queue."""
    try:
        yield
    except TimeoutError:
        raise QueueUnavailable(f"Redis does not answer within {_ANSWER_SECONDS:g} s") from None
    except RedisError as error:
        raise _queue_error(error) from error
    except OSError as error:
        raise QueueUnavailable(f"Redis does not answer: {error.strerror or type(error).__name__}") from error


def _queue_error(error: RedisError) -> QueueUnavailable:
    line = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    if isinstance(error, _REFUSALS) or any(words in line for words in _REFUSING_WORDS):
        return QueueRefused(f"Redis refuses us: {line}")
    if isinstance(error, ResponseError):
        return QueueUnavailable(f"Redis says {line}")
    return QueueUnavailable(f"Redis does not answer: {line}")
