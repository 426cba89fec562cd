"""Operations of kind http: a request to an HTTP API, its answer bounded, its failures told in one line."""

from __future__ import annotations

import asyncio
import email.utils
import functools
import logging
import math
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, cast

import pydantic_core

from raincheck._version import __version__
from raincheck.errors import (
    ConfigurationError,
    InvalidParameters,
    MissingDependency,
    OperationFailed,
    ResultTooLarge,
    UpstreamError,
)
from raincheck.operations.context import TaskContext
from raincheck.operations.http_request import PreparedRequest, RequestTemplate
from raincheck.operations.operation import Operation, Policy
from raincheck.operations.problems import capped
from raincheck.operations.schema import ParameterSchema

if TYPE_CHECKING:
    import httpx2

__all__ = ["HttpExecutor", "http_operation"]

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_CONNECT_SECONDS = 10.0
_MOST_REDIRECTS = 5
_BODY_TAIL_CHARS = 2048
_ERROR_BODY_BYTES = 1024 * 1024
_RETRYABLE = frozenset({408, 425, 429})
_LONGEST_RETRY_AFTER = 86400.0

_ours: ContextVar[bool] = ContextVar("raincheck_http_request", default=False)


def http_operation(
    operation_type: str,
    *,
    method: str,
    url: str,
    parameters: Mapping[str, Any],
    description: str,
    headers: Mapping[str, str] | None = None,
    body: Any = None,
    policy: Policy | None = None,
    title: str | None = None,
    max_response_bytes: int = 16 * 1024 * 1024,
) -> Operation:
    """An operation that sends a request and gives the body of the answer: JSON where its type says so, else text.

    `{parameter}` in url, headers and body is replaced by its value, `${NAME}` by that environment variable, once, when
    the operation is declared. In the path and query a value is percent-encoded, so that it stays one component; scheme
    and host take no parameter. What uses an absent or null parameter is left out: the query pair, the header, the
    member or item of a JSON body (there, null stays null). A string in a JSON body that is exactly `"{parameter}"`
    becomes the value itself, of its own type.

    Parameters that url, headers and body do not use go to the query for GET, DELETE, HEAD and OPTIONS; for other
    methods without a `body` they are the JSON body. `Idempotency-Key` is sent with methods that change something.

    A status of 400 or more fails the task with `upstream_error` (`details`: `status`, `body_tail`), retryable for 408,
    425, 429 and 5xx, with `retry_after_seconds` where the server says so. So does a server that cannot be reached.
    Redirects are followed within the same origin only; cookies are not kept.

    Args:
        operation_type: Its name.
        method: GET, POST, PUT, PATCH, DELETE, HEAD or OPTIONS.
        url: The address.
        parameters: JSON Schema of the parameters, an object; unknown ones are refused unless it allows them.
        description: For the model that chooses tools.
        headers: The request's headers.
        body: None, text, or JSON (mapping, list).
        policy: How it is run and answered.
        title: A name for people.
        max_response_bytes: The bound on the answer's body, decoded.

    Raises:
        ConfigurationError: A placeholder that names no parameter or no variable, a parameter in the host, and the like.
        MissingDependency: The HTTP client is not installed.
    """
    executor = HttpExecutor(
        operation_type,
        method=method,
        url=url,
        parameters=parameters,
        headers=headers,
        body=body,
        max_response_bytes=max_response_bytes,
    )
    return Operation(
        operation_type=operation_type,
        description=description,
        executor=executor,
        policy=policy or Policy(),
        title=title,
    )


class HttpExecutor:
    """Sends the request; see `http_operation`. `aclose` ends its connections."""

    def __init__(
        self,
        operation_type: str,
        *,
        method: str,
        url: str,
        parameters: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        max_response_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._httpx = _client_library()
        self._tls = _tls_context()
        if method.upper() not in _METHODS:
            raise ConfigurationError(
                f"operation {operation_type!r}: method = {capped(method, 40)!r}; allowed: {', '.join(_METHODS)}"
            )
        self._schema = ParameterSchema(parameters, operation_type)
        properties = self._schema.properties
        required: list[str] = list(self._schema.schema.get("required", ()))
        defaults = [name for name, part in properties.items() if isinstance(part, dict) and "default" in part]
        self._request = RequestTemplate(
            operation_type,
            method=method,
            url=url,
            headers=headers or {},
            body=body,
            parameters=properties,
            always_present=frozenset(required + defaults),
        )
        self._max_response_bytes = max_response_bytes
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def parameters_schema(self) -> Mapping[str, Any]:
        """See `Executor`."""
        return self._schema.schema

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Executor`."""
        stored = self._schema.validate(arguments)
        self._request.prepare(stored)
        return stored

    async def aclose(self) -> None:
        """Close the connections. The next request opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Any:
        """See `Executor`."""
        try:
            prepared = self._request.prepare(arguments, context.idempotency_key)
        except InvalidParameters as error:
            raise OperationFailed(f"the stored parameters do not fit the operation as it is now: {error}") from None
        quiet = _ours.set(True)
        try:
            response = await self._send(prepared)
            try:
                return await self._value(response)
            finally:
                await response.aclose()
        except asyncio.CancelledError:
            context.mark_cancelled()
            raise
        except (self._httpx.HTTPError, self._httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise self._unreachable(error) from None
        finally:
            _ours.reset(quiet)

    async def _send(self, prepared: PreparedRequest) -> httpx2.Response:
        client = self._opened_client()
        request = client.build_request(
            prepared.method,
            prepared.url,
            headers=[(name.encode("ascii"), value.encode()) for name, value in prepared.headers],
            content=prepared.content,
        )
        for _ in range(_MOST_REDIRECTS + 1):
            response = await client.send(request, stream=True)
            following = response.next_request
            if following is None:
                return response
            await response.aclose()
            if _origin(following.url) != _origin(request.url):
                raise UpstreamError(
                    f"{self._request.host} redirects to another origin, which is not followed",
                    details={"status": response.status_code},
                )
            request = following
        raise UpstreamError(f"{self._request.host} redirects more than {_MOST_REDIRECTS} times")

    def _opened_client(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is not None and self._loop is loop:
            return self._client
        client: httpx2.AsyncClient = self._httpx.AsyncClient(
            # The runner bounds the whole; a server that thinks for minutes is what this product is for.
            timeout=self._httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=self._httpx.Limits(max_connections=None, max_keepalive_connections=20),
            headers={"User-Agent": f"raincheck/{__version__}"},
            verify=self._tls,
        )
        # One caller's cookies must not travel with another's request.
        client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._client, self._loop = client, loop
        return client

    async def _value(self, response: httpx2.Response) -> Any:
        if response.status_code >= 400:
            raise await self._refusal(response)
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._max_response_bytes:
                raise ResultTooLarge(
                    f"the answer of {self._request.host} is larger than {self._max_response_bytes} bytes"
                )
        if not body:
            return None
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type.endswith(("/json", "+json")):
            try:
                return pydantic_core.from_json(body, allow_inf_nan=False)
            except ValueError:
                raise UpstreamError(f"{self._request.host} answered with broken JSON") from None
        try:
            return body.decode(response.charset_encoding or "utf-8")
        except (UnicodeDecodeError, LookupError):
            raise UpstreamError(
                f"{self._request.host} answered with {capped(media_type, 80) or 'something'} that is not text"
            ) from None

    async def _refusal(self, response: httpx2.Response) -> UpstreamError:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _ERROR_BODY_BYTES:
                break
        status = response.status_code
        details: dict[str, Any] = {
            "status": status,
            "body_tail": self._request.redacted(body.decode("utf-8", "replace"))[-_BODY_TAIL_CHARS:],
        }
        seconds = _retry_after(response.headers.get("retry-after"))
        if seconds is not None:
            details["retry_after_seconds"] = seconds
        return UpstreamError(
            f"{self._request.host} answered with status {status}",
            retryable=status in _RETRYABLE or status >= 500,
            details=details,
        )

    def _unreachable(self, error: BaseException) -> UpstreamError:
        """The failure in words of ours: those of the client may hold the URL."""
        host = self._request.host
        causes = list(_causes(error))
        if isinstance(error, self._httpx.ConnectTimeout):
            return UpstreamError(f"{host} did not answer within {_CONNECT_SECONDS:g} s", retryable=True)
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return UpstreamError(f"{host} cannot be found (DNS)", retryable=True)
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return UpstreamError(f"{host} refused the connection", retryable=True)
        certificate = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
        if certificate is not None:
            return UpstreamError(f"the certificate of {host} is not valid: {capped(certificate.verify_message, 120)}")
        if isinstance(error, self._httpx.DecodingError):
            return UpstreamError(f"{host} sent a body that cannot be decoded")
        if isinstance(error, self._httpx.InvalidURL | self._httpx.UnsupportedProtocol | self._httpx.LocalProtocolError):
            return UpstreamError(f"the request to {host} is not valid HTTP")
        if isinstance(error, self._httpx.ConnectError):
            return UpstreamError(f"{host} cannot be reached", retryable=True)
        return UpstreamError(f"the connection to {host} broke before the answer was complete", retryable=True)


def _client_library() -> Any:
    try:
        import httpx2
    except ModuleNotFoundError as error:
        raise MissingDependency('operations of kind http need httpx2: pip install "raincheck[server]"') from error
    client_log = logging.getLogger("httpx2")
    if _not_ours not in client_log.filters:
        client_log.addFilter(_not_ours)
    return httpx2


@functools.cache
def _tls_context() -> ssl.SSLContext:
    # Reading the certificates takes some 50 ms: once, at the start, and never on the event loop.
    return _client_library().create_ssl_context()


def _not_ours(_: logging.LogRecord) -> bool:
    # The client logs whole URLs, and ours may hold secrets and parameters.
    return not _ours.get()


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    port = url.port
    if port is None:
        port = {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, found.__context__]
        if isinstance(found, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", found).exceptions


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header (RFC 9110 §10.2.3: seconds or a date), None where it says nothing usable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        seconds = (aware - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER) if math.isfinite(seconds) else None
