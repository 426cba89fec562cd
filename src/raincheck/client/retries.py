"""Calls that may be sent twice: lost connections in any SDK's errors, passing refusals, pauses between tries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

from raincheck.client.errors import BadAnswer, ConnectionLost, error_from
from raincheck.client.models import TaskHandle
from raincheck.errors import CallError, InternalError, RaincheckError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

INVALID_PARAMS = -32602
"""JSON-RPC's code for parameters that the server refuses."""

# By name, since neither anyio nor an HTTP library nor an SDK is imported here.
_LOST = frozenset(
    {"BrokenResourceError", "ClosedResourceError", "EndOfStream", "TransportError", "IncompleteReadError"}
)
_PROTOCOL_ERRORS = frozenset({"MCPError", "McpError"})
# JSON-RPC codes that the SDKs make themselves: connection closed, request timed out (2.x, 1.x), no JSON in the answer.
_LOST_CODES = frozenset({-32000, -32001, 408, -32700})
_TIMED_OUT_CODES = frozenset({-32001, 408})
# And texts, where the code alone says too little: an HTTP status of 5xx, a restarted server that forgot the session.
_LOST_TEXTS = frozenset({"Server returned an error response", "Session terminated"})
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_LONGEST_RETRY_AFTER = 30.0


def lost_connection(error: BaseException) -> bool:
    """Whether the error says that no answer came, so that the call may or may not have reached the server."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(lost_connection(each) for each in group.exceptions)
    if isinstance(error, OSError | EOFError | ConnectionLost):
        return True
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & _PROTOCOL_ERRORS:
        return rpc_error(error, "code") in _LOST_CODES or rpc_error(error, "message") in _LOST_TEXTS
    return bool(names & _LOST)


def timed_out(error: BaseException) -> bool:
    """Whether the answer was not waited for any longer, by us or by the session's own limit."""
    return isinstance(error, TimeoutError) or rpc_error(error, "code") in _TIMED_OUT_CODES


def rpc_error(error: BaseException, member: str) -> Any:
    """A member of the JSON-RPC error that an SDK raised; None where it is another error."""
    return getattr(getattr(error, "error", None), member, None)


def backoff(attempt: int) -> float:
    """The pause before try number `attempt` (from 1) of a call whose connection was lost, in seconds."""
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempt - 1, 16))


async def with_retry(
    send: Callable[[], Awaitable[_T]], name: str, *, retries: int, handle: TaskHandle | None = None
) -> _T:
    """The answer of a call, sent again where its connection is lost, the server is busy or the answer makes no sense.

    Args:
        send: Sends the call once and reads its answer.
        name: The call in logs and errors.
        retries: How often the call is sent again.
        handle: The task that it is about, where that is known.

    Raises:
        ConnectionLost: No answer came, or the session gave the connection up.
        Exception: What `send` raises otherwise.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return await send()
        except Exception as error:
            pause, last = _pause(error, attempt), attempt > retries
            if pause is None or (last and isinstance(error, RaincheckError)):
                raise
            if last:
                message = f"{name} got no answer in {attempt} tries; the last one: {_named(error)}."
                raise ConnectionLost(message, handle=handle) from error
            logger.info("%s is tried again in %.1f s: %s", name, pause, type(error).__name__)
        await asyncio.sleep(pause)


def _pause(error: Exception, attempt: int) -> float | None:
    """The pause before the next try; None where the error is the answer."""
    if isinstance(error, ConnectionLost):
        return None  # the session has tried long enough itself
    if (wished := _retry_after(error)) is not None:
        return max(backoff(attempt), wished)
    return backoff(attempt) if isinstance(error, BadAnswer) or lost_connection(error) else None


def _retry_after(error: Exception) -> float | None:
    """The pause that a passing refusal asks for, 0 where it names none; None for what will not pass in time."""
    data = rpc_error(error, "data")
    refusal = error_from(cast("Mapping[str, Any]", data)) if isinstance(data, Mapping) else error
    if not isinstance(refusal, CallError | InternalError) or not refusal.retryable:
        return None
    wished = refusal.details.get("retry_after_seconds", 0.0)
    seconds = float(wished) if isinstance(wished, int | float) else 0.0
    return seconds if 0 <= seconds <= _LONGEST_RETRY_AFTER else None


def _named(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
