"""Bounds on HTTP connections: their number, and the time each has to send and to read.

uvicorn bounds neither. A connection that shows no whole request for `head_seconds`, sends its body for longer than
`body_seconds`, or takes nothing of its answer for `write_seconds` is ended; where there is no room for a new one, an
old one that has shown nothing makes room. All of them are looked at once a second: a request costs nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from raincheck.runtime.listening import Acceptor, address_key
from raincheck.timing.background import BackgroundLoop

logger = logging.getLogger(__name__)

_SWEEP_SECONDS = 1.0
_TELL_SECONDS = 60.0
_READ_BYTES = 65_536
_TAKEN_BYTES = 65_536
"""So much must be taken of an answer within `write_seconds`, or all that is left of it."""

_SHARE_OF_DESCRIPTORS = 0.75
"""The rest is for the store, commands and requests to others."""

_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_NO_ROOM = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionBounds:
    """What connections may take.

    Attributes:
        total: The most at once.
        per_address: The most of one address (`address_key`).
        head_seconds: How long a connection may be without a request: the head of one has to be whole by then.
        body_seconds: How long a request's body may take.
        write_seconds: How long a peer may take nothing of what was written.
    """

    total: int
    per_address: int
    head_seconds: float
    body_seconds: float
    write_seconds: float

    def within(self, descriptors: int) -> ConnectionBounds:
        """These bounds in a process with so many descriptors."""
        total = min(self.total, max(1, int(descriptors * _SHARE_OF_DESCRIPTORS)))
        return replace(self, total=total, per_address=max(1, self.per_address * total // self.total))


class _Connection(H11Protocol, asyncio.BufferedProtocol):  # pyright: ignore[reportIncompatibleMethodOverride]
    """One connection of uvicorn's, which says what it waits for and since when."""

    def __init__(self, server: BoundedServer) -> None:
        super().__init__(server.config, server.server_state, server.lifespan.state)
        self._server = server
        self._seen: object = None
        self._seen_at = self.loop.time()
        self._unwritten: int | None = None
        self._unwritten_at = 0.0

    # asyncio reads into this buffer, which is used up before anybody else is read: not up to 256 KiB at a time.

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(memoryview(self._server.buffer)[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.closed(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unwritten = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    @property
    def served(self) -> bool:
        """Whether there was ever a whole head of a request."""
        return self.cycle is not None  # pyright: ignore[reportUnnecessaryComparison]

    @property
    def begun(self) -> bool:
        """Whether a request has begun that is not answered: a part of its head is there at least."""
        return bool(self.conn.trailing_data[0]) or not self.idle

    def overdue(self, now: float, bounds: ConnectionBounds) -> str | None:
        """What the peer has not done in time ("head", "body" or "write"); None: it may go on."""
        if self.transport is None:  # pyright: ignore[reportUnnecessaryComparison]
            return None
        if self._takes_nothing(now, bounds.write_seconds):
            return "write"
        state = self.conn.their_state
        if (state, self.cycle) != self._seen:
            self._seen, self._seen_at = (state, self.cycle), now
        waited = now - self._seen_at
        if state is h11.IDLE and waited >= bounds.head_seconds:
            return "head"
        if state is h11.SEND_BODY and waited >= bounds.body_seconds:
            return "body"
        return None

    def _takes_nothing(self, now: float, seconds: float) -> bool:
        size = self.transport.get_write_buffer_size()
        if size == 0:
            self._unwritten = None
        elif self._unwritten is None or size <= self._unwritten - _TAKEN_BYTES:
            self._unwritten, self._unwritten_at = size, now
        return size > 0 and now - self._unwritten_at >= seconds

    def end(self, overdue: str) -> None:
        """End it, with an answer where one is still possible."""
        if overdue == "write":
            self.transport.abort()
            return
        if self.begun and (self.idle or not self.cycle.response_started):
            self.transport.write(_TIMED_OUT)
        self.transport.close()


class BoundedServer(uvicorn.Server):
    """A uvicorn server that accepts for itself, within bounds, and leaves signals to its process.

    Args:
        config: uvicorn's; its protocol is h11, without WebSockets.
        listener: Listens, and does not block; closed when the server stops.
        bounds: See `ConnectionBounds`.

    Attributes:
        buffer: What is read at once, of one connection.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket, bounds: ConnectionBounds) -> None:
        super().__init__(config)
        self.buffer = bytearray(_READ_BYTES)
        self._listener = listener
        self._bounds = bounds
        self._acceptor = Acceptor(listener, self._connected)
        self._open: dict[_Connection, str] = {}
        self._of_address: Counter[str] = Counter()
        self._opening: set[asyncio.Task[None]] = set()
        self._ended: Counter[str] = Counter()
        self._told_at = float("-inf")
        self._sweeper = BackgroundLoop(
            "connections", self._sweep, purpose="end overdue connections", seconds=_SWEEP_SECONDS, at_once=False
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """uvicorn raises signals again when it has stopped, and the process would end undrained."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets=[])
        self._sweeper.start()
        self._acceptor.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        self._acceptor.stop()
        await super().shutdown(sockets=[self._listener])
        await self._sweeper.stop()

    def closed(self, connection: _Connection) -> None:
        """It is gone."""
        if (key := self._open.pop(connection, None)) is not None:
            self._of_address[key] -= 1
            if not self._of_address[key]:
                del self._of_address[key]

    def _connected(self, accepted: socket.socket, host: str) -> None:
        key = address_key(host)
        if not self._has_room(key):
            self._ended["refused"] += 1
            with accepted, contextlib.suppress(OSError):
                accepted.send(_NO_ROOM)
            return
        connection = _Connection(self)
        self._open[connection] = key
        self._of_address[key] += 1
        opening = asyncio.create_task(self._begin(connection, accepted))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _begin(self, connection: _Connection, accepted: socket.socket) -> None:
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
            if connection not in self._open:
                # It has made room for another one already.
                transport.abort()
        except OSError:
            accepted.close()
            self.closed(connection)

    def _has_room(self, key: str) -> bool:
        """Whether there is room for one more of that address, made where it has to be."""
        if self._of_address[key] >= self._bounds.per_address:
            return self._make_room(each for each, of in self._open.items() if of == key)
        return len(self._open) < self._bounds.total or self._make_room(self._open)

    def _make_room(self, candidates: Iterable[_Connection]) -> bool:
        """End an idle one: the oldest that never had a request, else the oldest; whether there was one."""
        found: _Connection | None = None
        for each in candidates:
            if each.idle:
                found = found or each
                if not each.served:
                    found = each
                    break
        if found is None:
            return False
        self._ended["displaced"] += 1
        self.closed(found)
        if found.transport is not None:  # pyright: ignore[reportUnnecessaryComparison]  it is being opened
            found.transport.abort()
        return True

    async def _sweep(self) -> None:
        at = asyncio.get_running_loop().time()
        for connection in list(self._open):
            if (overdue := connection.overdue(at, self._bounds)) is not None:
                if connection.begun or overdue != "head":  # One that never said anything is no news.
                    self._ended[overdue] += 1
                connection.end(overdue)
        if at - self._told_at >= _TELL_SECONDS and self._ended:
            self._told_at = at
            self._tell()

    def _tell(self) -> None:
        told = ", ".join(f"{_REASONS[reason]}: {number}" for reason, number in sorted(self._ended.items()))
        self._ended.clear()
        logger.warning("connections were ended or refused (%s); %d are open", told, len(self._open))


_REASONS = {
    "head": "no whole request in time",
    "body": "no whole body in time",
    "write": "took nothing of the answer",
    "refused": "no room",
    "displaced": "idle, made room",
}
