"""The protocol of the handle tools: their calls, and one task over them.

Every call may be sent twice: a submission has its idempotency key, the others may be repeated by their nature.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from raincheck.client.errors import BadAnswer, error_from
from raincheck.client.models import TaskHandle, TaskResult, TaskView
from raincheck.client.parsing import Session, call_tool, read_ticket, read_view, refusal
from raincheck.client.policy import LONGEST_HOLD, Pace, PollingPolicy
from raincheck.client.retries import INVALID_PARAMS, rpc_error, timed_out, with_retry
from raincheck.domain.task import TaskStatus
from raincheck.errors import CallError, InvalidParameters, TaskNotFound

logger = logging.getLogger(__name__)

# A server that knows its client as impatient holds for less than it was asked to: what lasted this long was held.
_HELD_SECONDS = 0.8
_HELD_SHARE = 0.8
# Progress does not end a held answer. Where it is watched it is looked for so often.
_WATCHED_SECONDS = 2.0

_T = TypeVar("_T")


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
        parameters: Mapping[str, Any] | None,
        *,
        idempotency_key: str | None,
        max_wait_seconds: float | None,
    ) -> tuple[TaskHandle, float | None]:
        """The handle of the accepted task, and when the server wants to be asked; a call without a key gets one."""
        idempotency_key = idempotency_key or f"rc-{secrets.token_urlsafe(18)}"
        arguments: dict[str, Any] = {
            "operation_type": operation_type,
            "parameters": dict(parameters or {}),
            "idempotency_key": idempotency_key,
        }
        if max_wait_seconds is not None:
            arguments["max_wait_seconds"] = max_wait_seconds
        read = partial(read_ticket, idempotency_key=idempotency_key)
        return await self._in_full(partial(self._call, "initiate_background_task", read), arguments)

    async def status(self, handle: TaskHandle, *, hold: float | None = None) -> TaskView:
        """The task as it is, or as it is when it ends or asks within `hold` seconds; None leaves that to the server.

        Raises:
            NotHeld: It was to be held, and cannot be. Without `hold` it may well be answered.
        """
        arguments: dict[str, Any] = {"task_ref": handle.task_ref}
        if hold is not None:
            arguments["wait_seconds"] = round(min(hold, LONGEST_HOLD), 3)
        read = partial(read_view, handle=handle)
        call = partial(self._call, "resolve_task_status", read, handle=handle, hold=hold or 0.0)
        try:
            return await self._in_full(call, arguments)
        except Exception as error:
            # Another server's handle tools may know no wait_seconds.
            refused = isinstance(error, CallError) or _refuses_parameters(error)
            if hold is None or isinstance(error, TaskNotFound) or not refused:
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
        return await self._call(name, partial(read_view, handle=handle), arguments, handle=handle)

    async def _in_full(self, call: Callable[[dict[str, Any]], Awaitable[_T]], arguments: dict[str, Any]) -> _T:
        """The answer in its full form, or as it comes from a server that does not take `detail`."""
        try:
            return await call({**arguments, **self._detail})
        except Exception as error:
            if not self._detail or not _refuses_parameters(error):
                raise
        # The parameters may be wrong for another reason: then this call is refused as well.
        answer = await call(arguments)
        self._detail = {}
        return answer

    async def _call(
        self,
        name: str,
        read: Callable[[Mapping[str, Any]], _T],
        arguments: dict[str, Any],
        *,
        handle: TaskHandle | None = None,
        hold: float = 0.0,
    ) -> _T:
        async def send() -> _T:
            try:
                async with asyncio.timeout(self._policy.answer_seconds + hold):
                    return read(await self._payload(name, arguments, handle))
            except Exception as error:
                if hold and timed_out(error):
                    raise NotHeld from error
                raise

        return await with_retry(send, name, retries=self._policy.call_retries, handle=handle)

    async def _payload(self, name: str, arguments: dict[str, Any], handle: TaskHandle | None) -> Mapping[str, Any]:
        answer = await call_tool(self._session, name, arguments)
        refused = refusal(answer)
        if refused is not None:
            raise refused
        payload = answer.payload()
        if payload is None:
            raise BadAnswer(f"{name} answered without a JSON object", handle=handle)
        return payload


class HandleTask:
    """One task over the handle tools; the server is asked to hold its answers.

    Args:
        calls: The server's handle tools.
        handle: The task.
        hold_seconds: How long an answer is to be held; 0: not at all.
        watched: Whether progress is watched.
        hint: When the server wants to be asked first.
    """

    def __init__(
        self, calls: HandleCalls, handle: TaskHandle, hold_seconds: float, *, watched: bool, hint: float | None
    ) -> None:
        self.handle = handle
        self._calls = calls
        self._hold: float | None = min(hold_seconds, LONGEST_HOLD)
        self._watched = watched
        self._hint = hint

    async def look(self, pace: Pace) -> tuple[TaskView, bool]:
        """The task, and whether the server held the answer."""
        hold = self._hold
        if hold and self._watched:
            hold = min(hold, _WATCHED_SECONDS, pace.interval(self._hint))
        if hold is not None:
            hold = min(hold, pace.remaining)
        pace.attempts += 1
        started = time.monotonic()
        try:
            view = await self._calls.status(self.handle, hold=hold)
        except NotHeld:
            logger.info("the server does not hold its answers: asking from time to time")
            self._hold = hold = None
            view = await self._calls.status(self.handle)
        self._hint = view.poll_after_seconds
        took = time.monotonic() - started
        return view, bool(hold) and took >= min(_HELD_SECONDS, hold * _HELD_SHARE)

    async def provide(self, responses: Mapping[str, Mapping[str, Any]]) -> bool:
        """Answer its questions; whether it asks nothing more."""
        return (await self._calls.provide(self.handle, responses)).status is not TaskStatus.INPUT_REQUIRED

    def outcome(self, view: TaskView) -> TaskResult:
        """Its result.

        Raises:
            TaskFailure: It failed: the class that belongs to its code.
        """
        if view.error is not None:
            raise error_from(view.error.public(), failed_task=view.handle)
        return TaskResult.of_value(view.result, view.handle)


def _refuses_parameters(error: Exception) -> bool:
    """Whether the call's parameters were refused, by a tool's error, with a code or without, or by the protocol's."""
    refused = isinstance(error, InvalidParameters) or type(error) is CallError
    return refused or rpc_error(error, "code") == INVALID_PARAMS
