"""Existing `@mcp.tool()` functions as operations, unchanged: run by the server itself, outside of any request."""

from __future__ import annotations

import asyncio
import logging
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

from raincheck.errors import OperationFailed
from raincheck.mcp.protocol_errors import protocol_error_outcome
from raincheck.operations.context import TaskContext
from raincheck.operations.costly_types import CostlyTypes
from raincheck.operations.foreign_json import NotJson, plain_json
from raincheck.operations.operation import Operation, Policy
from raincheck.task import Outcome, TaskError

__all__ = ["existing_tool_operation"]

logger = logging.getLogger(__name__)


class BackgroundContext(Context[Any, Any]):
    """The `Context` that a tool gets when it runs as a task: progress and questions go to the task.

    There is no request: what needs one (`session`, `request_context`, `headers`) raises as outside of any request.
    """

    _task: TaskContext = PrivateAttr()

    def __init__(
        self, server: MCPServer[Any], task: TaskContext, answers: InputResponseRequestParams | None = None
    ) -> None:
        super().__init__(mcp_server=server, input_params=answers)
        self._task = task

    @property
    def protocol_version(self) -> str:
        """The version whose multi-round-trip questions a tool may ask: they become the task's own."""
        return LATEST_MODERN_VERSION

    @property
    def client_capabilities(self) -> ClientCapabilities:
        """A task can ask whatever its protocols can carry; who answers is not known yet."""
        return ClientCapabilities(elicitation=ElicitationCapability(), sampling=SamplingCapability())

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
        """A log message has no client to go to; it goes to the server's log, without its data."""
        logger.info("a tool logged at level %s", level, extra={"task_ref": self._task.task_ref})


class ExistingToolExecutor:
    """Runs one tool of the server through the server's public `call_tool`."""

    def __init__(self, server: MCPServer[Any], tool: Tool) -> None:
        self._server = server
        self._name = tool.name
        # With it comes the JSON Schema library: not for servers without such tools.
        from raincheck.operations.schema import ParameterSchema

        # The SDK's tools pass over what they don't know, and stay as they are.
        schema = {"additionalProperties": True, **tool.input_schema}
        self._parameters = ParameterSchema(schema, tool.name, checked_elsewhere=True)
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
        answers: InputResponseRequestParams | None = None
        try:
            while True:
                tool_context = BackgroundContext(self._server, context, answers)
                result = await self._server.call_tool(self._name, dict(arguments), tool_context)
                if isinstance(result, CallToolResult):
                    break
                answers = await _answered(result, context)
        except MCPError as error:
            return protocol_error_outcome(error)
        except ToolError as error:
            if error.__cause__ is not None:
                logger.info("tool failed", exc_info=error.__cause__, extra={"task_ref": context.task_ref})
            return _tool_error(str(error))
        try:
            dumped, _ = plain_json(result.model_dump(by_alias=True, mode="json", exclude_none=True))
        except NotJson as error:
            return _tool_error(f"Tool {self._name} gave a result that JSON cannot hold: {error}")
        if not result.is_error:
            return Outcome(mcp_result=dumped)
        text = next((block["text"] for block in dumped["content"] if block.get("type") == "text"), "The tool failed.")
        return Outcome(mcp_result=dumped, error=TaskError(code=OperationFailed.code, message=text))


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
