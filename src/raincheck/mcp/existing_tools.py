"""Existing `@mcp.tool()` functions as operations, unchanged: run by the server itself, outside of any request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, Tool
from pydantic import PrivateAttr

from raincheck.errors import OperationFailed
from raincheck.mcp.protocol_errors import protocol_error_outcome
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Operation, Policy
from raincheck.operations.schema import ParameterSchema
from raincheck.task import Outcome, TaskError

__all__ = ["existing_tool_operation"]

logger = logging.getLogger(__name__)


class BackgroundContext(Context[Any, Any]):
    """The `Context` that a tool gets when it runs as a task: progress and questions go to the task."""

    _task: TaskContext = PrivateAttr()

    def __init__(self, server: MCPServer[Any], task: TaskContext) -> None:
        super().__init__(mcp_server=server)
        self._task = task

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """See `Context.report_progress`; without a total only the message is known."""
        await self._task.progress(progress / total if total else None, message)

    async def log(self, level: Any, data: Any, *, logger_name: str | None = None) -> None:
        """A log message has no client to go to; it goes to the server's log."""
        logger.info("%s: %s", level, data, extra={"task_ref": self._task.task_ref})


class ExistingToolExecutor:
    """Runs one tool of the server through the server's public `call_tool`."""

    def __init__(self, server: MCPServer[Any], tool: Tool) -> None:
        self._server = server
        self._name = tool.name
        # The SDK's tools pass over what they don't know, and stay as they are.
        self._parameters = ParameterSchema({"additionalProperties": True, **tool.input_schema}, tool.name)

    @property
    def parameters_schema(self) -> Mapping[str, Any]:
        """See `Executor.parameters_schema`."""
        return self._parameters.schema

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Executor.validate`."""
        return self._parameters.validate(arguments)

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Outcome:
        """See `Executor.run`: the whole tool result is kept, and a JSON-RPC error as it is."""
        try:
            result = await self._server.call_tool(self._name, dict(arguments), BackgroundContext(self._server, context))
        except MCPError as error:
            return protocol_error_outcome(error)
        except ToolError as error:
            if error.__cause__ is not None:
                logger.info("tool failed", exc_info=error.__cause__, extra={"task_ref": context.task_ref})
            return _tool_error(str(error))
        if not isinstance(result, CallToolResult):
            return _tool_error(f"Tool {self._name} asked for input in a way that a task cannot: use ctx.elicit.")
        dumped = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        if not result.is_error:
            return Outcome(mcp_result=dumped)
        text = next((block["text"] for block in dumped["content"] if block.get("type") == "text"), "The tool failed.")
        return Outcome(mcp_result=dumped, error=TaskError(code=OperationFailed.code, message=text))


def _tool_error(text: str) -> Outcome:
    return Outcome(
        mcp_result={"content": [{"type": "text", "text": text}], "isError": True},
        error=TaskError(code=OperationFailed.code, message=text),
    )


def existing_tool_operation(server: MCPServer[Any], tool: Tool, policy: Policy) -> Operation:
    """The operation that stands for a tool which the server already has."""
    return Operation(
        operation_type=tool.name,
        description=tool.description or "",
        executor=ExistingToolExecutor(server, tool),
        policy=policy,
        title=tool.title,
        output_schema=tool.output_schema,
    )
