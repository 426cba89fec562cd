"""Admission: how much each scope may have under way in this process, decided in one place for every request.

A host puts `Admission.request` around every message that its server takes, whatever the method, the protocol version
and the transport. What a request holds (a place among its scope's, the bytes that it brought and those of its answer)
is given back when it has been answered; over streamable HTTP, when the answer has been taken
(`raincheck.mcp.server.exchanges`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakSet

from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_METHOD_HEADER
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from raincheck.config.settings import Settings
from raincheck.domain.unicode_text import well_formed, well_formed_json
from raincheck.errors import RateLimited
from raincheck.limits.call_rate import CallRate
from raincheck.mcp.admission.answer_queue import AnswerTurns
from raincheck.mcp.admission.bytes_in_flight import BytesUnderWay, size_of
from raincheck.mcp.admission.slots import Places
from raincheck.mcp.auth.scopes import scope_of
from raincheck.mcp.server.exchanges import Exchange, guard_managers
from raincheck.mcp.surfaces.negotiation import CORE_TASKS_VERSION
from raincheck.mcp.wire import tool_results
from raincheck.mcp.wire.protocol_errors import rpc_error_of

_LARGEST_INITIALIZE = 16 * 1024
"""Bytes of an `initialize`: what a client says of itself there is kept for as long as its session."""

_FREE_BYTES = 16 * 1024
"""Up to here bytes are not counted: with their number, the places bound them."""


class Lease:
    """What one request holds of what its scope may have.

    Args:
        scope: Whose request it is.
        place: Where it has a place.
        bytes_under_way: Counts its bytes.
        turns: Whose turn it is to make a large answer; None where there is no other caller.
    """

    def __init__(
        self, scope: str, place: Places | None, bytes_under_way: BytesUnderWay, turns: AnswerTurns | None = None
    ) -> None:
        self._scope = scope
        self._place = place
        self._bytes = bytes_under_way
        self._turns = turns
        self._brought = self._reserved = 0
        self._holders = 1
        self._has_turn = False

    def brought(self, size: int) -> None:
        """Count the request's own bytes. Raises as `reserve` does."""
        if size > _FREE_BYTES:
            self._bytes.take(self._scope, size)
            self._brought += size

    def reserve(self, size: int) -> None:
        """Count so many bytes of the answer, before they are read.

        Raises:
            RateLimited: The scope, or all together, have too many under way.
        """
        if size > _FREE_BYTES:
            self._bytes.take(self._scope, size)
            self._reserved += size

    async def turn(self) -> None:
        """Wait until no other call of the scope makes a large answer, where this one is large and is read by now."""
        if self._turns is not None and self._reserved and not self._has_turn:
            await self._turns.take(self._scope)
            self._has_turn = True

    def made(self) -> None:
        """The answer is made: the next one's turn."""
        if self._turns is not None and self._has_turn:
            self._has_turn = False
            self._turns.give_back(self._scope)

    def answered(self, size: int) -> None:
        """The answer has so many bytes, whatever was reserved. The work is done: it is not refused any more."""
        size = size if size > _FREE_BYTES else 0
        if size > self._reserved:
            self._bytes.take(self._scope, size - self._reserved, must=True)
        else:
            self._bytes.give_back(self._scope, self._reserved - size)
        self._reserved = size

    def hold(self) -> None:
        """Another holder has it too, and will release it."""
        self._holders += 1

    def release(self) -> None:
        """One of its holders is done; the last one gives everything back."""
        self._holders -= 1
        if self._holders == 0:
            self.made()
            self._bytes.give_back(self._scope, self._brought + self._reserved)
            if self._place is not None:
                self._place.give_back(self._scope)


class Admission:
    """Admits the requests to one server.

    Args:
        settings: [limits] and [polling] say how much, and how often.
    """

    def __init__(self, settings: Settings) -> None:
        limits, polling = settings.limits, settings.polling
        self._buckets = CallRate(polling.calls_per_second, polling.call_burst)
        self._calls = Places(
            limits.max_calls_per_scope,
            "Too many calls are under way: at most {most} at once (max_calls_per_scope). Wait until one has ended.",
        )
        self._inline = Places(
            limits.max_inline_calls_per_scope,
            "Too many calls run in their requests: at most {most} at once (max_inline_calls_per_scope). "
            "Wait until one has ended.",
        )
        self._streams = Places(
            limits.max_streams_per_scope,
            "Too many streams are open: at most {most} (max_streams_per_scope). End one, or name more tasks on one.",
        )
        self._sessions = Places(
            limits.max_sessions_per_scope,
            "Too many sessions are open: at most {most} (max_sessions_per_scope). End one, or call more often in one.",
        )
        self._bytes = BytesUnderWay(limits.max_bytes_per_scope, limits.max_bytes)
        self._turns = AnswerTurns()
        self._known_sessions: WeakSet[Any] = WeakSet()

    async def request(
        self, ctx: ServerRequestContext[Any, Any], answer: Callable[[Lease], Awaitable[HandlerResult]]
    ) -> HandlerResult:
        """The answer, made while the request has what it needs; or the refusal.

        Raises:
            MCPError: The request is refused, and is no call of a tool, whose model reads the refusal in the result.
        """
        try:
            lease = self._admitted(ctx)
        except RateLimited as error:
            return _refusal(ctx, error)
        try:
            result = well_formed_json(await answer(lease))
            lease.answered(size_of(result))
            return result
        except RateLimited as error:
            return _refusal(ctx, error)
        except MCPError as error:
            raise _well_formed(error) from error.__cause__
        finally:
            if Exchange.of(ctx.request) is None:
                lease.made()
            lease.release()

    async def inline(
        self, ctx: ServerRequestContext[Any, Any], call: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """The answer of a call whose operation runs in its request, without the bounds that tasks have.

        Raises:
            RateLimited: As many of its scope run already.
        """
        scope = scope_of(ctx)
        self._inline.take(scope)
        try:
            return await call()
        finally:
            self._inline.give_back(scope)

    def _admitted(self, ctx: ServerRequestContext[Any, Any]) -> Lease:
        scope = scope_of(ctx)
        if ctx.request_id is None or _is_sdks_own(ctx):
            return Lease(scope, None, self._bytes)
        exchange = Exchange.of(ctx.request)
        if ctx.method == "initialize":
            # First: also where the rest is refused the SDK keeps the session.
            self._open_session(ctx, scope, exchange)
        self._buckets.take(scope)
        self._bytes.check(scope)
        place = self._streams if ctx.method == "subscriptions/listen" else self._calls
        place.take(scope)
        lease = Lease(scope, place, self._bytes, None if ctx.request is None else self._turns)
        try:
            self._keep(lease, ctx, exchange)
        except RateLimited:
            lease.release()
            raise
        return lease

    def _keep(self, lease: Lease, ctx: ServerRequestContext[Any, Any], exchange: Exchange | None) -> None:
        """Have the lease held for as long as the answer is under way, where that is longer than its making."""
        if exchange is not None:
            lease.brought(exchange.received)
            lease.hold()
            exchange.keep(lease)
        elif ctx.request is not None and not guard_managers(ctx.request, self._sessions):
            # The transport SSE: a task of the session's handles the request, and ends when its answer is written.
            task = asyncio.current_task()
            if task is not None:
                lease.hold()
                task.add_done_callback(lambda _: lease.release())

    def _open_session(self, ctx: ServerRequestContext[Any, Any], scope: str, exchange: Exchange | None) -> None:
        """Count the session that this request begins, until its connection ends."""
        connection: Any = getattr(ctx.session, "_connection", None)
        if connection is not None and connection not in self._known_sessions:
            if exchange is not None and exchange.opening:
                exchange.opening = False
            else:
                self._sessions.take(scope)
            self._known_sessions.add(connection)
            connection.exit_stack.callback(self._sessions.give_back, scope)
        if size_of(ctx.params) > _LARGEST_INITIALIZE:
            raise MCPError(INVALID_PARAMS, f"initialize must have at most {_LARGEST_INITIALIZE} bytes")


def _well_formed(error: MCPError) -> MCPError:
    told = error.error
    message, data = well_formed(told.message), well_formed_json(told.data)
    # Most are as they should be, and may be of a kind of their own.
    return error if message is told.message and data is told.data else MCPError(told.code, message, data)


def _is_sdks_own(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether the SDK asks for the tools, to check the headers of a call: the call itself is counted."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        # There that header is the caller's own word.
        return False
    headers: Any = getattr(ctx.request, "headers", None) or {}
    return ctx.method == "tools/list" and headers.get(MCP_METHOD_HEADER) == "tools/call"


def _refusal(ctx: ServerRequestContext[Any, Any], error: RateLimited) -> dict[str, Any]:
    of_core_task = ctx.protocol_version == CORE_TASKS_VERSION and (ctx.params or {}).get("task") is not None
    if ctx.method != "tools/call" or of_core_task:
        raise rpc_error_of(error, INTERNAL_ERROR)
    result = tool_results.call_error(error)
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        del result["resultType"]
    return result
