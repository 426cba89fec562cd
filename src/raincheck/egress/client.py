"""The guarded client: one request, one answer, within the rules and within bounds.

No redirect is followed, no cookie kept, no proxy taken from the environment, no connection used twice.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raincheck._version import __version__
from raincheck.egress.errors import AnswerTooLarge, RequestFailed
from raincheck.egress.policy import EgressPolicy, Target
from raincheck.extras import missing_extra

if TYPE_CHECKING:
    from raincheck.egress.dns_pinning import Resolver


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back, whatever its status.

    Attributes:
        status: The HTTP status; a redirect is an answer like any other.
        headers: By name in lower case; what was sent several times is joined with a comma.
        body: Empty where it was not asked for.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class EgressClient:
    """Sends requests to addresses that others had a say in.

    Args:
        rules: Where they may go.
        connect_seconds: The bound on finding the host, on connecting, and on TLS, each.
        total_seconds: The bound on the whole request.
        max_body_bytes: The bound on the answer's body.
        resolver: In place of the system's.
        tls: In place of the machine's trusted certificates.

    Raises:
        MissingDependency: The HTTP client is not installed.
    """

    def __init__(
        self,
        rules: EgressPolicy,
        *,
        connect_seconds: float = 10.0,
        total_seconds: float = 30.0,
        max_body_bytes: int = 1024 * 1024,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.rules = rules
        self._tls = tls or trusted_certificates()
        from raincheck.egress.dns_pinning import resolve

        self._connect_seconds = connect_seconds
        self._total_seconds = total_seconds
        self._max_body_bytes = max_body_bytes
        self._resolver = resolver or resolve

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        read_body: bool = True,
    ) -> Answer:
        """Send a request and take its answer.

        Args:
            method: In upper case.
            url: Where to.
            headers: Beside those that belong to the connection.
            content: The body.
            read_body: Whether the answer's body is wanted; the status is enough for some.

        Raises:
            RequestRefused: The rules forbid it; nothing was sent.
            RequestFailed: There was no answer in time, or none that is HTTP.
            AnswerTooLarge: The body is too large.
        """
        target = self.rules.check(url)
        try:
            async with asyncio.timeout(self._total_seconds):
                return await self._exchange(method, target, headers or {}, content, read_body)
        except TimeoutError:
            raise RequestFailed(
                f"{target.origin} did not answer within {self._total_seconds:g} s", timed_out=True
            ) from None

    async def _exchange(
        self, method: str, target: Target, headers: Mapping[str, str], content: bytes, read_body: bool
    ) -> Answer:
        import httpcore2

        from raincheck.egress.dns_pinning import PinnedBackend

        # The pieces that were checked are the pieces that are requested: no second parser reads the address.
        url = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        own = {
            "host": target.origin.partition("://")[2],
            "user-agent": f"raincheck/{__version__}",
            "accept-encoding": "identity",
            "connection": "close",
        }
        given = {name.lower(): value for name, value in headers.items()}
        try:
            async with (
                httpcore2.AsyncConnectionPool(
                    ssl_context=self._tls,
                    max_keepalive_connections=0,
                    network_backend=PinnedBackend(target, self.rules, self._resolver),
                ) as pool,
                pool.stream(
                    method,
                    url,
                    headers=[(name.encode("ascii"), value.encode()) for name, value in (given | own).items()],
                    content=content,
                    extensions={"timeout": {"connect": self._connect_seconds}},
                ) as response,
            ):
                answered = _joined(response.headers)
                if not read_body or method == "HEAD":
                    return Answer(status=response.status, headers=answered, body=b"")
                if answered.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
                    raise RequestFailed(f"{target.origin} sent a compressed body, which was not asked for")
                body = bytearray()
                async for chunk in response.aiter_stream():
                    body += chunk
                    if len(body) > self._max_body_bytes:
                        raise AnswerTooLarge(
                            f"the answer of {target.origin} is larger than {self._max_body_bytes} bytes",
                            status=response.status,
                        )
                return Answer(status=response.status, headers=answered, body=bytes(body))
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, ssl.SSLError) as error:
            raise _failure(target, error, self._connect_seconds) from None


def _joined(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _failure(target: Target, error: Exception, connect_seconds: float) -> RequestFailed:
    """The failure in words of ours: those of the client may hold the whole address."""
    import httpcore2

    host = target.origin
    causes = list(_causes(error))
    certificate = next((each for each in causes if isinstance(each, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        return RequestFailed(f"the certificate of {host} is not valid: {certificate.verify_message[:120]}")
    if any(isinstance(each, ssl.SSLError) for each in causes):
        return RequestFailed(f"{host} speaks no TLS that fits")
    if isinstance(error, httpcore2.TimeoutException):
        return RequestFailed(f"{host} did not answer within {connect_seconds:g} s", timed_out=True)
    if any(isinstance(each, ConnectionRefusedError) for each in causes):
        return RequestFailed(f"{host} refused the connection")
    if isinstance(error, httpcore2.ConnectError):
        return RequestFailed(f"{host} cannot be reached")
    if isinstance(error, httpcore2.LocalProtocolError):
        return RequestFailed(f"the request to {host} is not valid HTTP")
    if isinstance(error, httpcore2.RemoteProtocolError):
        return RequestFailed(f"{host} hung up, or answered with what is not HTTP")
    return RequestFailed(f"the connection to {host} broke before the answer was complete")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__]


@functools.cache
def trusted_certificates() -> ssl.SSLContext:
    """The machine's trusted certificates: read once, which takes some 50 ms.

    Raises:
        MissingDependency: The HTTP client is not installed.
    """
    try:
        import httpx2
    except ModuleNotFoundError as error:
        raise missing_extra("requests to webhooks and APIs need httpx2", "server") from error
    context: Any = httpx2.create_ssl_context()
    return context
