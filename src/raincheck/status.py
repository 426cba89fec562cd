"""A task as callers are told of it: the shape that `resolve_task_status` answers with and that webhooks carry."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from raincheck.result_forms import public_preview
from raincheck.task import Outcome, Task

__all__ = ["plain_value", "status_of", "timestamp"]


def timestamp(at: datetime) -> str:
    """ISO 8601 with milliseconds and `Z`."""
    return f"{at.strftime('%Y-%m-%dT%H:%M:%S')}.{at.microsecond // 1000:03d}Z"


def status_of(task: Task, *, poll_after_seconds: float | None, eta_seconds: float | None = None) -> dict[str, Any]:
    """The answer of `resolve_task_status` and `cancel_background_task` (design.md §4); `eta_seconds` where known."""
    outcome = task.outcome
    error = outcome.error if outcome else None
    status: dict[str, Any] = {
        "task_ref": task.task_ref,
        "operation_type": task.operation_type,
        "status": task.status.value,
        "terminal": task.terminal,
        "created_at": timestamp(task.created_at),
        "updated_at": timestamp(task.updated_at),
        "deadline_at": timestamp(task.deadline_at),
        "progress": {"fraction": task.progress.fraction, "message": task.progress.message} if task.progress else None,
        "poll_after_seconds": poll_after_seconds,
        "result": plain_value(outcome) if outcome and error is None else None,
        "error": error.public() if error else None,
    }
    if eta_seconds is not None:
        status["eta_seconds"] = eta_seconds
    if task.outstanding:
        status["input_requests"] = {
            request.key: {"method": request.method, "params": request.params} for request in task.outstanding
        }
        status["next_step"] = "Ask the user, then call provide_task_input with responses by these keys."
    return status


def plain_value(outcome: Outcome) -> Any:
    """What the operation produced, without the envelope of a tool result: for the `result` of a status.

    Of a large result its preview (`raincheck.result_forms.public_preview`).
    """
    if outcome.large is not None:
        return public_preview(outcome.large)
    result = outcome.mcp_result
    if result is None:
        return outcome.value
    if (structured := result.get("structuredContent")) is not None:
        return structured
    content: list[dict[str, Any]] = result.get("content") or []
    if len(content) == 1 and content[0].get("type") == "text":
        return content[0].get("text")
    return {"content": content}
