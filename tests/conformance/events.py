"""Sent events kept in memory, so that a stream can be resumed (the suite's SSE scenarios)."""

from __future__ import annotations

from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import JSONRPCMessage

__all__ = ["Events"]


class Events(EventStore):
    """Every event of every stream, in order."""

    def __init__(self) -> None:
        self._events: list[tuple[StreamId, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        if not last_event_id.isdigit() or not 0 < int(last_event_id) <= len(self._events):
            return None
        stream = self._events[int(last_event_id) - 1][0]
        for number in range(int(last_event_id), len(self._events)):
            owner, message = self._events[number]
            if owner == stream and message is not None:
                await send_callback(EventMessage(message, str(number + 1)))
        return stream
