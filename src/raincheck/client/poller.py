"""The driver for the handle tools: submits, waits, answers and cancels over any session that can call tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raincheck.client.driver import Driver
from raincheck.client.handle_calls import HandleCalls, HandleTask, NotHeld
from raincheck.client.models import (
    InputCallback,
    ProgressCallback,
    SubmittedCallback,
    TaskHandle,
    TaskResult,
    TaskView,
    handle_of,
)
from raincheck.client.parsing import Answer, Session, inline_result, is_ticket, read_answer, read_ticket
from raincheck.client.result_download import large_answer
from raincheck.client.wait import Wait
from raincheck.errors import TaskNotFound


class TaskPoller(Driver):
    """Runs operations through the handle tools and does the polling, so that neither model nor program has to.

    One poller serves any number of sessions and tasks at once; it keeps no connection: each `session` calls a server's
    tools. A wait that ends early, by its bounds, by cancellation or with its process, leaves the task running: `cancel`
    alone ends it.

    Args:
        policy: How often to ask, and the bounds.
        on_progress, on_input, on_submitted: What every call below uses where it is given none of its own.
        whole_results: Whether a large result is fetched whole, by `resources/read`, in place of its preview; where the
            session cannot read resources it stays the preview.
    """

    async def run(
        self,
        session: Session,
        operation_type: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        max_wait_seconds: float | None = None,
        on_progress: ProgressCallback | None = None,
        on_input: InputCallback | None = None,
        on_submitted: SubmittedCallback | None = None,
    ) -> TaskResult:
        """Submit an operation and wait for its result.

        Args:
            operation_type: Which operation.
            parameters: Its own parameters.
            idempotency_key: One made for this run where there is none, so that its own retries do the work once.
            max_wait_seconds: The task's deadline, from acceptance, kept by the server.
            on_progress: Called when status or progress has changed.
            on_input: Answers what the task asks; without it, a question raises `InputNeeded`.
            on_submitted: Called with the handle before the wait.

        Raises:
            CallError: The server refused the call; no task was made.
            TaskFailure: The task failed: the class that belongs to its code.
            TaskWasCancelled, WaitTimedOut, InputNeeded, ConnectionLost, BadAnswer: See `raincheck.client.errors`.
        """
        handle, hint = await self._calls(session).submit(
            operation_type, parameters, idempotency_key=idempotency_key, max_wait_seconds=max_wait_seconds
        )
        await self._accepted(handle, on_submitted)
        return await self._follow(session, handle, hint, on_progress, on_input)

    async def submit(
        self,
        session: Session,
        operation_type: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        max_wait_seconds: float | None = None,
    ) -> TaskHandle:
        """Submit an operation; its handle, once the task is durable. Raises as `run` does."""
        handle, _ = await self._calls(session).submit(
            operation_type, parameters, idempotency_key=idempotency_key, max_wait_seconds=max_wait_seconds
        )
        return handle

    async def resume(
        self,
        session: Session,
        task: TaskHandle | str,
        *,
        on_progress: ProgressCallback | None = None,
        on_input: InputCallback | None = None,
    ) -> TaskResult:
        """Wait for a task that was submitted before, by this process or another one; a `task_ref` is enough.

        Raises:
            TaskNotFound: Unknown, expired, or another caller's.
            RaincheckError: As `run` does.
        """
        return await self._follow(session, handle_of(task), None, on_progress, on_input)

    async def result(self, session: Session, task: TaskHandle | str) -> TaskResult:
        """`resume` without callbacks of its own: the task's result, waited for where it is not there yet."""
        return await self.resume(session, task)

    async def status(self, session: Session, task: TaskHandle | str, *, wait_seconds: float = 0.0) -> TaskView:
        """The task as it is, or as it is when it ends or asks something within `wait_seconds` (at most 25)."""
        try:
            return await self._calls(session).status(handle_of(task), hold=wait_seconds)
        except NotHeld:
            return await self._calls(session).status(handle_of(task))

    async def cancel(self, session: Session, task: TaskHandle | str) -> TaskView:
        """End the task; a settled one stays as it is. The task as it is then."""
        return await self._calls(session).cancel(handle_of(task))

    async def answer(
        self, session: Session, task: TaskHandle | str, responses: Mapping[str, Mapping[str, Any]]
    ) -> TaskView:
        """Answer what the task asks, by the keys of its requests. The task as it is then."""
        return await self._calls(session).provide(handle_of(task), responses)

    async def resolve_if_ticket(
        self,
        session: Session,
        result: Any,
        *,
        on_progress: ProgressCallback | None = None,
        on_input: InputCallback | None = None,
        on_submitted: SubmittedCallback | None = None,
    ) -> TaskResult:
        """What a typed tool's call comes to: its result as it stands, or, where it is a ticket, the task's result.

        Args:
            session: The session that the tool was called on.
            result: What `call_tool` returned, of any SDK.
            on_progress, on_input, on_submitted: As in `run`.

        Raises:
            RaincheckError: As `run` does.
        """
        answer = read_answer(result)
        payload = answer.payload()
        if payload is None or not is_ticket(answer):
            return await self._whole_answer(session, answer)
        handle, hint = read_ticket(payload)
        await self._accepted(handle, on_submitted)
        return await self._follow(session, handle, hint, on_progress, on_input)

    async def _follow(
        self,
        session: Session,
        handle: TaskHandle,
        hint: float | None,
        on_progress: ProgressCallback | None,
        on_input: InputCallback | None,
    ) -> TaskResult:
        progress, hold = on_progress or self._on_progress, self._policy.hold_seconds
        task = HandleTask(self._calls(session), handle, hold, watched=progress is not None, hint=hint)
        wait = Wait(task, self._policy, on_progress=progress, on_input=on_input or self._on_input)
        result = await wait.outcome(pause=None if hold else hint)
        large = large_answer(result.value, session, handle) if self._whole_results else None
        if large is None:
            return result
        return TaskResult.of_value(await large.value(session, self._policy, handle), handle)

    async def _whole_answer(self, session: Session, answer: Answer) -> TaskResult:
        large = large_answer(answer.structured, session, None) if self._whole_results else None
        if large is None:
            return inline_result(answer)
        try:
            return inline_result(read_answer(await large.call_result(session, self._policy, None)))
        except TaskNotFound:
            # It may be another server's preview, which this one handed on.
            return inline_result(answer)

    def _calls(self, session: Session) -> HandleCalls:
        return HandleCalls(session, self._policy)
