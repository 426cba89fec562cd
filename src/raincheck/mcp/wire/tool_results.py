"""What stands on the wire: the JSON of tickets, statuses and tool results. MCP's camelCase lives here alone."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from raincheck.domain.result_body import link_of, public_preview, to_text
from raincheck.domain.task import Outcome, Task, TaskError
from raincheck.domain.task_json import timestamp
from raincheck.errors import CallError, InternalError, RaincheckError, StoreError
from raincheck.mcp.wire.store_errors import for_callers
from raincheck.ports.task_store import TaskSummary

logger = logging.getLogger(__name__)


def json_result(payload: Mapping[str, Any], *, is_error: bool = False) -> dict[str, Any]:
    """A tool result: the payload as `structuredContent`, and the same JSON as text."""
    return {
        "resultType": "complete",
        "content": [{"type": "text", "text": to_text(payload)}],
        "structuredContent": payload,
        "isError": is_error,
    }


def call_error(error: RaincheckError) -> dict[str, Any]:
    """The result of a call that was wrong or refused: `{"error": …}` with `isError`."""
    return json_result({"error": TaskError.from_exception(error).public()}, is_error=True)


async def answer_errors(answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The boundary of every tool call: an error becomes a result that the model can read.

    The caller of one that meets a bug gets a correlation id, the log the rest.
    """
    try:
        return await answer
    except CallError as error:
        return call_error(error)
    except StoreError as error:
        return call_error(for_callers(error))
    except Exception as error:  # the boundary that the docstring names
        if type(error).__module__.startswith("mcp."):
            raise
        correlation = secrets.token_hex(8)
        logger.exception("a tool call failed, correlation id %s", correlation)
        details = {"correlation_id": correlation}
        return call_error(InternalError("Something went wrong in the server.", details=details))


def ticket_of(task: Task, *, deduplicated: bool, poll_after_seconds: float, status: str) -> dict[str, Any]:
    """Every member of a ticket but its next step (design.md §4)."""
    return {
        "task_ref": task.task_ref,
        "status": status,
        "operation_type": task.operation_type,
        "deduplicated": deduplicated,
        "created_at": timestamp(task.created_at),
        "deadline_at": timestamp(task.deadline_at),
        "poll_after_seconds": poll_after_seconds,
    }


def summary_of(task: TaskSummary) -> dict[str, Any]:
    """One row of `list_background_tasks`."""
    return {
        "task_ref": task.task_ref,
        "operation_type": task.operation_type,
        "status": task.status.value,
        "created_at": timestamp(task.created_at),
        "updated_at": timestamp(task.updated_at),
        "deadline_at": timestamp(task.deadline_at),
        "progress": {"fraction": task.progress.fraction, "message": task.progress.message} if task.progress else None,
        "error_code": task.error_code,
    }


def value_result(value: Any) -> dict[str, Any]:
    """A plain value as the result of its typed tool: text stays text, an object is also `structuredContent`."""
    result: dict[str, Any] = {
        "resultType": "complete",
        "content": [{"type": "text", "text": value if isinstance(value, str) else to_text(value)}],
        "isError": False,
    }
    if isinstance(value, dict):
        result["structuredContent"] = value
    return result


def outcome_result(
    outcome: Outcome, *, raise_rpc_error: Callable[[Mapping[str, Any]], Exception] | None = None
) -> dict[str, Any]:
    """What the call would have returned, had it waited: the whole result, or the error as the model can read it.

    Of a large result a preview, and a link to the whole.

    Raises:
        Exception: What `raise_rpc_error` makes of a JSON-RPC error, where the operation ended in one.
    """
    if outcome.rpc_error is not None and raise_rpc_error is not None:
        raise raise_rpc_error(outcome.rpc_error)
    if outcome.large is not None:
        result = json_result(public_preview(outcome.large), is_error=outcome.error is not None)
        return {**result, "content": [*result["content"], link_of(outcome.large)]}
    if outcome.mcp_result is not None:
        return {"resultType": "complete", **outcome.mcp_result}
    if outcome.error is not None:
        return json_result({"error": outcome.error.public()}, is_error=True)
    return value_result(outcome.value)
