"""The typed tools: each operation as a tool of its own name and schema, answered as its policy says (design.md §4)."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, NoReturn

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, CallToolRequestParams, CallToolResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field, WithJsonSchema

from raincheck.domain.redaction import wrap_secrets
from raincheck.domain.task import InputRequest, Outcome, Progress, Task, TaskStatus, new_task_ref
from raincheck.domain.unicode_text import well_formed
from raincheck.errors import OperationFailed, StoreError
from raincheck.mcp.auth.scopes import caller_of, scope_of
from raincheck.mcp.surfaces.client_elicitation import answered_round
from raincheck.mcp.surfaces.handle_answers import HandleAnswers
from raincheck.mcp.surfaces.holds import Holds
from raincheck.mcp.surfaces.host_elicitation import HostElicitation
from raincheck.mcp.surfaces.negotiation import (
    CORE_TASKS_VERSION,
    TASKS_EXTENSION,
    Surface,
    missing_capability,
    rpc_error,
    surface_of,
)
from raincheck.mcp.surfaces.progress_notifications import ProgressNotifications
from raincheck.mcp.surfaces.task_handles import TaskHandles
from raincheck.mcp.wire import tool_results
from raincheck.mcp.wire.tool_use_ids import ToolUseIds
from raincheck.operations.callers import given
from raincheck.operations.context import CallbackAddress, TaskContext
from raincheck.operations.operation import Operation
from raincheck.polling.inline_wait import InlineWaits
from raincheck.runtime.attempt import failure, guarded, timed_out
from raincheck.runtime.execution import input_key
from raincheck.tasks.registry import Registry, Submission
from raincheck.tasks.results import Results

logger = logging.getLogger(__name__)

# A result that is gone before its caller can ask for it would be of no use.
_LEAST_TTL_SECONDS = 1.0
# Longer than any operation keeps its tasks; a whole number may have thousands of digits.
_LONGEST_TTL_MS = 10**15


class TypedTools:
    """Answers calls of the typed tools, each on the surface that its request negotiated.

    Args:
        registry: The use cases.
        answers: Makes the tickets.
        handles: Makes the handles of the task protocols.
        results: Puts large results away.
        holds: Waits for results within the call.
        waits: How long.
        elicitation: Has users asked within the call.
        tool_uses: Finds the ids of tool uses.
    """

    def __init__(
        self,
        registry: Registry,
        answers: HandleAnswers,
        handles: TaskHandles,
        results: Results,
        holds: Holds,
        waits: InlineWaits,
        elicitation: HostElicitation,
        tool_uses: ToolUseIds,
    ) -> None:
        self._registry = registry
        self._answers = answers
        self._handles = handles
        self._results = results
        self._holds = holds
        self._waits = waits
        self._elicitation = elicitation
        self._tool_uses = tool_uses

    async def call(
        self, operation: Operation, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any]
    ) -> dict[str, Any]:
        """The plain result, the questions to ask first, or the handle of the surface.

        Raises:
            CallError, StoreError: The call was wrong or cannot be taken; nothing was written.
            MCPError: The operation ended in a JSON-RPC error, or the client's surface and the policy don't fit.
        """
        caller = caller_of(ctx)
        self._registry.operation(operation.operation_type, caller=caller)
        surface, policy, arguments = surface_of(params, ctx), operation.policy, params.arguments or {}
        check_support(operation, surface, ctx)
        if policy.mode == "inline":
            return await self._run_inline(operation, arguments, ctx)
        ttl_seconds = _wished_ttl(params)
        submission = await self._begun_before(operation, arguments, ctx)
        if submission is None:
            answers = ask_first(operation, params, ctx)
            if isinstance(answers, dict):
                # No user is asked about a call that would be refused.
                await self._registry.checked(operation, arguments, scope=scope_of(ctx))
                return answers
            submission = await self._registry.submit(
                operation.operation_type,
                arguments,
                scope=scope_of(ctx),
                ttl_seconds=ttl_seconds,
                inputs=answers,
                caller=caller,
                tool_use=self._tool_uses.key_of(ctx, operation.operation_type),
            )
        # A request of the core tasks asks for a task, and gets one however soon its work ends.
        if surface is Surface.CORE:
            return {"task": self._handles.core(submission.task)}
        if surface is Surface.HANDLES and policy.without_tasks == "wait":
            task = await self._until_settled(submission.task, ctx)
        else:
            task = await self._within_the_call(operation, submission.task, ctx, surface)
        if isinstance(task, dict):
            return task
        if task.terminal and task.outcome is not None:
            return tool_results.outcome_result(task.outcome, raise_rpc_error=rpc_error)
        if surface is Surface.EXTENSION:
            return self._handles.created(task)
        waited = task is not submission.task
        return await self._answers.ticket(submission._replace(task=task), ctx, waited=waited)

    async def _begun_before(
        self, operation: Operation, arguments: Mapping[str, Any], ctx: ServerRequestContext[Any, Any]
    ) -> Submission | None:
        """The task whose questions this call brings the answers to, once they are handed in: it is no new one.

        Raises:
            CallError: It is not the task of such a call.
        """
        name, scope = operation.operation_type, scope_of(ctx)
        brought = answered_round(ctx, name)
        if brought is None:
            return None
        task = await self._registry.call_of(brought.task_ref, name, arguments, scope=scope)
        to_the_end = operation.policy.without_tasks == "wait"
        await self._elicitation.answered(ctx, name, task.task_ref, to_the_end=to_the_end)
        return Submission(await self._registry.get(task.task_ref, scope=scope), deduplicated=False)

    async def _within_the_call(
        self, operation: Operation, task: Task, ctx: ServerRequestContext[Any, Any], surface: Surface
    ) -> Task | dict[str, Any]:
        """The task, waited for as long as that pays and its client has patience; or the answer that asks the user."""
        seconds = self._waits.seconds(operation.operation_type, operation.policy, scope=task.scope)
        if operation.policy.inline_wait_seconds == "auto":
            seconds = await self._holds.bounded(ctx, seconds)
        if not seconds:
            return task
        if surface is not Surface.HANDLES:
            # Its client finds the questions in the task.
            return await self._holds.wait(ctx, task.task_ref, seconds)
        task = await self._elicitation.wait(ctx, task.task_ref, seconds)
        return self._elicitation.round(ctx, task.operation_type, task) or task

    async def _until_settled(self, task: Task, ctx: ServerRequestContext[Any, Any]) -> Task | dict[str, Any]:
        """The task once it is terminal, or the answer that asks the user."""
        listener, began = ProgressNotifications.of(ctx), asyncio.get_running_loop().time()
        while not task.terminal:
            if task.status is TaskStatus.INPUT_REQUIRED:
                questions = self._elicitation.round(ctx, task.operation_type, task)
                if questions is not None:
                    return questions
                task = await self._elicitation.ask_client(ctx, task)
            else:
                task = await self._holds.wait(ctx, task.task_ref, 60.0, listener=listener, began=began)
        return task

    async def _run_inline(
        self, operation: Operation, arguments: Mapping[str, Any], ctx: ServerRequestContext[Any, Any]
    ) -> dict[str, Any]:
        context = TaskContext(
            task_ref=new_task_ref(),
            operation_type=operation.operation_type,
            idempotency_key=None,
            caller=given(operation.policy, caller_of(ctx)),
            backend=_RequestBackend(ctx),
            loop=asyncio.get_running_loop(),
        )
        scope = scope_of(ctx)
        checked = await self._registry.checked(operation, arguments, scope=scope)
        async with self._registry.inline_slot(operation, scope=scope) as call:
            outcome = await _run_within(operation, wrap_secrets(checked, operation.secret_parameters), context)
            call.ended(outcome)
        try:
            outcome = await self._results.offload_of_request(outcome, context.task_ref, scope_of(ctx), operation.policy)
        except StoreError as failure:
            logger.warning("a large result is answered whole, it cannot be put away: %s", failure.message)
        return tool_results.outcome_result(outcome, raise_rpc_error=rpc_error)


async def _run_within(operation: Operation, arguments: Mapping[str, Any], context: TaskContext) -> Outcome:
    """The outcome of an inline call, as guarded as that of a task."""
    request = asyncio.current_task()
    assert request is not None
    try:
        async with asyncio.timeout(operation.policy.attempt_seconds):
            return await guarded(operation, arguments, context, stop_requested=lambda: request.cancelling() > 0)
    except asyncio.CancelledError:
        # Its client gave the call up: what a thread of it returns from now on is dropped.
        context.mark_cancelled()
        raise
    except TimeoutError:
        context.mark_cancelled()
        return failure(timed_out(operation, context.task_ref))


class _RequestBackend:
    """The context of an operation that runs inside its request: progress goes to the caller, questions cannot."""

    def __init__(self, ctx: ServerRequestContext[Any, Any]) -> None:
        self._ctx = ctx

    async def report(self, progress: Progress) -> None:
        message = well_formed(progress.message or "") or None
        await self._ctx.session.report_progress(progress.fraction or 0.0, 1.0, message)

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        raise OperationFailed("An inline operation cannot ask its caller; use mode auto or task.")

    async def save(self, checkpoint: Any, cleanup: Mapping[str, Any] | None) -> None:
        raise OperationFailed("An inline operation has no task that could keep a checkpoint; use mode auto or task.")

    async def external_completed(self) -> None:
        return

    async def suspend(self) -> None:
        return

    async def resume(self) -> None:
        return

    async def hand_over(self) -> None:
        return

    async def await_external(self) -> NoReturn:
        raise OperationFailed("An inline operation cannot wait to be called back; use mode auto or task.")

    async def callback_address(self) -> CallbackAddress:
        raise OperationFailed("An inline operation cannot be called back; use mode auto or task.")


def check_support(operation: Operation, surface: Surface, ctx: ServerRequestContext[Any, Any]) -> None:
    """Check that the operation may be called on this surface.

    Raises:
        MCPError: A task was asked for and is forbidden (-32601), or is needed and not asked for (-32021; -32601 in
            2025-11-25).
    """
    support = task_support(operation)
    name = operation.operation_type
    if surface is Surface.CORE and support == "forbidden":
        raise MCPError(METHOD_NOT_FOUND, f"Tool {name} does not support task-augmented execution")
    if surface is Surface.HANDLES and support == "required":
        if ctx.protocol_version == CORE_TASKS_VERSION:
            raise MCPError(METHOD_NOT_FOUND, f"Tool {name} requires task-augmented execution")
        raise missing_capability(f"{name} needs a client with the {TASKS_EXTENSION} extension")


def _wished_ttl(params: CallToolRequestParams) -> float | None:
    """The retention in seconds that the caller of a core task wishes; the operation's is its upper bound.

    Raises:
        MCPError: It is below zero (-32602).
    """
    ttl = params.task.ttl if params.task is not None else None
    if ttl is not None and ttl < 0:
        raise MCPError(INVALID_PARAMS, "task.ttl must not be below zero")
    return None if ttl is None else max(_LEAST_TTL_SECONDS, min(ttl, _LONGEST_TTL_MS) / 1000)


def task_support(operation: Operation) -> str:
    """`execution.taskSupport` of the operation's typed tool (2025-11-25)."""
    if operation.policy.mode == "inline":
        return "forbidden"
    return "required" if operation.policy.without_tasks == "refuse" else "optional"


def ask_first(
    operation: Operation, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any]
) -> tuple[InputRequest, ...] | dict[str, Any]:
    """What was answered before the task; or the `input_required` result that asks, for a client that can be asked so.

    The multi-round-trip flow of 2026-07-28 (SEP-2322): the call is repeated with `inputResponses`. Any other client is
    asked inside the task.
    """
    capabilities = ctx.session.client_capabilities
    if not operation.ask_first or ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return ()
    if capabilities is None or capabilities.elicitation is None:
        return ()
    given = {key: _plain(response) for key, response in (params.input_responses or {}).items()}
    keys = {name: input_key(0, name) for name in operation.ask_first}
    missing = {name: question for name, question in operation.ask_first.items() if keys[name] not in given}
    if missing:
        asked = {
            keys[name]: {"method": "elicitation/create", "params": dict(question)} for name, question in missing.items()
        }
        return {"resultType": "input_required", "inputRequests": asked}
    return tuple(
        InputRequest(key=keys[name], method="elicitation/create", params=question, response=given[keys[name]])
        for name, question in operation.ask_first.items()
    )


def _plain(response: Any) -> dict[str, Any]:
    if isinstance(response, BaseModel):
        return response.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dict(response)


def tool_function(
    schema: Mapping[str, Any],
    answer: Callable[[Mapping[str, Any], ServerRequestContext[Any, Any]], Awaitable[dict[str, Any]]],
) -> Callable[..., Any]:
    """A function that the SDK can register as a tool with (nearly) that input schema.

    The SDK derives a tool's schema from a signature; this builds the signature from the schema's properties.
    """
    properties: dict[str, Any] = dict(schema.get("properties", {}))
    required = set(schema.get("required", ()))
    # The SDK hands its context over beside the arguments, under a name that none of them has.
    context = next(name for name in ("ctx", *(f"ctx{n}" for n in range(len(properties)))) if name not in properties)
    # An argument comes under its alias: a field of its own name may be one that a model has no room for.
    parameters = [
        inspect.Parameter(
            f"p{index}",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[Any, WithJsonSchema(_alone(part)), Field(alias=name)],
            default=inspect.Parameter.empty if name in required else _default(part),
        )
        for index, (name, part) in enumerate(properties.items())
    ]
    parameters.append(inspect.Parameter(context, inspect.Parameter.KEYWORD_ONLY, annotation=Context))

    async def call(**arguments: Any) -> CallToolResult:
        ctx: Context[Any, Any] = arguments.pop(context)
        given = {name: value for name, value in arguments.items() if value is not None}
        return CallToolResult.model_validate(await answer(given, ctx.request_context))

    call.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _alone(schema: Mapping[str, Any] | bool) -> dict[str, Any]:
    """A parameter's schema where pydantic can take it: no `true` or `false`, and no `$ref`, which points into the whole
    schema that a parameter alone has not."""
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    return {} if '"$ref"' in json.dumps(schema) else dict(schema)


def _default(schema: Mapping[str, Any] | bool) -> Any:
    return None if isinstance(schema, bool) else schema.get("default")
