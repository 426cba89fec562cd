"""Adopted tools as operations: their checks, results, errors and logs, alike on every host."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from mcp_types import CallToolResult, ToolAnnotations

from raincheck.domain.task import Outcome, TaskError
from raincheck.domain.traces import alone
from raincheck.domain.unicode_text import well_formed_json
from raincheck.errors import OperationFailed, TaskFailure
from raincheck.mcp.tool_listing import harmless_twice
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Executor, FailedAs, Operation, Policy
from raincheck.operations.own_checks import OwnChecks, object_schema
from raincheck.operations.untrusted_json import NotJson, plain_json

logger = logging.getLogger("raincheck.tool")

NO_REQUEST = "it belongs to a request, and this tool runs as a task, outside of any (see docs/fastmcp.md)"
"""Why a tool that runs as a task has no session: ends the message of the error."""

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "alert": logging.CRITICAL,
    "emergency": logging.CRITICAL,
}


def log_of_tool(context: TaskContext, level: str | None, text: Any, more: Mapping[str, Any] | None = None) -> None:
    """A tool's message for its client goes to the server's log, at its level: there is no client."""
    extra = {"task_ref": context.task_ref, "operation": context.operation_type}
    said = f"{text} {dict(more)}" if more else str(text)
    logger.log(_LEVELS.get(level or "info", logging.INFO), "%s", said, extra=extra)


def failed_tool(text: str, error: BaseException | None = None) -> FailedAs:
    """The end of a tool that failed, to be raised from the `error`: callers are told the host's `text`, and of a
    `TaskFailure` what it says of itself."""
    cause = None if error is None else alone(error)
    told = TaskError(code=OperationFailed.code, message=text)
    if isinstance(cause, TaskFailure):
        told = replace(TaskError.from_exception(cause), message=text)
    return FailedAs(Outcome(mcp_result={"content": [{"type": "text", "text": text}], "isError": True}, error=told))


class HostTool(Protocol):
    """A tool as either host lists it."""

    name: str
    title: str | None
    description: str | None
    output_schema: dict[str, Any] | None
    annotations: ToolAnnotations | None


class CheckedTool:
    """The part of a tool's executor that knows its parameters.

    Args:
        schema: Its input schema, as the host lists it.
        checks: Checks arguments as the host does before it runs the tool.
    """

    def __init__(self, schema: Mapping[str, Any], checks: OwnChecks) -> None:
        self._schema = object_schema(schema)
        self._checks = checks

    @property
    def parameters_schema(self) -> Mapping[str, Any]:
        """See `Executor.parameters_schema`."""
        return self._schema

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Executor.validate`."""
        return self._checks.validate(arguments)


def adopted_operation(tool: HostTool, executor: Executor, policy: Policy) -> Operation:
    """The operation that stands for a tool of the server."""
    return Operation(
        operation_type=tool.name,
        description=tool.description or "",
        executor=executor,
        policy=policy,
        title=tool.title,
        output_schema=tool.output_schema,
        harmless_twice=harmless_twice(tool.annotations),
    )


def tool_outcome(name: str, result: CallToolResult) -> Outcome:
    """The outcome of a tool that returned this result, which is kept whole.

    Raises:
        FailedAs: JSON cannot hold the result.
    """
    try:
        dumped, _ = plain_json(well_formed_json(result.model_dump(by_alias=True, mode="json", exclude_none=True)))
    except NotJson as error:
        raise failed_tool(f"Tool {name} gave a result that JSON cannot hold: {error}") from error
    if not dumped.get("isError"):
        return Outcome(mcp_result=dumped)
    text = next((block["text"] for block in dumped["content"] if block.get("type") == "text"), "The tool failed.")
    return Outcome(mcp_result=dumped, error=TaskError(code=OperationFailed.code, message=text))
