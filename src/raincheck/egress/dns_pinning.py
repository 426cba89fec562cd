"""DNS pinning: the host is resolved once, every address is checked, and one of these is connected.

The check stands where the connection is made, so a name cannot resolve to one address for the check and to another
for the request (DNS rebinding). TLS and `Host` still know the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpcore2

from raincheck.egress.errors import RequestFailed
from raincheck.egress.policy import EgressPolicy, Target

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""The IP addresses of a host, best first; raises `OSError` where it has none."""

_RESOLVERS = 16

# Threads of its own: a name server that hangs must not keep those of operations waiting.
_threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="raincheck-resolver")


async def resolve(host: str, port: int) -> Sequence[str]:
    """The system's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(_threads, _lookup, host, port)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _lookup(host: str, port: int) -> Sequence[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, target: Target, rules: EgressPolicy, resolver: Resolver) -> None:
        self._target = target
        self._rules = rules
        self._resolver = resolver
        self._inner: httpcore2.AsyncNetworkBackend = cast("Any", httpcore2).AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """See `AsyncNetworkBackend.connect_tcp`."""
        addresses = await self._addresses(host, port, timeout)
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    address, port, None if timeout is None else timeout / len(addresses), local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = failure or error
        raise failure or RequestFailed(f"{self._target.origin} cannot be found (DNS)", retryable=True)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """See `AsyncNetworkBackend.connect_unix_socket`: never."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        """See `AsyncNetworkBackend.sleep`."""
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int, timeout: float | None) -> Sequence[str]:
        literal = self._target.literal
        if literal is not None:
            found: Sequence[str] = [str(literal)]
        else:
            try:
                async with asyncio.timeout(timeout):
                    found = await self._resolver(host, port)
            except TimeoutError:
                raise RequestFailed(
                    f"{self._target.origin} cannot be found in time (DNS)", timed_out=True, retryable=True
                ) from None
            except (OSError, UnicodeError):
                raise RequestFailed(f"{self._target.origin} cannot be found (DNS)", retryable=True) from None
        # One address out of bounds refuses them all: a name that has both is either a mistake or a trick.
        for address in found:
            self._rules.check_address(self._target, ipaddress.ip_address(address))
        return found
