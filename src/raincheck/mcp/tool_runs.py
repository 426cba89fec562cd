"""Runs of adopted tools as tasks: their results and errors, alike on every host."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from raincheck.domain.task import Outcome, TaskError
from raincheck.domain.traces import alone
from raincheck.errors import OperationFailed, TaskFailure
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import FailedAs

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
