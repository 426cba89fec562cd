"""Existing `@mcp.tool()` functions as operations, unchanged: run by the server itself, outside of any request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mcp.server.elicitation import (
    AcceptedElicitation,
    CancelledElicitation,
    DeclinedElicitation,
    ElicitSchemaModelT,
    render_elicitation_schema,
)
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool as RegisteredTool
from mcp.server.mcpserver.tools import ToolManager
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolResult,
    ClientCapabilities,
    ElicitationCapability,
    InputRequiredResult,
    InputResponseRequestParams,
    SamplingCapability,
    Tool,
)
from mcp_types.version import LATEST_MODERN_VERSION
from pydantic import PrivateAttr

from raincheck.domain.task import Outcome
from raincheck.mcp.auth.restored_caller import restored_caller
from raincheck.mcp.tool_runs import (
    NO_REQUEST,
    CheckedTool,
    adopted_operation,
    failed_tool,
    log_of_tool,
    tool_outcome,
)
from raincheck.mcp.tool_threads import in_own_thread
from raincheck.mcp.wire.protocol_errors import protocol_error_outcome
from raincheck.operations.context import TaskContext
from raincheck.operations.late_results import on_behalf_of
from raincheck.operations.operation import FailedAs, Operation, Policy
from raincheck.operations.own_checks import OwnChecks


class BackgroundContext(Context[Any, Any]):
    """The `Context` that a tool gets when it runs as a task: progress and questions go to the task.

    There is no request: what needs one (`session`, `request_context`) raises as outside of any request.
    """

    _task: TaskContext = PrivateAttr()
    _has_headers: bool = PrivateAttr()

    def __init__(
        self,
        server: MCPServer[Any],
        task: TaskContext,
        answers: InputResponseRequestParams | None = None,
        *,
        has_headers: bool,
    ) -> None:
        super().__init__(mcp_server=server, input_params=answers)
        self._task = task
        self._has_headers = has_headers

    @property
    def protocol_version(self) -> str:
        """The version whose multi-round-trip questions a tool may ask: they become the task's own."""
        return LATEST_MODERN_VERSION

    @property
    def client_capabilities(self) -> ClientCapabilities:
        """A task can ask whatever its protocols can carry; who answers is not known yet."""
        return ClientCapabilities(elicitation=ElicitationCapability(), sampling=SamplingCapability())

    @property
    def headers(self) -> Mapping[str, str] | None:
        """See `Context.headers`: those that `forward_headers` names, as far as the caller sent them; it raises where
        that names none, as outside of a request."""
        return self._task.caller.headers if self._has_headers else super().headers

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """See `Context.report_progress`; without a total only the message is known."""
        await self._task.progress(progress / total if total else None, message)

    async def elicit(
        self, message: str, schema: type[ElicitSchemaModelT]
    ) -> AcceptedElicitation[ElicitSchemaModelT] | DeclinedElicitation | CancelledElicitation:
        """See `Context.elicit`; the task is `input_required` until the caller has answered."""
        answer = await self._task.elicit(message, render_elicitation_schema(schema))
        match answer.get("action"):
            case "accept":
                return AcceptedElicitation(data=schema.model_validate(answer.get("content") or {}))
            case "decline":
                return DeclinedElicitation()
            case _:
                return CancelledElicitation()

    async def log(self, level: Any, data: Any, *, logger_name: str | None = None) -> None:
        """A log message has no client to go to; it goes to the server's log."""
        log_of_tool(self._task, level, data)

    @property
    def request_id(self) -> str:
        """The task's id: there is no request."""
        return self._task.task_ref

    @property
    def request_context(self) -> Any:
        """See `Context.request_context`.

        Raises:
            ValueError: Always: there is no request.
        """
        raise ValueError(f"ctx.session, ctx.request_context: {NO_REQUEST}")


class ExistingToolExecutor(CheckedTool):
    """Runs one tool of the server through the server's public `call_tool`.

    Args:
        server: The server.
        tool: As it lists it.
        has_headers: Whether `forward_headers` names any: `ctx.headers` has those.
    """

    def __init__(self, server: MCPServer[Any], tool: Tool, *, has_headers: bool) -> None:
        self._server = server
        self._has_headers = has_headers
        self._name = tool.name
        super().__init__(tool.input_schema, _own_checks(server, tool))

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Outcome:
        """See `Executor.run`: the whole tool result is kept, and a JSON-RPC error as it is."""
        answers: InputResponseRequestParams | None = None
        try:
            while True:
                tool_context = BackgroundContext(self._server, context, answers, has_headers=self._has_headers)
                with restored_caller(context.caller), on_behalf_of(context):
                    result = await self._called(dict(arguments), tool_context)
                if isinstance(result, CallToolResult):
                    break
                answers = await _answered(result, context)
        except MCPError as error:
            raise FailedAs(protocol_error_outcome(error)) from error
        except ToolError as error:
            cause = error.__cause__ or error
            raise failed_tool(str(error), cause) from cause
        return tool_outcome(self._name, result)

    async def _called(self, arguments: dict[str, Any], context: BackgroundContext) -> Any:
        """The result of the server's public `call_tool`, as the server itself makes it.

        Where nothing of the server's own stands there, the tool's function is run by `in_own_thread`.
        """
        own = _own_tool(self._server, self._name)
        if own is None or getattr(self._server.call_tool, "__func__", None) is not MCPServer.call_tool:
            return await self._server.call_tool(self._name, arguments, context)
        tool = own if own.is_async else own.model_copy(update={"fn": in_own_thread(own.fn), "is_async": True})
        return await tool.run(arguments, context, convert_result=True)


async def _answered(asked: InputRequiredResult, context: TaskContext) -> InputResponseRequestParams:
    """Put a round's questions (SEP-2322) as the task's own, side by side; the params of the next round."""
    questions = {
        key: request.model_dump(by_alias=True, mode="json", exclude_none=True)
        for key, request in (asked.input_requests or {}).items()
    }
    given = await asyncio.gather(
        *(context.ask(question["method"], question.get("params") or {}) for question in questions.values())
    )
    return InputResponseRequestParams.model_validate(
        {"inputResponses": dict(zip(questions, given, strict=True)), "requestState": asked.request_state}
    )


def _own_tool(server: MCPServer[Any], name: str) -> RegisteredTool | None:
    """The tool as the server runs it; the SDK has no public way to it."""
    manager: ToolManager | None = getattr(server, "_tool_manager", None)
    return None if manager is None else manager.get_tool(name)


def _own_checks(server: MCPServer[Any], tool: Tool) -> OwnChecks:
    own = _own_tool(server, tool.name)
    if own is None:
        return OwnChecks(tool.name, tool.input_schema, None)
    taken = own.fn_metadata
    model = taken.arg_model
    return OwnChecks(
        tool.name, tool.input_schema, model.model_validate, model.__pydantic_core_schema__, taken.pre_parse_json
    )


def existing_tool_operation(server: MCPServer[Any], tool: Tool, policy: Policy) -> Operation:
    """The operation that stands for a tool which the server already has."""
    executor = ExistingToolExecutor(server, tool, has_headers=bool(policy.forward_headers))
    return adopted_operation(tool, executor, policy)
