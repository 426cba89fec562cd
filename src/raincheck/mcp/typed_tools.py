"""The typed tools: each operation as a tool of its own name and schema, answered as its policy says (design.md §4)."""

from __future__ import annotations

import asyncio
import inspect
import keyword
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY, CallToolResult
from pydantic import Field, WithJsonSchema

from raincheck.errors import OperationFailed, RaincheckError, TaskFailure, TaskTimeout
from raincheck.mcp import wire
from raincheck.mcp.handle_tools import HandleTools
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Operation
from raincheck.registry import Registry
from raincheck.task import Outcome, Progress, TaskError, new_task_ref

__all__ = ["TASKS_EXTENSION", "TypedTools", "rpc_error", "tool_function"]

logger = logging.getLogger(__name__)

TASKS_EXTENSION = "io.modelcontextprotocol/tasks"
"""The extension that a client of a tool which cannot be served without a task must declare (SEP-2663)."""


class TypedTools:
    """Answers calls of the typed tools.

    Args:
        registry: The use cases.
        handles: Makes the tickets.
    """

    def __init__(self, registry: Registry, handles: HandleTools) -> None:
        self._registry = registry
        self._handles = handles

    async def call(
        self, operation: Operation, arguments: Mapping[str, Any], scope: str, ctx: ServerRequestContext[Any, Any]
    ) -> dict[str, Any]:
        """The plain result, or the ticket.

        Raises:
            CallError, StoreError: The call was wrong or cannot be taken; nothing was written.
            MCPError: The operation ended in a JSON-RPC error, or refuses clients without tasks (-32021).
        """
        policy = operation.policy
        if policy.mode == "inline":
            return await self._run_inline(operation, arguments, ctx)
        if policy.without_tasks == "refuse":
            raise _refused(operation)
        submission = await self._registry.submit(operation.operation_type, arguments, scope=scope)
        task = submission.task
        if policy.without_tasks == "wait":
            while not task.terminal:
                task = await self._registry.wait(task.task_ref, scope=scope, seconds=60.0)
        elif policy.mode == "task" or not policy.inline_wait_seconds:
            return self._handles.ticket(submission)
        else:
            task = await self._registry.wait(task.task_ref, scope=scope, seconds=policy.inline_wait_seconds)
        if task.terminal and task.outcome is not None:
            return wire.outcome_result(task.outcome, raise_rpc_error=rpc_error)
        return self._handles.ticket(submission._replace(task=task), waited=True)

    async def _run_inline(
        self, operation: Operation, arguments: Mapping[str, Any], ctx: ServerRequestContext[Any, Any]
    ) -> dict[str, Any]:
        context = TaskContext(
            task_ref=new_task_ref(),
            operation_type=operation.operation_type,
            idempotency_key=None,
            attempt=1,
            backend=_RequestBackend(ctx),
            loop=asyncio.get_running_loop(),
        )
        checked = operation.executor.validate(arguments)
        seconds = operation.policy.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                value = await operation.executor.run(checked, context)
        except TimeoutError:
            context.mark_cancelled()
            error: RaincheckError = TaskTimeout(
                f"The operation ran longer than {seconds:g} s (timeout).",
                details={"limit": "timeout", "phase": "processing", "seconds": seconds},
            )
        except TaskFailure as failure:
            error = failure
        except MCPError:
            raise
        except Exception as failure:  # whatever an operation raises is its own error, and the caller's answer
            logger.info("operation failed", exc_info=True, extra={"operation": operation.operation_type})
            error = OperationFailed(str(failure) or type(failure).__name__, details={"type": type(failure).__name__})
        else:
            return wire.outcome_result(
                value if isinstance(value, Outcome) else Outcome(value=value), raise_rpc_error=rpc_error
            )
        return wire.outcome_result(Outcome(error=TaskError.from_exception(error)))


class _RequestBackend:
    """The context of an operation that runs inside its request: progress goes to the caller, questions cannot."""

    def __init__(self, ctx: ServerRequestContext[Any, Any]) -> None:
        self._ctx = ctx

    async def report(self, progress: Progress) -> None:
        await self._ctx.session.report_progress(progress.fraction or 0.0, 1.0, progress.message)

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        raise OperationFailed("An inline operation cannot ask its caller; use mode auto or task.")


def rpc_error(error: Mapping[str, Any]) -> MCPError:
    """The stored JSON-RPC error as the SDK raises it."""
    return MCPError(code=error["code"], message=error["message"], data=error.get("data"))


def _refused(operation: Operation) -> MCPError:
    return MCPError(
        code=MISSING_REQUIRED_CLIENT_CAPABILITY,
        message=f"{operation.operation_type} needs a client with the {TASKS_EXTENSION} extension",
        data={"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}},
    )


def tool_function(
    schema: Mapping[str, Any],
    answer: Callable[[Mapping[str, Any], ServerRequestContext[Any, Any]], Awaitable[dict[str, Any]]],
) -> Callable[..., Any]:
    """A function that the SDK can register as a tool with (nearly) that input schema.

    The SDK derives a tool's schema from a signature; this builds the signature from the schema's properties.
    """
    names: dict[str, str] = {}
    parameters: list[inspect.Parameter] = []
    required = set(schema.get("required", ()))
    for index, (name, property_schema) in enumerate(dict(schema.get("properties", {})).items()):
        python_name = name if name.isidentifier() and not keyword.iskeyword(name) and name[0] != "_" else f"p{index}"
        names[python_name] = name
        annotation = Annotated[Any, WithJsonSchema(dict(property_schema)), Field(alias=name)]
        default = inspect.Parameter.empty if name in required else property_schema.get("default")
        parameters.append(
            inspect.Parameter(python_name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        )
    parameters.append(inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=Context))

    async def call(*, ctx: Context[Any, Any], **arguments: Any) -> CallToolResult:
        given = {names.get(key, key): value for key, value in arguments.items() if value is not None}
        return CallToolResult.model_validate(await answer(given, ctx.request_context))

    call.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call
