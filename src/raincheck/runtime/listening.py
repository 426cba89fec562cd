"""Accepting connections within the process's descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable

logger = logging.getLogger(__name__)

_MOST_DESCRIPTORS = 65_536
_LEAST_HARD_LIMIT = 10_240
"""What macOS allows a process where it says that there is no limit."""

_BACKLOG = 512
"""Connections that the system keeps until they are accepted."""

_AT_ONCE = 64
_PAUSE_SECONDS = 1.0
_TELL_SECONDS = 60.0
_OUT_OF_MEANS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of open descriptors to the hard one, 65,536 at most; the limit from now on."""
    try:
        import resource
    except ImportError:  # Windows: there is no such limit for sockets.
        return _MOST_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    most = _MOST_DESCRIPTORS if hard == unlimited else min(hard, _MOST_DESCRIPTORS)
    for wanted in (most, min(most, _LEAST_HARD_LIMIT)):
        if soft == unlimited or soft >= wanted:
            break
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return _MOST_DESCRIPTORS if soft == unlimited else soft


def address_key(host: str) -> str:
    """What is counted as one peer: an IPv4 address, or the /64 network of an IPv6 one."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"
        address = address.ipv4_mapped
    return str(address)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there and does not block.

    Raises:
        OSError: That address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches Nagle's delay off (40 ms an answer).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


class Acceptor:
    """Accepts the connections that arrive at a listening socket.

    Out of descriptors or memory it pauses for a second at a time, and says so at most once a minute: asyncio's own
    loop logs a traceback for each try, as many at once as the backlog is long.

    Args:
        listener: Listens, and does not block.
        connected: Takes each connection, which does not block, and the host of its peer.
    """

    def __init__(self, listener: socket.socket, connected: Callable[[socket.socket, str], None]) -> None:
        self._listener = listener
        self._connected = connected
        self._paused: asyncio.TimerHandle | None = None
        self._told_at: float | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._paused = None
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Accept no more; the socket stays open."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        asyncio.get_running_loop().remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_MEANS:
                    self._pause(error)
                    return
                continue  # That connection is gone already.
            connection.setblocking(False)
            self._connected(connection, str(peer[0]) if peer else "")

    def _pause(self, error: OSError) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener.fileno())
        self._paused = loop.call_later(_PAUSE_SECONDS, self.start)
        if self._told_at is None or loop.time() - self._told_at >= _TELL_SECONDS:
            self._told_at = loop.time()
            logger.error("cannot accept connections, trying again every second: %s", error.strerror)
