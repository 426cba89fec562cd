"""Calls of the handle tools, each tried again where its connection is lost or the server is busy.

That is safe for every one of them: a submission has its idempotency key, the others may be repeated by their nature.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from raincheck.client.errors import BadAnswer, ConnectionLost, passing, retry_after
from raincheck.client.models import TaskHandle, TaskView
from raincheck.client.parsing import Session, call_tool, read_ticket, read_view, refusal
from raincheck.client.policy import LONGEST_HOLD, PollingPolicy
from raincheck.client.reconnecting import backoff, lost_connection, timed_out
from raincheck.errors import CallError, InternalError, InvalidParameters, TaskNotFound

__all__ = ["HandleCalls", "NotHeld"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


_INVALID_PARAMS = -32602


class NotHeld(Exception):
    """The server, or something on the way to it, does not let an answer be held."""


class HandleCalls:
    """Calls the handle tools of one server.

    Args:
        session: Calls its tools.
        policy: How long an answer may take, and how often a call is tried again.
    """

    def __init__(self, session: Session, policy: PollingPolicy) -> None:
        self._session = session
        self._policy = policy
        # Every member, where the server has this parameter: a model's answer names no time to ask again.
        self._detail = {"detail": "full"}

    async def submit(
        self,
        operation_type: str,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str,
        max_wait_seconds: float | None,
    ) -> tuple[TaskHandle, float | None]:
        """The handle of the accepted task, and when the server wants to be asked."""
        arguments: dict[str, Any] = {
            "operation_type": operation_type,
            "parameters": dict(parameters),
            "idempotency_key": idempotency_key,
        }
        if max_wait_seconds is not None:
            arguments["max_wait_seconds"] = max_wait_seconds
        read = partial(read_ticket, idempotency_key=idempotency_key)
        return await self._call_in_full("initiate_background_task", arguments, read)

    async def status(self, handle: TaskHandle, *, hold: float | None = None) -> TaskView:
        """The task as it is, or as it is when it ends or asks within `hold` seconds; None leaves that to the server.

        Raises:
            NotHeld: It was to be held, and cannot be. Without `hold` it may well be answered.
        """
        arguments: dict[str, Any] = {"task_ref": handle.task_ref}
        read = partial(read_view, handle=handle)
        if hold is None:
            return await self._call_in_full("resolve_task_status", arguments, read, handle)
        arguments["wait_seconds"] = round(min(hold, LONGEST_HOLD), 3)
        try:
            return await self._call_in_full("resolve_task_status", arguments, read, handle, hold=hold)
        except TaskNotFound:
            raise
        except Exception as error:
            # Another server's handle tools may know no wait_seconds.
            if not isinstance(error, CallError) and not _refuses_parameters(error):
                raise
            if not hold:
                return await self.status(handle)
            raise NotHeld from error

    async def cancel(self, handle: TaskHandle) -> TaskView:
        """End the task; as it is then."""
        return await self._call_for("cancel_background_task", {"task_ref": handle.task_ref}, handle)

    async def provide(self, handle: TaskHandle, responses: Mapping[str, Mapping[str, Any]]) -> TaskView:
        """Answer its questions by their keys; the task as it is then."""
        given = {key: dict(response) for key, response in responses.items()}
        arguments = {"task_ref": handle.task_ref, "responses": given}
        return await self._call_for("provide_task_input", arguments, handle)

    async def _call_for(self, name: str, arguments: dict[str, Any], handle: TaskHandle) -> TaskView:
        return await self._call(name, arguments, partial(read_view, handle=handle), handle)

    async def _call_in_full(
        self,
        name: str,
        arguments: dict[str, Any],
        read: Callable[[Mapping[str, Any]], _T],
        handle: TaskHandle | None = None,
        *,
        hold: float = 0.0,
    ) -> _T:
        """The answer in its full form, or as it comes from a server that does not take `detail`."""
        try:
            return await self._call(name, {**arguments, **self._detail}, read, handle, hold=hold)
        except Exception as error:
            if not self._detail or not _refuses_parameters(error):
                raise
        # The parameters may be wrong for another reason: then this call is refused as well.
        answer = await self._call(name, arguments, read, handle, hold=hold)
        self._detail = {}
        return answer

    async def _call(
        self,
        name: str,
        arguments: dict[str, Any],
        read: Callable[[Mapping[str, Any]], _T],
        handle: TaskHandle | None = None,
        *,
        hold: float = 0.0,
    ) -> _T:
        attempt = 0
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(self._policy.answer_seconds + hold):
                    return read(await self._payload(name, arguments, handle))
            except Exception as error:
                last = attempt > self._policy.call_retries
                pause = self._pause(error, attempt, last=last)
                if pause is None:
                    raise
                if hold and timed_out(error):
                    raise NotHeld from error
                if last:
                    message = f"{name} got no answer in {attempt} tries; the last one: {_named(error)}."
                    raise ConnectionLost(message, handle=handle) from error
                logger.info("%s is tried again in %.1f s: %s", name, pause, type(error).__name__)
            await asyncio.sleep(pause)

    async def _payload(self, name: str, arguments: dict[str, Any], handle: TaskHandle | None) -> Mapping[str, Any]:
        answer = await call_tool(self._session, name, arguments)
        refused = refusal(answer)
        if refused is not None:
            raise refused
        payload = answer.payload()
        if payload is None:
            raise BadAnswer(f"{name} answered without a JSON object", handle=handle)
        return payload

    def _pause(self, error: Exception, attempt: int, *, last: bool) -> float | None:
        """How long to wait before the next try; None where the error is the answer."""
        if isinstance(error, ConnectionLost):
            return None  # the session has tried long enough itself
        if isinstance(error, CallError | InternalError):
            return max(backoff(attempt), retry_after(error) or 0.0) if passing(error) and not last else None
        if isinstance(error, BadAnswer):
            return None if last else backoff(attempt)
        return backoff(attempt) if lost_connection(error) else None


def _refuses_parameters(error: Exception) -> bool:
    """Whether the call's parameters were refused, by a tool's error, with a code or without, or by the protocol's."""
    told = getattr(getattr(error, "error", None), "code", None)
    return isinstance(error, InvalidParameters) or type(error) is CallError or told == _INVALID_PARAMS


def _named(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
