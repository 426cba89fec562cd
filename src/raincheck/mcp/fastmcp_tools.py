"""FastMCP's side of tools: ours as FastMCP lists them, and the server's own run as tasks, outside of any request."""

# FastMCP is an extra, and not there where raincheck is developed: what comes from it is unknown to the type checker.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedBaseClass=false, reportUnknownParameterType=false, reportUnknownArgumentType=false
# pyright: reportMissingModuleSource=false

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import contextmanager
from typing import Any

from fastmcp import Context, FastMCP
from fastmcp.exceptions import FastMCPError
from fastmcp.server.dependencies import fastmcp_request_ctx
from fastmcp.server.elicitation import (
    CancelledElicitation,
    DeclinedElicitation,
    handle_elicit_accept,
    parse_elicit_response_type,
)
from fastmcp.tools.base import InputRequiredToolResult, Tool, ToolResult
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult
from pydantic import PrivateAttr

from raincheck.errors import OperationFailed
from raincheck.mcp.protocol_errors import protocol_error_outcome
from raincheck.operations.context import TaskContext
from raincheck.operations.costly_types import CostlyTypes
from raincheck.operations.foreign_json import NotJson, plain_json
from raincheck.operations.operation import Operation, Policy
from raincheck.task import Outcome, TaskError

__all__ = ["AnsweredTool", "existing_tool_operation"]

logger = logging.getLogger(__name__)

Answer = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


class AnsweredTool(Tool):
    """A tool of ours in FastMCP's listing. A client's call is answered before it gets here, by the extension."""

    _answer: Answer = PrivateAttr()

    @classmethod
    def made(cls, answer: Answer, **fields: Any) -> AnsweredTool:
        """The tool; `answer` serves the calls that other code of the server makes."""
        tool = cls(**fields)
        tool._answer = answer
        return tool

    def to_mcp_tool(self, **overrides: Any) -> Any:
        """See `Tool.to_mcp_tool`: without the title that FastMCP makes of a name, which says nothing more."""
        return super().to_mcp_tool(**{"title": self.title, **overrides})

    async def run(self, arguments: dict[str, Any]) -> Any:
        """See `Tool.run`."""
        return await self._answer(self.name, arguments)


class BackgroundContext(Context):
    """The `Context` that a tool gets when it runs as a task: progress and questions go to the task."""

    def __init__(self, server: FastMCP, task: TaskContext) -> None:
        super().__init__(server)
        self._task = task

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """See `Context.report_progress`; without a total only the message is known."""
        await self._task.progress(progress / total if total else None, message)

    async def log(self, message: str, level: Any = None, logger_name: str | None = None, extra: Any = None) -> None:
        """A log message has no client to go to; it goes to the server's log."""
        logger.info("%s: %s", level or "info", message, extra={"task_ref": self._task.task_ref})

    async def elicit(
        self,
        message: str,
        response_type: Any,
        *,
        response_title: str | None = None,
        response_description: str | None = None,
    ) -> Any:
        """See `Context.elicit`; the task is `input_required` until the caller has answered."""
        config = parse_elicit_response_type(
            response_type, response_title=response_title, response_description=response_description
        )
        answer = await self._task.elicit(message, config.schema)
        if answer["action"] == "accept":
            return handle_elicit_accept(config, answer.get("content"))
        return DeclinedElicitation() if answer["action"] == "decline" else CancelledElicitation()


@contextmanager
def _outside_any_request() -> Any:
    # A task may start in the context of the call that made it, or of a scan: the tool sees the same, no request.
    request, user = fastmcp_request_ctx.set(None), auth_context_var.set(None)
    try:
        yield
    finally:
        fastmcp_request_ctx.reset(request)
        auth_context_var.reset(user)


class FastMCPToolExecutor:
    """Runs one tool of the server as FastMCP does, with a context of its own."""

    def __init__(self, server: FastMCP, tool: Tool) -> None:
        self._server = server
        self._tool = tool
        from raincheck.operations.schema import ParameterSchema

        self._parameters = ParameterSchema(dict(tool.parameters), tool.name, checked_elsewhere=True)
        # The tool's own types are checked by pydantic when it runs.
        self._costly = CostlyTypes(self._parameters.schema)

    @property
    def parameters_schema(self) -> Mapping[str, Any]:
        """See `Executor.parameters_schema`."""
        return self._parameters.schema

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Executor.validate`."""
        checked = self._parameters.validate(arguments)
        self._costly.check(self._parameters.operation_type, checked)
        return checked

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Outcome:
        """See `Executor.run`: the whole tool result is kept, and a JSON-RPC error as it is."""
        try:
            with _outside_any_request():
                async with BackgroundContext(self._server, context):
                    result = await self._tool.run(dict(arguments))
        except MCPError as error:
            return protocol_error_outcome(error)
        except FastMCPError as error:
            return _tool_error(str(error))
        except Exception as error:
            logger.info("tool failed", exc_info=True, extra={"task_ref": context.task_ref})
            return _tool_error(self._told(error))
        if not isinstance(result, ToolResult) or isinstance(result, InputRequiredToolResult):
            return _tool_error(f"Tool {self._tool.name} asked for input in a way that a task cannot: use ctx.elicit.")
        try:
            return _outcome(result)
        except NotJson as error:
            return _tool_error(f"Tool {self._tool.name} gave a result that JSON cannot hold: {error}")

    def _told(self, error: Exception) -> str:
        masked = getattr(self._server, "_mask_error_details", True)
        text = f"Error calling tool {self._tool.name!r}"
        return text if masked else f"{text}: {error}"


def wire_result(result: ToolResult) -> CallToolResult:
    """The result as it goes over the wire."""
    made: Any = result.to_mcp_result()
    if isinstance(made, CallToolResult):
        return made
    content, structured = made if isinstance(made, tuple) else (made, None)
    return CallToolResult(content=content, structured_content=structured)


def _outcome(result: ToolResult) -> Outcome:
    dumped: dict[str, Any]
    dumped, _ = plain_json(wire_result(result).model_dump(by_alias=True, mode="json", exclude_none=True))
    if not dumped.get("isError"):
        return Outcome(mcp_result=dumped)
    text = next((block["text"] for block in dumped["content"] if block.get("type") == "text"), "The tool failed.")
    return Outcome(mcp_result=dumped, error=TaskError(code=OperationFailed.code, message=text))


def _tool_error(text: str) -> Outcome:
    return Outcome(
        mcp_result={"content": [{"type": "text", "text": text}], "isError": True},
        error=TaskError(code=OperationFailed.code, message=text),
    )


def existing_tool_operation(server: FastMCP, tool: Tool, policy: Policy) -> Operation:
    """The operation that stands for a tool which the server already has."""
    return Operation(
        operation_type=tool.name,
        description=tool.description or "",
        executor=FastMCPToolExecutor(server, tool),
        policy=policy,
        title=tool.title,
        output_schema=tool.output_schema,
    )
