"""A connection of one stream each way (stdio): what is read is answered, and what is written can be written.

The SDK breaks off the calls under way when its input ends, passes over a line that it cannot read, and ends the whole
server at a text that UTF-8 cannot hold. Here the end of the input is passed on once every call that was read has its
answer, or the time for that is over.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import (
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from raincheck.domain.unicode_text import well_formed, well_formed_json
from raincheck.mcp.wire.unreadable import refusal_of

logger = logging.getLogger(__name__)

AtEnd = Callable[[float], Awaitable[None]]

_LEAST_SECONDS = 2.0
"""Calls that need no more are answered also where nothing is drained."""
_LAST_SECONDS = 2.0
# It is open for as long as its client listens.
_UNENDING = frozenset({"subscriptions/listen"})


def answer_to_the_end(
    lowlevel: Any, *, drain_seconds: float, at_end: Callable[[], AtEnd | None] = lambda: None
) -> None:
    """Have the SDK's server do so on each of its connections from now on.

    Args:
        lowlevel: The SDK's `Server`.
        drain_seconds: How long calls under way are waited for when the input has ended.
        at_end: What then ends those that are held longer, told how many of the seconds are left.
    """
    run = lowlevel.run

    async def answering(read_stream: Any, write_stream: Any, *args: Any, **more: Any) -> None:
        calls = _Calls()
        writing = _Writing(write_stream, calls)
        reading = _Reading(read_stream, writing, calls, max(drain_seconds, _LEAST_SECONDS), at_end)
        await run(reading, writing, *args, **more)

    lowlevel.run = answering


class _Calls:
    """The requests of one connection that have no answer yet."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._none = anyio.Event()

    def read(self, message: JSONRPCMessage) -> None:
        if isinstance(message, JSONRPCRequest) and message.method not in _UNENDING:
            self._open.add(str(message.id))
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            # It gets no answer any more.
            self.ended((message.params or {}).get("requestId"))

    def ended(self, request_id: Any) -> None:
        self._open.discard(str(request_id))
        if not self._open:
            self._none.set()

    async def answered(self, seconds: float) -> bool:
        """Whether all are, within so many seconds."""
        with anyio.move_on_after(seconds):
            while self._open:
                self._none = anyio.Event()
                await self._none.wait()
        return not self._open


class _Wrapped:
    """A stream around another one, which opens and closes with it."""

    _stream: Any

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stream.__aexit__(kind, error, trace)


class _Writing(_Wrapped):
    """See `mcp.shared._stream_protocols.WriteStream`."""

    def __init__(self, stream: Any, calls: _Calls) -> None:
        self._stream = stream
        self._calls = calls

    async def send(self, item: SessionMessage, /) -> None:
        message = item.message
        clean = _well_formed(message)
        try:
            await self._stream.send(item if clean is message else SessionMessage(clean, item.metadata))
        finally:
            if isinstance(message, JSONRPCResponse | JSONRPCError):
                self._calls.ended(message.id)


class _Reading(_Wrapped):
    """See `mcp.shared._stream_protocols.ReadStream`."""

    def __init__(
        self, stream: Any, writing: _Writing, calls: _Calls, seconds: float, at_end: Callable[[], AtEnd | None]
    ) -> None:
        self._stream = stream
        self._writing = writing
        self._calls = calls
        self._seconds = seconds
        self._at_end = at_end

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        while True:
            try:
                item = await self._stream.receive()
            except anyio.EndOfStream:
                await self._drained()
                raise
            if isinstance(item, SessionMessage):
                # A request over HTTP is answered as long as its caller is there, which its own connection knows.
                if item.metadata is None:
                    self._calls.read(item.message)
                return item
            logger.debug("an unreadable message: %r", item)
            if (refusal := refusal_of(item)) is not None:
                await self._writing.send(SessionMessage(refusal))

    async def _drained(self) -> None:
        began = anyio.current_time()
        if await self._calls.answered(self._seconds):
            return
        logger.info("the client closed its input; calls under way are answered as things stand")
        if (end := self._at_end()) is not None:
            await end(max(0.0, self._seconds - (anyio.current_time() - began)))
            await self._calls.answered(_LAST_SECONDS)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


def _well_formed(message: JSONRPCMessage) -> JSONRPCMessage:
    if isinstance(message, JSONRPCError):
        told = message.error
        text, data = well_formed(told.message), well_formed_json(told.data)
        if text is told.message and data is told.data:
            return message
        return message.model_copy(update={"error": ErrorData(code=told.code, message=text, data=data)})
    member = "result" if isinstance(message, JSONRPCResponse) else "params"
    value = getattr(message, member)
    clean = well_formed_json(value)
    return message if clean is value else message.model_copy(update={member: clean})
