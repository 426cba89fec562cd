"""The tasks extension behind an unchanged `call_tool` of the SDK's `Client`. Needs mcp 2.x."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import anyio
from mcp import Client
from mcp.client import ClientRequestContext, ClientSession
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, ErrorData, Request, Result
from pydantic import ValidationError

from raincheck.client.errors import BadAnswer, ConnectionLost, TaskWasCancelled, WaitTimedOut
from raincheck.client.models import InputCallback, ProgressCallback, SubmittedCallback, TaskHandle, TaskView, handle_of
from raincheck.client.policy import Pace, PollingPolicy
from raincheck.client.reconnecting import backoff, lost_connection
from raincheck.client.result_download import large_answer
from raincheck.client.tasks_wire import (
    TASKS_EXTENSION,
    Acknowledged,
    CancelTask,
    CreatedTask,
    DetailedTask,
    GetTask,
    TaskParams,
    UpdateParams,
    UpdateTask,
    call_error,
    call_result,
    request_of,
    view_of,
)
from raincheck.client.wait import Changes, Questions, left_running, settled
from raincheck.domain.task import InputRequest, TaskStatus
from raincheck.errors import TaskNotFound

__all__ = ["TasksExtension"]

logger = logging.getLogger(__name__)

_R = TypeVar("_R", bound=Result)


class TasksExtension(ClientExtension):
    """`io.modelcontextprotocol/tasks` (SEP-2663) for the SDK's `Client`: `call_tool` is called as ever.

    Declares the extension on every request. Where the server makes a task of a call, the extension polls until it is
    settled and hands back what the call would have returned; where it answers at once, nothing changes. A wait that
    ends early leaves the task running; `cancel` alone ends it. One instance serves any number of clients.

    Args:
        policy: How often to ask, and the bounds. `hold_seconds` has no meaning here.
        on_progress: Called when a task's status or `statusMessage` has changed.
        on_input: Answers what a task asks. Without it the client's own elicitation, sampling and roots callbacks do,
            as they would a direct request.
        on_submitted: Called with the handle when a call has become a task: the place to store it.
        whole_results: Whether a task's large result is fetched whole, by `resources/read`, in place of its preview; see
            `whole` for a call that was answered at once.
    """

    identifier = TASKS_EXTENSION

    def __init__(
        self,
        policy: PollingPolicy | None = None,
        *,
        on_progress: ProgressCallback | None = None,
        on_input: InputCallback | None = None,
        on_submitted: SubmittedCallback | None = None,
        whole_results: bool = True,
    ) -> None:
        self._policy = policy or PollingPolicy()
        self._on_progress = on_progress
        self._on_input = on_input
        self._on_submitted = on_submitted
        self._whole_results = whole_results

    def claims(self) -> Sequence[ResultClaim[Any]]:
        """`CreateTaskResult` on `tools/call`."""
        return (ResultClaim(result_type="task", model=CreatedTask, resolve=self._resolve),)

    async def resume(self, client: Client | ClientSession, task: TaskHandle | str) -> CallToolResult:
        """Wait for a task that a call became before, in this process or another one; its id is enough.

        Raises:
            TaskNotFound: Unknown, expired, or another caller's.
            MCPError: The task ended in the JSON-RPC error that the call would have been answered with.
            TaskWasCancelled, WaitTimedOut, ConnectionLost, BadAnswer: See `raincheck.client.errors`.
        """
        handle = handle_of(task)
        session = _session(client)
        return await self._fetched(session, handle, await self._wait(session, handle, None).result(None))

    async def status(self, client: Client | ClientSession, task: TaskHandle | str) -> TaskView:
        """The task as it is. Its outcome is `resume`'s to give."""
        handle = handle_of(task)
        return view_of(await _Methods(_session(client), handle, self._policy, None).get(), handle)

    async def cancel(self, client: Client | ClientSession, task: TaskHandle | str) -> None:
        """Ask for the end of a task; one that is settled stays as it is."""
        handle = handle_of(task)
        await _Methods(_session(client), handle, self._policy, None).cancel()

    async def whole(self, client: Client | ClientSession, result: CallToolResult) -> CallToolResult:
        """The result, or the large one whose preview it is: for a call that was answered at once, where `call_tool`
        hands out what the server gave.

        Raises:
            ConnectionLost, BadAnswer: See `raincheck.client.errors`.
        """
        session = _session(client)
        large = large_answer(result.structured_content, session, None)
        if large is None:
            return result
        try:
            return CallToolResult.model_validate(await large.call_result(session, self._policy, None), by_name=False)
        except TaskNotFound:
            # It may be another server's preview, which this one handed on.
            return result

    async def _resolve(self, created: CreatedTask, context: ClaimContext) -> CallToolResult:
        handle = TaskHandle(task_ref=created.task_id, operation_type=context.tool_name)
        if self._on_submitted is not None:
            await settled(self._on_submitted(handle))
        result = await self._wait(context.session, handle, context.read_timeout_seconds).result(created)
        return await self._fetched(context.session, handle, result)

    async def _fetched(self, session: ClientSession, handle: TaskHandle, result: CallToolResult) -> CallToolResult:
        large = large_answer(result.structured_content, session, handle) if self._whole_results else None
        if large is None:
            return result
        return CallToolResult.model_validate(await large.call_result(session, self._policy, handle), by_name=False)

    def _wait(self, session: ClientSession, handle: TaskHandle, answer_seconds: float | None) -> _TaskWait:
        methods = _Methods(session, handle, self._policy, answer_seconds)
        ask = self._on_input or _Dispatch(session, handle)
        return _TaskWait(methods, handle, Pace(self._policy), Changes(self._on_progress), Questions(ask))


class _TaskWait:
    """The wait for one task."""

    def __init__(
        self, methods: _Methods, handle: TaskHandle, pace: Pace, changes: Changes, questions: Questions
    ) -> None:
        self._methods = methods
        self._handle = handle
        self._pace = pace
        self._changes = changes
        self._questions = questions
        self._view: TaskView | None = None

    async def result(self, created: CreatedTask | None) -> CallToolResult:
        try:
            if created is not None:
                await self._look_at(view_of(created, self._handle))
                if not self._seen.terminal:
                    await self._pause()
            while True:
                self._pace.count()
                task = await self._get()
                await self._look_at(view_of(task, self._handle))
                if self._seen.terminal:
                    return self._ended(task)
                await self._answer()
                await self._pause()
        except BaseException as error:
            left_running(error, self._handle, self._view)
            raise

    @property
    def _seen(self) -> TaskView:
        assert self._view is not None
        return self._view

    async def _look_at(self, view: TaskView) -> None:
        self._view = view
        await self._changes.tell(view)

    async def _get(self) -> DetailedTask:
        remaining = self._pace.remaining
        if remaining == math.inf:
            return await self._methods.get()
        with anyio.move_on_after(remaining + 5.0):
            return await self._methods.get()
        self._check_bounds()
        raise ConnectionLost("tasks/get got no answer", handle=self._handle)

    async def _answer(self) -> None:
        if self._seen.status is TaskStatus.INPUT_REQUIRED:
            responses = await self._questions.answer(self._seen)
            if responses:
                await self._methods.update(responses)
                self._pace.restart()

    async def _pause(self) -> None:
        self._check_bounds()
        await anyio.sleep(self._pace.pause(self._seen.poll_after_seconds))
        self._check_bounds()

    def _check_bounds(self) -> None:
        bound = self._pace.used_up
        if bound is not None:
            message = f"Task {self._handle.task_ref} is not settled after {bound}; it goes on and can be resumed."
            raise WaitTimedOut(message, handle=self._handle, view=self._view)

    def _ended(self, task: DetailedTask) -> CallToolResult:
        if self._seen.status is TaskStatus.COMPLETED:
            return call_result(task, self._handle)
        if self._seen.status is TaskStatus.FAILED:
            raise MCPError.from_error_data(call_error(task, self._handle))
        raise TaskWasCancelled(f"Task {self._handle.task_ref} was cancelled.", handle=self._handle)


class _Methods:
    """The task methods for one task, each tried again where its connection is lost: all of them may be repeated."""

    def __init__(
        self, session: ClientSession, handle: TaskHandle, policy: PollingPolicy, answer_seconds: float | None
    ) -> None:
        self._session = session
        self._handle = handle
        self._policy = policy
        self._answer_seconds = answer_seconds or policy.answer_seconds

    async def get(self) -> DetailedTask:
        return await self._send(GetTask(params=TaskParams(taskId=self._handle.task_ref)), DetailedTask)

    async def update(self, responses: Mapping[str, Mapping[str, Any]]) -> None:
        given = {key: dict(response) for key, response in responses.items()}
        params = UpdateParams(taskId=self._handle.task_ref, inputResponses=given)
        await self._send(UpdateTask(params=params), Acknowledged)

    async def cancel(self) -> None:
        await self._send(CancelTask(params=TaskParams(taskId=self._handle.task_ref)), Acknowledged)

    async def _send(self, request: Request[Any, Any], answer: type[_R]) -> _R:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._session.send_request(request, answer, self._answer_seconds)
            except Exception as error:  # noqa: BLE001  raised again there, unless the connection was lost
                self._give_up(error, str(request.method), attempt)
            await anyio.sleep(backoff(attempt))

    def _give_up(self, error: Exception, method: str, attempt: int) -> None:
        """Raise what ends the wait; return where another try may help."""
        last = attempt > self._policy.call_retries
        if isinstance(error, ValidationError):
            if last:
                raise BadAnswer(f"the answer of {method} is no task", handle=self._handle) from error
        elif isinstance(error, MCPError) and error.code == INVALID_PARAMS:
            raise TaskNotFound(error.message, details={"task_ref": self._handle.task_ref}) from error
        elif not lost_connection(error) and not _busy(error):
            raise error
        elif last:
            raise ConnectionLost(
                f"{method} got no answer in {attempt} tries; the last one: {error}", handle=self._handle
            ) from error
        logger.info("%s is tried again: %s", method, type(error).__name__, extra={"task_ref": self._handle.task_ref})


class _Dispatch:
    """Has the client's own callbacks answer, exactly as they would a direct request."""

    def __init__(self, session: ClientSession, handle: TaskHandle) -> None:
        self._session = session
        self._handle = handle

    async def __call__(self, question: InputRequest) -> Mapping[str, Any]:
        request = request_of(question, self._handle)
        meta = request.params.meta if request.params else None
        context = ClientRequestContext(session=self._session, request_id=question.key, meta=meta)
        response = await self._session.dispatch_input_request(context, request)
        if isinstance(response, ErrorData):
            raise MCPError.from_error_data(response)
        return response.model_dump(mode="json", by_alias=True, exclude_none=True)


def _session(client: Client | ClientSession) -> ClientSession:
    return client.session if isinstance(client, Client) else client


def _busy(error: Exception) -> bool:
    """Whether the server says that its store does not answer at the moment."""
    data: Any = error.data if isinstance(error, MCPError) else None
    return isinstance(data, Mapping) and data.get("retryable") is True  # pyright: ignore[reportUnknownMemberType]
