"""Ways to a server on which things get lost: what they have in common, and the one for any bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Self

__all__ = ["Listener", "TcpProxy"]

_CHUNK = 64 * 1024
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Listener:
    """Takes connections on a loopback port while the block runs; what becomes of each is `converse`.

    Attributes:
        port: Where it listens; the block may begin with one that is wanted.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._connections: set[asyncio.Task[None]] = set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends; it is closed afterwards."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self.converse(reader, writer)
        except asyncio.CancelledError:
            pass  # the test is over; asyncio would log it
        finally:
            writer.close()
            self._connections.discard(task)


class TcpProxy(Listener):
    """Forwards bytes to a port, unless it is told to lose them.

    A black hole keeps every connection open and passes nothing on; what was sent meanwhile arrives when it heals, as
    after a partition of a network that TCP outlives. A cut resets every connection, and each new one at once.

    Attributes:
        loses_answers: Whether it does.
    """

    def __init__(self, upstream: int, port: int = 0) -> None:
        super().__init__(port)
        self._upstream = upstream
        self._passes = asyncio.Event()
        self._passes.set()
        self._refuses = False
        self._mark: bytes | None = None
        self.loses_answers = False
        self._delay = 0.0
        self._pipes: set[asyncio.StreamWriter] = set()

    def black_hole(self) -> None:
        """Pass nothing on, in either direction."""
        self._passes.clear()

    def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        self._refuses = True
        self.reset()

    def reset(self) -> None:
        """Reset all connections; new ones are welcome."""
        for writer in tuple(self._pipes):
            _reset(writer)

    def lose_answers_from(self, mark: bytes) -> None:
        """From the first request on that contains the mark, pass requests on and lose every answer."""
        self._mark = mark

    def slow_down(self, seconds: float) -> None:
        """Pass everything on so much later, one chunk after the other."""
        self._delay = seconds

    def heal(self) -> None:
        """Forward again; a connection that lost an answer is of no use any more."""
        self._mark = None
        if self.loses_answers:
            self.loses_answers = False
            self.reset()
        self._refuses = False
        self._delay = 0.0
        self._passes.set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See `Listener.converse`."""
        await self._passes.wait()
        if self._refuses:
            _reset(writer)
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._upstream)
        pipes = {writer, back}
        self._pipes |= pipes
        try:
            requests = asyncio.create_task(self._pump(reader, back, looks=True))
            pumps = [requests, asyncio.create_task(self._pump(there, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._pipes -= pipes
            back.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, looks: bool = False) -> None:
        while chunk := await reader.read(_CHUNK):
            await self._passes.wait()
            await asyncio.sleep(self._delay)
            if looks:
                self.loses_answers |= self._mark is not None and self._mark in chunk
            elif self.loses_answers:
                continue
            writer.write(chunk)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    plug: socket.socket | None = writer.get_extra_info("socket")
    if plug is not None and plug.fileno() >= 0:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    writer.transport.abort()
