"""The client for outgoing HTTP: answers are read within bounds, failures are reported without addresses.

Guarded by a policy, it follows no redirect, keeps no cookie, takes no proxy from the environment and uses no connection
twice. Without one, it goes where the operator's configuration says, and keeps its connections.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, cast

from raincheck._version import __version__
from raincheck.egress.content_coding import ACCEPTED, Decoder, UnknownCoding
from raincheck.egress.errors import AnswerTooLarge, RequestFailed
from raincheck.egress.policy import EgressPolicy, Target
from raincheck.extras import missing_extra

if TYPE_CHECKING:
    import httpx2

    from raincheck.egress.dns_pinning import Resolver

LARGEST_REFUSAL = 1024 * 1024
"""An answer with an error status is cut off behind this many bytes."""

_MOST_REDIRECTS = 5
_USER_AGENT = f"raincheck/{__version__}"
_own_request: ContextVar[bool] = ContextVar("raincheck_http_request", default=False)

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A response of any status.

    Attributes:
        status: The HTTP status.
        headers: By name in lower case; a header that came several times is joined with a comma.
        body: Empty where it was not asked for.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Incoming:
    """A response whose body is still to be read."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterable[bytes]


class EgressClient:
    """Sends HTTP requests.

    Args:
        policy: Where requests may go; None for addresses that the operator configured.
        connect_seconds: The bound on finding the host, on connecting, and on TLS, each.
        total_seconds: The bound on the whole request; None for none.
        max_body_bytes: The bound on the answer's body.
        resolver: In place of the system's.
        tls: In place of the machine's trusted certificates.

    Raises:
        MissingDependency: The HTTP client is not installed.
    """

    def __init__(
        self,
        policy: EgressPolicy | None,
        *,
        connect_seconds: float = 10.0,
        total_seconds: float | None = 30.0,
        max_body_bytes: int = 1024 * 1024,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._tls = tls or trusted_certificates()
        self._connect_seconds = connect_seconds
        self._total_seconds = total_seconds
        self._max_body_bytes = max_body_bytes
        self._resolver = resolver
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def aclose(self) -> None:
        """Close the kept connections. The next request opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | Headers = (),
        content: bytes | None = None,
        read_body: bool = True,
        redirects: bool = False,
        name: str | None = None,
    ) -> Answer:
        """Send a request and read its answer.

        Args:
            method: In upper case.
            url: The address.
            headers: Beside those that belong to the connection.
            content: The body.
            read_body: Whether the answer's body is wanted.
            redirects: Whether redirects within the origin are followed; never under a policy.
            name: The server, as messages name it; its origin under a policy.

        Raises:
            RequestRefused: The policy forbids it; nothing was sent.
            RequestFailed: No answer in time, no HTTP, a part of a body, or a redirect that is not followed.
            AnswerTooLarge: The body is too large.
        """
        sent = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        if self._policy is None:
            server = name or "the server"
            responding = self._configured(server, method, url, sent, content, redirects=redirects)
        else:
            target = self._policy.check(url)
            server = target.origin
            responding = self._guarded(self._policy, target, method, sent, content or b"", read_body=read_body)
        quiet = _own_request.set(True)
        try:
            async with asyncio.timeout(self._total_seconds):
                return await self._exchange(server, responding, read_body=read_body and method != "HEAD")
        except TimeoutError:
            raise RequestFailed(
                f"{server} did not answer within {self._total_seconds:g} s", timed_out=True, retryable=True
            ) from None
        finally:
            _own_request.reset(quiet)

    async def _exchange(self, server: str, responding: Any, *, read_body: bool) -> Answer:
        import httpcore2
        import httpx2

        try:
            async with responding as response:
                body = await self._body(server, response) if read_body else b""
                return Answer(status=response.status, headers=response.headers, body=body)
        except (
            httpx2.HTTPError,
            httpx2.InvalidURL,
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.TimeoutException,
            ssl.SSLError,
            OSError,
        ) as error:
            raise self._failure(server, error) from None

    @asynccontextmanager
    async def _guarded(
        self, policy: EgressPolicy, target: Target, method: str, headers: Headers, content: bytes, *, read_body: bool
    ) -> AsyncGenerator[_Incoming]:
        import httpcore2

        from raincheck.egress.dns_pinning import PinnedBackend, resolve

        # The pieces that were checked are the pieces that are requested: no second parser reads the address.
        url = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        own = {
            "host": target.origin.partition("://")[2],
            "user-agent": _USER_AGENT,
            "accept-encoding": "identity",
            "connection": "close",
        }
        given = {name.lower(): value for name, value in headers}
        async with (
            httpcore2.AsyncConnectionPool(
                ssl_context=self._tls,
                max_keepalive_connections=0,
                network_backend=PinnedBackend(target, policy, self._resolver or resolve),
            ) as pool,
            pool.stream(
                method,
                url,
                headers=_encoded((given | own).items()),
                content=content,
                extensions={"timeout": {"connect": self._connect_seconds}},
            ) as response,
        ):
            answered = _joined(response.headers)
            coding = answered.get("content-encoding", "identity").strip().lower()
            if read_body and method != "HEAD" and coding not in ("identity", ""):
                raise RequestFailed(f"{target.origin} sent a compressed body, which was not asked for", retryable=True)
            yield _Incoming(status=response.status, headers=answered, chunks=response.aiter_stream())

    @asynccontextmanager
    async def _configured(
        self, server: str, method: str, url: str, headers: Headers, content: bytes | None, *, redirects: bool
    ) -> AsyncGenerator[_Incoming]:
        client = self._opened_client()
        request = client.build_request(method, url, headers=_encoded(headers), content=content)
        response = await self._followed(server, client, request, redirects=redirects)
        try:
            status = response.status_code
            if redirects and 300 <= status < 400:
                raise RequestFailed(f"{server} answered with status {status} and no address", status=status)
            if status == 206 and not any(name.lower() == "range" for name, _ in headers):
                raise RequestFailed(f"{server} sent a part of the body, which was not asked for", status=status)
            yield _Incoming(status=status, headers=dict(response.headers), chunks=response.aiter_raw())
        finally:
            await response.aclose()

    async def _followed(
        self, server: str, client: httpx2.AsyncClient, request: httpx2.Request, *, redirects: bool
    ) -> httpx2.Response:
        for _ in range(_MOST_REDIRECTS + 1):
            response = await client.send(request, stream=True)
            following = response.next_request
            if following is None or not redirects:
                return response
            await response.aclose()
            if _origin(following.url) != _origin(request.url):
                raise RequestFailed(
                    f"{server} redirects to another origin, which is not followed", status=response.status_code
                )
            request = following
        raise RequestFailed(f"{server} redirects more than {_MOST_REDIRECTS} times")

    def _opened_client(self) -> httpx2.AsyncClient:
        import httpx2

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client = httpx2.AsyncClient(
                # A server that thinks for minutes is what this product is for: the attempt's timer bounds the whole.
                timeout=httpx2.Timeout(None, connect=self._connect_seconds),
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
                headers={"User-Agent": _USER_AGENT, "Accept-Encoding": ACCEPTED},
                verify=self._tls,
            )
            # One caller's cookies must not travel with another's request.
            self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            self._loop = loop
        return self._client

    async def _body(self, server: str, response: _Incoming) -> bytes:
        refused = response.status >= 400
        body = bytearray()
        try:
            decoder = Decoder(response.headers.get("content-encoding", ""))
            async for raw in response.chunks:
                for piece in decoder.decode(raw):
                    body += piece
                    if refused and len(body) > LARGEST_REFUSAL:
                        return bytes(body)
                    if not refused and len(body) > self._max_body_bytes:
                        limit = self._max_body_bytes
                        raise AnswerTooLarge(f"the answer of {server} is larger than {limit} bytes", limit=limit)
                    await asyncio.sleep(0)
            decoder.end()
        except UnknownCoding as coding:
            problem = f"in the coding {str(coding)[:40]!r}, which is not read"
        except zlib.error:
            problem = "that cannot be decoded"
        except EOFError:
            problem = "that was cut off"
        else:
            return bytes(body)
        if refused:
            # The status alone says why.
            return bytes(body)
        raise RequestFailed(f"{server} sent a body {problem}", retryable=problem == "that was cut off")

    def _failure(self, server: str, error: Exception) -> RequestFailed:
        """The failure in words of raincheck: those of the HTTP library may hold the whole address."""
        import httpcore2
        import httpx2

        chain = list(causes(error))
        # Another party's server may be repaired while the task waits; a configured address is not.
        guarded = self._policy is not None

        def is_any(*kinds: type[BaseException]) -> bool:
            return isinstance(error, kinds) or isinstance(error.__cause__, kinds)

        def caused_by(*kinds: type[BaseException]) -> bool:
            return any(isinstance(each, kinds) for each in chain)

        if is_any(httpcore2.TimeoutException):
            message = f"{server} did not answer within {self._connect_seconds:g} s"
            return RequestFailed(message, timed_out=True, retryable=True)
        if caused_by(socket.gaierror):
            return RequestFailed(f"{server} cannot be found (DNS)", retryable=True)
        if caused_by(ConnectionRefusedError):
            return RequestFailed(f"{server} refused the connection", retryable=True)
        certificate = next((each for each in chain if isinstance(each, ssl.SSLCertVerificationError)), None)
        if certificate is not None:
            problem = certificate.verify_message[:120]
            return RequestFailed(f"the certificate of {server} is not valid: {problem}", retryable=guarded)
        if is_any(httpx2.InvalidURL, httpcore2.UnsupportedProtocol, httpcore2.LocalProtocolError):
            return RequestFailed(f"the request to {server} is not valid HTTP", retryable=guarded)
        if is_any(httpcore2.ConnectError):
            problem = "speaks no TLS that fits" if caused_by(ssl.SSLError) else "cannot be reached"
            return RequestFailed(f"{server} {problem}", retryable=True)
        if guarded and is_any(httpcore2.RemoteProtocolError):
            return RequestFailed(f"{server} hung up, or answered with what is not HTTP", retryable=True)
        return RequestFailed(f"the connection to {server} broke before the answer was complete", retryable=True)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and the errors behind it."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__]
            if isinstance(found, BaseExceptionGroup):
                waiting += cast("BaseExceptionGroup[BaseException]", found).exceptions


def trusted_certificates() -> ssl.SSLContext:
    """The machine's trusted certificates: read once, which takes some 50 ms.

    Raises:
        MissingDependency: The HTTP client is not installed.
    """
    try:
        import httpx2
    except ModuleNotFoundError as error:
        raise missing_extra("requests to webhooks and APIs need httpx2", "server") from error
    return _certificates(httpx2.create_ssl_context)


@functools.cache
def _certificates(load: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    # The library logs whole URLs, and those of raincheck may hold secrets and parameters.
    logging.getLogger("httpx2").addFilter(lambda _: not _own_request.get())
    return load()


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode()) for name, value in headers]


def _joined(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
