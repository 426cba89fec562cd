"""The tasks extension behind an unchanged `call_tool` of the SDK's `Client`. Needs mcp 2.x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mcp import Client
from mcp.client import ClientRequestContext, ClientSession
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, ErrorData, Result
from pydantic import ValidationError

from raincheck.client.driver import Driver
from raincheck.client.errors import BadAnswer
from raincheck.client.models import TaskHandle, TaskView, handle_of
from raincheck.client.policy import Pace, PollingPolicy
from raincheck.client.result_download import large_answer
from raincheck.client.retries import with_retry
from raincheck.client.tasks_wire import (
    TASKS_EXTENSION,
    Acknowledged,
    CreatedTask,
    DetailedTask,
    TaskMethod,
    TaskParams,
    TaskRequest,
    call_error,
    call_result,
    request_of,
    view_of,
)
from raincheck.client.wait import Wait
from raincheck.domain.task import InputRequest, TaskStatus
from raincheck.errors import TaskNotFound

_R = TypeVar("_R", bound=Result)


class TasksExtension(Driver, ClientExtension):
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
        return await self._follow(_Task(_session(client), handle_of(task), self._policy))

    async def status(self, client: Client | ClientSession, task: TaskHandle | str) -> TaskView:
        """The task as it is. Its outcome is `resume`'s to give."""
        view, _ = await _Task(_session(client), handle_of(task), self._policy).look()
        return view

    async def cancel(self, client: Client | ClientSession, task: TaskHandle | str) -> None:
        """Ask for the end of a task; one that is settled stays as it is."""
        await _Task(_session(client), handle_of(task), self._policy).cancel()

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
        await self._accepted(handle)
        task = _Task(context.session, handle, self._policy, context.read_timeout_seconds)
        return await self._follow(task, view_of(created, handle))

    async def _follow(self, task: _Task, created: TaskView | None = None) -> CallToolResult:
        ask = self._on_input or _Dispatch(task.session, task.handle)
        wait = Wait(task, self._policy, on_progress=self._on_progress, on_input=ask)
        result = await wait.outcome(created)
        large = large_answer(result.structured_content, task.session, task.handle) if self._whole_results else None
        if large is None:
            return result
        whole = await large.call_result(task.session, self._policy, task.handle)
        return CallToolResult.model_validate(whole, by_name=False)


class _Task:
    """One task over the methods of the extension; all of them may be sent twice.

    Args:
        session: Sends them.
        handle: The task.
        policy: How long an answer may take, and how often a method is sent again.
        answer_seconds: How long an answer may take for this caller.
    """

    def __init__(
        self, session: ClientSession, handle: TaskHandle, policy: PollingPolicy, answer_seconds: float | None = None
    ) -> None:
        self.session = session
        self.handle = handle
        self._retries = policy.call_retries
        self._answer_seconds = answer_seconds or policy.answer_seconds
        self._seen: DetailedTask | None = None

    async def look(self, pace: Pace | None = None) -> tuple[TaskView, bool]:
        """The task; the server holds no answer."""
        if pace is not None:
            pace.count()
        self._seen = await self._send("tasks/get", DetailedTask)
        return view_of(self._seen, self.handle), False

    async def provide(self, responses: Mapping[str, Mapping[str, Any]]) -> bool:
        """Answer its questions."""
        given = {key: dict(response) for key, response in responses.items()}
        await self._send("tasks/update", Acknowledged, given)
        return False

    async def cancel(self) -> None:
        """Ask for its end."""
        await self._send("tasks/cancel", Acknowledged)

    def outcome(self, view: TaskView) -> CallToolResult:
        """What the call would have returned.

        Raises:
            MCPError: It failed.
            BadAnswer: The server does not say what became of it.
        """
        assert self._seen is not None
        if view.status is TaskStatus.COMPLETED:
            return call_result(self._seen, self.handle)
        raise MCPError.from_error_data(call_error(self._seen, self.handle))

    async def _send(
        self, method: TaskMethod, answer: type[_R], responses: dict[str, dict[str, Any]] | None = None
    ) -> _R:
        params = TaskParams(taskId=self.handle.task_ref, inputResponses=responses)
        request = TaskRequest(method=method, params=params)

        async def send() -> _R:
            try:
                return await self.session.send_request(request, answer, self._answer_seconds)
            except ValidationError as error:
                raise BadAnswer(f"the answer of {method} is no task", handle=self.handle) from error
            except MCPError as error:
                if error.code != INVALID_PARAMS:
                    raise
                raise TaskNotFound(error.message, details={"task_ref": self.handle.task_ref}) from error

        return await with_retry(send, method, retries=self._retries, handle=self.handle)


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
