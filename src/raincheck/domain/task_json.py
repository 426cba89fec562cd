"""Tasks as JSON: the shape that `resolve_task_status` answers with and that webhooks carry."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from raincheck.domain.result_body import public_preview
from raincheck.domain.task import Outcome, Task


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
        status["input_requests"] = _questions(task)
    return status


def compact_status_of(task: Task) -> dict[str, Any]:
    """The same for a model: what says nothing is left out, and a terminal task has its whole result or error."""
    status: dict[str, Any] = {"task_ref": task.task_ref, "status": task.status.value}
    outcome = task.outcome
    if outcome is not None and outcome.error is not None:
        status["error"] = outcome.error.public()
    elif outcome is not None:
        status["result"] = plain_value(outcome)
    if task.terminal:
        return status
    if task.progress is not None:
        told = {"fraction": task.progress.fraction, "message": task.progress.message}
        status["progress"] = {key: value for key, value in told.items() if value is not None}
    if task.outstanding:
        status["input_requests"] = _questions(task)
    return status


def _questions(task: Task) -> dict[str, Any]:
    return {request.key: {"method": request.method, "params": request.params} for request in task.outstanding}


def plain_value(outcome: Outcome) -> Any:
    """What the operation produced, without the envelope of a tool result: for the `result` of a status.

    Of a large result its preview (`raincheck.domain.result_body.public_preview`).
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
