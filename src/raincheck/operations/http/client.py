"""The HTTP client of operations: connections kept, answers read within bounds, failures told without addresses."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, cast

from raincheck._version import __version__
from raincheck.domain.redaction import redacted_texts, without
from raincheck.egress.retry_after import retry_after
from raincheck.errors import ResultTooLarge, UpstreamError
from raincheck.extras import missing_extra
from raincheck.operations.exhaustion import what_is_exhausted
from raincheck.operations.http.content_coding import ACCEPTED, Decoder, UnknownCoding
from raincheck.operations.http.reply_text import UnknownCharset, text_of
from raincheck.operations.http.request import PreparedRequest
from raincheck.operations.untrusted_json import BeyondBounds, NotJson, read_json
from raincheck.operations.validation_messages import capped

if TYPE_CHECKING:
    import httpx2

_CONNECT_SECONDS = 10.0
_MOST_REDIRECTS = 5
_BODY_TAIL_CHARS = 2048
_ERROR_BODY_BYTES = 1024 * 1024
_RETRYABLE = frozenset({408, 425, 429})
_LONGEST_RETRY_AFTER = 86400.0
_ours: ContextVar[bool] = ContextVar("raincheck_http_request", default=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer, read to its end.

    Attributes:
        host: Who answered, as messages name it.
        headers: By name in lower case.
    """

    host: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def value(self) -> Any:
        """The body: JSON where its type says so, else text; None where it is empty.

        Raises:
            UpstreamError: It is broken.
        """
        if not self.body:
            return None
        content_type = self.headers.get("content-type", "")
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type.endswith(("/json", "+json")):
            return self.document
        try:
            return text_of(self.body, content_type)
        except UnknownCharset as charset:
            raise UpstreamError(
                f"{self.host} answered in the charset {str(charset)[:40]!r}, which is not read"
            ) from None
        except UnicodeDecodeError:
            raise UpstreamError(
                f"{self.host} answered with {capped(media_type, 80) or 'something'} that is not text"
            ) from None

    @property
    def document(self) -> Any:
        """The body as JSON, whatever its type says.

        Raises:
            UpstreamError: It is broken.
        """
        try:
            try:
                return read_json(self.body)
            except BeyondBounds:
                raise
            except NotJson:
                # JSON is UTF-8 (RFC 8259 §8.1); what is not says so.
                return read_json(text_of(self.body, self.headers.get("content-type", "")))
        except BeyondBounds as error:
            raise UpstreamError(f"{self.host} answered with JSON that is not taken: {error}") from None
        except (NotJson, UnknownCharset, UnicodeDecodeError):
            raise UpstreamError(f"{self.host} answered with broken JSON") from None

    @property
    def retry_after(self) -> float | None:
        """How many seconds it asks to wait."""
        return seconds_to_wait(self.headers)

    def refusal(self, secrets: Collection[str] = ()) -> UpstreamError:
        """The failure that its status is, without those texts and what else the task withholds."""
        # An upstream may echo its request; cut first, what is left of a secret would not be found.
        hidden = {*secrets, *redacted_texts()}
        tail = without(self.body.decode("utf-8", "replace"), hidden, "***")
        if len(self.body) > _ERROR_BODY_BYTES and hidden:
            # Read no further, it may end within one.
            tail = tail[: -max(map(len, hidden))]
        details: dict[str, Any] = {"status": self.status, "body_tail": tail[-_BODY_TAIL_CHARS:]}
        if self.retry_after is not None:
            details["retry_after_seconds"] = self.retry_after
        return UpstreamError(
            f"{self.host} answered with status {self.status}",
            retryable=self.status in _RETRYABLE or self.status >= 500,
            details=details,
        )


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """What a Retry-After header says."""
    return retry_after(headers.get("retry-after"), longest=_LONGEST_RETRY_AFTER, now=datetime.now(UTC))


class HttpClient:
    """Connections to the servers of one operation; `aclose` ends them."""

    def __init__(self) -> None:
        self._httpx = _client_library()
        self._tls = _tls_context()
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def aclose(self) -> None:
        """Close the connections. The next request opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def exchange(
        self, host: str, prepared: PreparedRequest, *, max_body_bytes: int, redirects: bool = True
    ) -> Reply:
        """Send a request and read its answer.

        Args:
            host: Where it goes, as messages name it.
            redirects: Whether those within the same origin are followed.

        Raises:
            UpstreamError: There was no answer, a part of one, or a redirect to nowhere or to another origin.
            ResultTooLarge: Its body is larger.
        """
        async with self._told(host):
            response = await self._send(host, prepared, redirects=redirects)
            try:
                _check_whole(host, prepared, response.status_code, redirects=redirects)
                body = await _body(host, response, max_body_bytes)
            finally:
                await response.aclose()
        # By raw names: a header that came twice is joined with a comma.
        return Reply(host=host, status=response.status_code, headers=dict(response.headers), body=body)

    @asynccontextmanager
    async def _told(self, host: str) -> AsyncGenerator[None]:
        quiet = _ours.set(True)
        try:
            yield
        except (self._httpx.HTTPError, self._httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise self._unreachable(host, error) from None
        finally:
            _ours.reset(quiet)

    async def _send(self, host: str, prepared: PreparedRequest, *, redirects: bool) -> httpx2.Response:
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
            if following is None or not redirects:
                return response
            await response.aclose()
            if _origin(following.url) != _origin(request.url):
                raise UpstreamError(
                    f"{host} redirects to another origin, which is not followed",
                    details={"status": response.status_code},
                )
            request = following
        raise UpstreamError(f"{host} redirects more than {_MOST_REDIRECTS} times")

    def _opened_client(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is not None and self._loop is loop:
            return self._client
        client: httpx2.AsyncClient = self._httpx.AsyncClient(
            # The runner bounds the whole; a server that thinks for minutes is what this product is for.
            timeout=self._httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=self._httpx.Limits(max_connections=None, max_keepalive_connections=20),
            headers={"User-Agent": f"raincheck/{__version__}", "Accept-Encoding": ACCEPTED},
            verify=self._tls,
        )
        # One caller's cookies must not travel with another's request.
        client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._client, self._loop = client, loop
        return client

    def _unreachable(self, host: str, error: BaseException) -> UpstreamError:
        """The failure in words of ours: those of the client may hold the URL."""
        causes = list(_causes(error))
        if (what := next(filter(None, map(what_is_exhausted, causes)), None)) is not None:
            return UpstreamError(f"{host} cannot be reached: this server has no {what} left", retryable=True)
        if isinstance(error, self._httpx.ConnectTimeout):
            return UpstreamError(f"{host} did not answer within {_CONNECT_SECONDS:g} s", retryable=True)
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return UpstreamError(f"{host} cannot be found (DNS)", retryable=True)
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return UpstreamError(f"{host} refused the connection", retryable=True)
        certificate = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
        if certificate is not None:
            return UpstreamError(f"the certificate of {host} is not valid: {capped(certificate.verify_message, 120)}")
        if isinstance(error, self._httpx.InvalidURL | self._httpx.UnsupportedProtocol | self._httpx.LocalProtocolError):
            return UpstreamError(f"the request to {host} is not valid HTTP")
        if isinstance(error, self._httpx.ConnectError):
            return UpstreamError(f"{host} cannot be reached", retryable=True)
        return UpstreamError(f"the connection to {host} broke before the answer was complete", retryable=True)


async def _body(host: str, response: httpx2.Response, limit: int) -> bytes:
    refused = response.status_code >= 400
    body = bytearray()
    try:
        decoder = Decoder(response.headers.get("content-encoding", ""))
        async for raw in response.aiter_raw():
            for piece in decoder.decode(raw):
                body += piece
                if refused and len(body) > _ERROR_BODY_BYTES:
                    return bytes(body)
                if not refused and len(body) > limit:
                    raise ResultTooLarge(f"the answer of {host} is larger than {limit} bytes")
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
        # What it has to say is its status.
        return bytes(body)
    raise UpstreamError(f"{host} sent a body {problem}", retryable=problem == "that was cut off")


def _check_whole(host: str, prepared: PreparedRequest, status: int, *, redirects: bool) -> None:
    """Refuse what is no answer, or only a part of one."""
    if redirects and 300 <= status < 400:
        raise UpstreamError(f"{host} answered with status {status} and no address", details={"status": status})
    if status == 206 and not any(name.lower() == "range" for name, _ in prepared.headers):
        raise UpstreamError(f"{host} sent a part of the body, which was not asked for", details={"status": status})


def _client_library() -> Any:
    try:
        import httpx2
    except ModuleNotFoundError as error:
        raise missing_extra("operations of kind http need httpx2", "server") from error
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
