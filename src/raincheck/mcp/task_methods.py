"""The request methods of the two task protocols: `tasks/get`, `update`, `cancel`; of 2025-11-25 `result` and `list`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from mcp.server.context import ServerRequestContext
from mcp.server.extension import MethodBinding
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field

from raincheck.errors import CallError, RaincheckError, StoreError, TaskNotFound
from raincheck.mcp import task_wire, wire
from raincheck.mcp.handle_tools import HandleTools
from raincheck.mcp.pacing import Pacing
from raincheck.mcp.scopes import ANONYMOUS, scope_of
from raincheck.mcp.store_trouble import for_callers
from raincheck.mcp.surfaces import (
    CORE_TASKS_VERSION,
    TASKS_EXTENSION,
    declares_tasks,
    missing_capability,
    rpc_error,
)
from raincheck.registry import Registry
from raincheck.task import InputRequest, Task, TaskError, TaskStatus, utc_now

__all__ = ["TaskMethods", "task_bindings"]

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
        handles: Gives the polling hints.
        clock: The wall clock.
    """

    def __init__(self, registry: Registry, handles: HandleTools, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._registry = registry
        self._handles = handles
        self._pacing = Pacing()
        self._clock = clock

    def created(self, task: Task) -> Answer:
        """The extension's handle of a new task."""
        hint = self._handles.poll_after(task)
        self._pacing.answered(task.task_ref, hint)
        return task_wire.created_task(task, now=self._clock(), poll_after_seconds=hint)

    def detailed(self, task: Task) -> Answer:
        """The extension's whole task."""
        return task_wire.detailed_task(task, now=self._clock(), poll_after_seconds=self._handles.poll_after(task))

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
        return task_wire.core_task(
            task, ttl=task_wire.time_to_live(task, self._clock()), poll_after_seconds=self._handles.poll_after(task)
        )

    async def call(self, name: str, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """The answer of the method of that name.

        Raises:
            RateLimited: The caller calls too often.
        """
        self._handles.admit(scope_of(ctx))
        return await getattr(self, name)(ctx, params)

    async def get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> Answer:
        """`tasks/get` of either protocol: at once for a caller that keeps to the interval, else held for a while."""
        modern = _checked_era(ctx, params)
        early = min(self._pacing.early_by(params.task_id), self._handles.hold_seconds)
        task = await self._registry.wait(params.task_id, scope=scope_of(ctx), seconds=early)
        self._pacing.answered(task.task_ref, self._handles.poll_after(task))
        shown = {"resultType": "complete", **self.detailed(task)} if modern else self.core(task)
        return task_wire.with_eta(shown, self._handles.eta(task))

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
        while not task.terminal:
            if task.status is TaskStatus.INPUT_REQUIRED:
                task = await self.ask_client(ctx, task, scope)
            else:
                task = await self._registry.wait(params.task_id, scope=scope, seconds=60.0)
        if task.status is TaskStatus.CANCELLED or task.outcome is None:
            raise MCPError(INTERNAL_ERROR, "The task was cancelled.", task_wire.related({}, task.task_ref))
        if task_wire.is_rpc_failure(task):
            raise rpc_error(task_wire.failure_of(task))
        return task_wire.related(wire.outcome_result(task.outcome), task.task_ref)

    async def list(self, ctx: ServerRequestContext[Any, Any], params: ListParams) -> Answer:
        """`tasks/list` of 2025-11-25: the caller's own tasks, in pages; none where nobody can be told apart."""
        if ctx.protocol_version != CORE_TASKS_VERSION:
            raise _unknown_method(ctx)
        scope = scope_of(ctx)
        if scope == ANONYMOUS:
            return {"tasks": []}
        after = None if params.cursor is None else task_wire.cursor_from(params.cursor)
        page = await self._registry.list(scope=scope, after=after, limit=_PAGE)
        tasks = [task_wire.core_task(task, ttl=None, poll_after_seconds=None) for task in page]
        more = {"nextCursor": task_wire.page_cursor(page[-1])} if len(page) == _PAGE else {}
        return {"tasks": tasks, **more}

    async def ask_client(self, ctx: ServerRequestContext[Any, Any], task: Task, scope: str) -> Task:
        """Send the task's questions to the client on this open stream (B5) and hand its answers in; the task then.

        A client that cannot be asked so is not: then it is the task after its next change, whoever answers. So is a
        question that another one has answered, or that was withdrawn.

        Raises:
            MCPError: The client refused; the question stays open.
        """
        questions = [each for each in task.outstanding if _can_answer(ctx, each)]
        if not questions:
            return await self._registry.wait_for_change(task, scope=scope, seconds=60.0)
        asking = asyncio.create_task(self._ask(ctx, task.task_ref, questions, scope))
        try:
            keys = {each.key for each in questions}
            while not asking.done() and keys & {each.key for each in task.outstanding}:
                changing = asyncio.create_task(self._registry.wait_for_change(task, scope=scope, seconds=60.0))
                await asyncio.wait({asking, changing}, return_when=asyncio.FIRST_COMPLETED)
                task = await changing if changing.done() else task
                await _ended(changing)
            if asking.done():
                asking.result()
        finally:
            await _ended(asking)
        return await self._registry.get(task.task_ref, scope=scope)

    async def _ask(
        self, ctx: ServerRequestContext[Any, Any], task_ref: str, questions: Sequence[InputRequest], scope: str
    ) -> None:
        for question in questions:
            request = _ClientRequest(method=question.method, params=task_wire.related(dict(question.params), task_ref))
            answer = await ctx.session.send_request(request, _AnyResult, metadata=_on_this_stream(ctx))  # pyright: ignore[reportArgumentType]
            given = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
            await self._registry.provide_input(task_ref, {question.key: given}, scope=scope)


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _can_answer(ctx: ServerRequestContext[Any, Any], question: InputRequest) -> bool:
    capabilities = ctx.session.client_capabilities
    if capabilities is None or not ctx.session.can_send_request:
        return False
    able = capabilities.elicitation if question.method == "elicitation/create" else capabilities.sampling
    return able is not None


class _ClientRequest(BaseModel):
    """A question as the SDK sends it: whatever method and params the task asked with."""

    method: str
    params: dict[str, Any]


class _AnyResult(BaseModel, extra="allow"):
    """Whatever the client answered."""


def _on_this_stream(ctx: ServerRequestContext[Any, Any]) -> Any:
    from mcp.shared.message import ServerMessageMetadata

    return ServerMessageMetadata(related_request_id=ctx.request_id)


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
        raise _told(error, INTERNAL_ERROR if error.retryable else INVALID_PARAMS) from None
    except StoreError as error:
        raise _told(for_callers(error), INTERNAL_ERROR) from None


def _told(error: RaincheckError, code: int) -> MCPError:
    told = TaskError.from_exception(error).public()
    return MCPError(code, told.pop("message"), told)


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
