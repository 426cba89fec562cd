"""The request methods of the two task protocols: `tasks/get`, `update`, `cancel`; of 2025-11-25 `result` and `list`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from mcp.server.context import ServerRequestContext
from mcp.server.extension import MethodBinding
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import CallError, StoreError, TaskNotFound
from raincheck.mcp.auth.scopes import ANONYMOUS, scope_of
from raincheck.mcp.surfaces.client_elicitation import can_be_sent, put_to_client
from raincheck.mcp.surfaces.holds import Holds
from raincheck.mcp.surfaces.host_elicitation import HostElicitation
from raincheck.mcp.surfaces.negotiation import (
    CORE_TASKS_VERSION,
    TASKS_EXTENSION,
    declares_tasks,
    missing_capability,
    rpc_error,
)
from raincheck.mcp.surfaces.progress_notifications import ProgressNotifications
from raincheck.mcp.wire import task_messages, tool_results
from raincheck.mcp.wire.protocol_errors import rpc_error_of
from raincheck.mcp.wire.store_errors import for_callers
from raincheck.polling.advisor import PollAdvisor
from raincheck.polling.early_polls import Pacing
from raincheck.tasks.registry import Registry
from raincheck.timing.clock import utc_now

_Params = TypeVar("_Params", bound=RequestParams)
Answer = dict[str, Any]

_PAGE = 50


class TaskParams(RequestParams):
    """`tasks/get`, `tasks/cancel`, `tasks/result`."""

    task_id: str = Field(alias="taskId")


class UpdateParams(TaskParams):
    """`tasks/update`."""

    input_responses: dict[str, dict[str, Any]] = Field(alias="inputResponses")


class ListParams(RequestParams):
    """`tasks/list`."""

    cursor: str | None = None


class TaskMethods:
    """Answers the task methods.

    Args:
        registry: The use cases.
        advisor: Says when callers ask again.
        holds: Holds answers.
        elicitation: Told which questions clients are asked here.
        hold_seconds: How long a `tasks/get` that comes too early is held at the most.
        clock: The wall clock.
    """

    def __init__(
        self,
        registry: Registry,
        advisor: PollAdvisor,
        holds: Holds,
        elicitation: HostElicitation,
        *,
        hold_seconds: float,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._registry = registry
        self._elicitation = elicitation
        self._advisor = advisor
        self._hold_seconds = hold_seconds
        self._holds = holds
        self._pacing = Pacing()
        self._answers: Mapping[str, Callable[[ServerRequestContext[Any, Any], Any], Awaitable[Answer]]] = {
            "get": self.get,
            "update": self.update,
            "cancel": self.cancel,
            "result": self.result,
            "list": self.list,
        }
        self._clock = clock

    def created(self, task: Task) -> Answer:
        """The extension's handle of a new task."""
        hint = self._advisor.for_program(task)
        self._pacing.answered(task.task_ref, hint)
        return task_messages.created_task(task, now=self._clock(), poll_after_seconds=hint)

    def detailed(self, task: Task) -> Answer:
        """The extension's whole task."""
        hint = self._advisor.for_program(task)
        return task_messages.detailed_task(task, now=self._clock(), poll_after_seconds=hint)

    def follow(self, task_refs: Sequence[str], scope: str) -> AsyncGenerator[Task]:
        """See `Registry.follow`."""
        return self._registry.follow(task_refs, scope=scope)

    async def known(self, task_refs: Sequence[str], scope: str) -> list[str]:
        """Those of these tasks that are the scope's own, in order."""
        known: list[str] = []
        for task_ref in dict.fromkeys(task_refs):
            try:
                await self._registry.get(task_ref, scope=scope)
            except TaskNotFound:
                continue
            known.append(task_ref)
        return known

    def core(self, task: Task) -> Answer:
        """The task of 2025-11-25."""
        return task_messages.core_task(
            task,
            ttl=task_messages.time_to_live(task, self._clock()),
            poll_after_seconds=self._advisor.for_program(task),
        )

    async def call(self, name: str, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """The answer of the method of that name."""
        return await self._answers[name](ctx, params)

    async def get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> Answer:
        """`tasks/get` of either protocol: at once for a caller that keeps to the interval, else held for a while."""
        modern = _checked_era(ctx, params)
        early = min(self._pacing.early_by(params.task_id), self._hold_seconds)
        task = await self._holds.wait(ctx, params.task_id, await self._holds.bounded(ctx, early) if early else 0.0)
        self._pacing.answered(task.task_ref, self._advisor.for_program(task))
        shown = {"resultType": "complete", **self.detailed(task)} if modern else self.core(task)
        return task_messages.with_eta(shown, self._advisor.eta(task))

    async def update(self, ctx: ServerRequestContext[Any, Any], params: UpdateParams) -> Answer:
        """`tasks/update` of the extension."""
        if not _checked_era(ctx, params):
            raise _unknown_method(ctx)
        await self._registry.provide_input(params.task_id, params.input_responses, scope=scope_of(ctx))
        return {"resultType": "complete"}

    async def cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> Answer:
        """`tasks/cancel`: in the extension an empty ack; in 2025-11-25 the task, or -32602 when it is over."""
        modern = _checked_era(ctx, params)
        scope = scope_of(ctx)
        if modern:
            await self._registry.cancel(params.task_id, scope=scope)
            return {"resultType": "complete"}
        before = await self._registry.get(params.task_id, scope=scope)
        if before.terminal:
            raise MCPError(INVALID_PARAMS, f"Cannot cancel task: already in terminal status '{before.status}'")
        return self.core(await self._registry.cancel(params.task_id, scope=scope))

    async def result(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> Answer:
        """`tasks/result` of 2025-11-25: waits, asks the client what the task asks, gives what the call would have."""
        if ctx.protocol_version != CORE_TASKS_VERSION:
            raise _unknown_method(ctx)
        scope = scope_of(ctx)
        task = await self._registry.get(params.task_id, scope=scope)
        # Not a hold: its client goes on asking for the status meanwhile.
        listener = ProgressNotifications.of(ctx)
        while not task.terminal:
            if task.status is TaskStatus.INPUT_REQUIRED:
                task = await self.ask_client(ctx, task, scope)
            else:
                task = await self._registry.wait(params.task_id, scope=scope, seconds=60.0, listener=listener)
        if task.status is TaskStatus.CANCELLED or task.outcome is None:
            raise MCPError(INTERNAL_ERROR, "The task was cancelled.", task_messages.related({}, task.task_ref))
        if task_messages.is_rpc_failure(task):
            raise rpc_error(task_messages.failure_of(task))
        return task_messages.related(tool_results.outcome_result(task.outcome), task.task_ref)

    async def list(self, ctx: ServerRequestContext[Any, Any], params: ListParams) -> Answer:
        """`tasks/list` of 2025-11-25: the caller's own tasks, in pages; none where nobody can be told apart."""
        if ctx.protocol_version != CORE_TASKS_VERSION:
            raise _unknown_method(ctx)
        scope = scope_of(ctx)
        if scope == ANONYMOUS:
            return {"tasks": []}
        after = None if params.cursor is None else task_messages.cursor_from(params.cursor)
        page = await self._registry.list(scope=scope, after=after, limit=_PAGE)
        tasks = [task_messages.core_task(task, ttl=None, poll_after_seconds=None) for task in page]
        more = {"nextCursor": task_messages.page_cursor(page[-1])} if len(page) == _PAGE else {}
        return {"tasks": tasks, **more}

    async def ask_client(self, ctx: ServerRequestContext[Any, Any], task: Task, scope: str) -> Task:
        """Send the task's questions to the client on this open stream (B5) and hand its answers in; the task then.

        A client that cannot be asked so is not: then it is the task after its next change, by any answer. So is a
        question that another one has answered, or that was withdrawn.

        Raises:
            MCPError: The client refused; the question stays open.
        """
        questions = [each for each in task.outstanding if can_be_sent(ctx, each)]
        if not questions:
            return await self._registry.wait_for_change(task, scope=scope, seconds=60.0)
        with self._elicitation.asked_by_another_call(ctx, task.task_ref):
            await put_to_client(self._registry, ctx, task, questions, scope)
        return await self._registry.get(task.task_ref, scope=scope)


def task_bindings(methods: Callable[[], Any]) -> list[MethodBinding]:
    """The method bindings; `methods` awaits the started service's `TaskMethods`."""

    def bind(method: str, params_type: type[_Params]) -> MethodBinding:
        async def handler(ctx: ServerRequestContext[Any, Any], params: Any) -> dict[str, Any]:
            ours = await methods()
            return await answered(ours.call(method.removeprefix("tasks/"), ctx, params))

        return MethodBinding(method, params_type, handler)

    return [
        bind("tasks/get", TaskParams),
        bind("tasks/update", UpdateParams),
        bind("tasks/cancel", TaskParams),
        bind("tasks/result", TaskParams),
        bind("tasks/list", ListParams),
    ]


async def answered(answer: Any) -> dict[str, Any]:
    """The answer, with our errors as JSON-RPC errors: -32602 for what the caller got wrong, -32603 for the rest.

    What may succeed later, unchanged, is no mistake of the caller's; `data` has the code, `retryable` and the details.
    """
    try:
        return await answer
    except TaskNotFound as error:
        raise MCPError(INVALID_PARAMS, error.message) from None
    except CallError as error:
        raise rpc_error_of(error, INTERNAL_ERROR if error.retryable else INVALID_PARAMS) from None
    except StoreError as error:
        raise rpc_error_of(for_callers(error), INTERNAL_ERROR) from None


def _checked_era(ctx: ServerRequestContext[Any, Any], params: TaskParams) -> bool:
    """True for the extension, False for 2025-11-25.

    Raises:
        MCPError: Another version (-32601), not declared (-32021), or a header that names another task (-32020).
    """
    if ctx.protocol_version == CORE_TASKS_VERSION:
        return False
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise _unknown_method(ctx)
    headers: Mapping[str, str] = getattr(ctx.request, "headers", None) or {}
    # A header that is not there misleads nobody: FastMCP's client (4.1) sends none with the tasks methods.
    named = headers.get(MCP_NAME_HEADER)
    if named is not None and decode_header_value(named) != params.task_id:
        raise MCPError(HEADER_MISMATCH, "mcp-name header does not match the request body's 'taskId' parameter")
    if not declares_tasks(ctx):
        raise missing_capability(f"{ctx.method} needs a client with the {TASKS_EXTENSION} extension")
    return True


def _unknown_method(ctx: ServerRequestContext[Any, Any]) -> MCPError:
    return MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=ctx.method)
