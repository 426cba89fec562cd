"""The request methods of the two task protocols: `tasks/get`, `update`, `cancel`; of 2025-11-25 `result` and `list`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from mcp.server.context import ServerRequestContext
from mcp.server.extension import MethodBinding
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

from raincheck.domain.task import TaskStatus
from raincheck.mcp.auth.scopes import ANONYMOUS, scope_of
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
from raincheck.mcp.surfaces.task_handles import TaskHandles
from raincheck.mcp.wire import task_messages, tool_results
from raincheck.mcp.wire.protocol_errors import rpc_errors
from raincheck.tasks.registry import Registry

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
        handles: Makes what the methods return.
        holds: Holds answers.
        elicitation: Sends the questions of `tasks/result` to clients.
        hold_seconds: How long a `tasks/get` that comes too early is held at the most.
    """

    def __init__(
        self,
        registry: Registry,
        handles: TaskHandles,
        holds: Holds,
        elicitation: HostElicitation,
        *,
        hold_seconds: float,
    ) -> None:
        self._registry = registry
        self._elicitation = elicitation
        self._handles = handles
        self._hold_seconds = hold_seconds
        self._holds = holds
        self._answers: Mapping[str, Callable[[ServerRequestContext[Any, Any], Any], Awaitable[Answer]]] = {
            "get": self.get,
            "update": self.update,
            "cancel": self.cancel,
            "result": self.result,
            "list": self.list,
        }

    async def call(self, name: str, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """The answer of the method of that name."""
        return await self._answers[name](ctx, params)

    async def get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> Answer:
        """`tasks/get` of either protocol: at once for a caller that keeps to the interval, else held for a while."""
        modern = _checked_era(ctx, params)
        early = min(self._handles.early_by(params.task_id), self._hold_seconds)
        task = await self._holds.wait(ctx, params.task_id, await self._holds.bounded(ctx, early) if early else 0.0)
        return self._handles.polled(task, core=not modern)

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
        return self._handles.core(await self._registry.cancel(params.task_id, scope=scope))

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
                task = await self._elicitation.ask_client(ctx, task)
            else:
                task = await self._registry.wait(params.task_id, scope=scope, seconds=60.0, listener=listener)
        if task.status is TaskStatus.CANCELLED or task.outcome is None:
            raise MCPError(INTERNAL_ERROR, "The task was cancelled.", task_messages.related({}, task.task_ref))
        if task_messages.is_rpc_failure(task):
            raise rpc_error(task_messages.failure_of(task))
        return task_messages.related(tool_results.outcome_result(task.outcome), task.task_ref)

    async def list(self, ctx: ServerRequestContext[Any, Any], params: ListParams) -> Answer:
        """`tasks/list` of 2025-11-25: the caller's own tasks, in pages; none where callers cannot be told apart."""
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


def task_bindings(methods: Callable[[], Any]) -> list[MethodBinding]:
    """The method bindings; `methods` awaits the started service's `TaskMethods`."""

    def bind(method: str, params_type: type[_Params]) -> MethodBinding:
        async def handler(ctx: ServerRequestContext[Any, Any], params: Any) -> dict[str, Any]:
            ours = await methods()
            return await rpc_errors(ours.call(method.removeprefix("tasks/"), ctx, params))

        return MethodBinding(method, params_type, handler)

    return [
        bind("tasks/get", TaskParams),
        bind("tasks/update", UpdateParams),
        bind("tasks/cancel", TaskParams),
        bind("tasks/result", TaskParams),
        bind("tasks/list", ListParams),
    ]


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
    # A header that is not there misleads no proxy: FastMCP's client (4.1) sends none with the tasks methods.
    named = headers.get(MCP_NAME_HEADER)
    if named is not None and decode_header_value(named) != params.task_id:
        raise MCPError(HEADER_MISMATCH, "mcp-name header does not match the request body's 'taskId' parameter")
    if not declares_tasks(ctx):
        raise missing_capability(f"{ctx.method} needs a client with the {TASKS_EXTENSION} extension")
    return True


def _unknown_method(ctx: ServerRequestContext[Any, Any]) -> MCPError:
    return MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=ctx.method)
