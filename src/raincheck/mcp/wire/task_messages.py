"""Tasks as the two task protocols show them. Members that do not apply are left out, never null."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from mcp_types import INTERNAL_ERROR

from raincheck.domain.task import Task, TaskError, TaskStatus
from raincheck.errors import InternalError, InvalidParameters, TaskTimeout, WorkerLost
from raincheck.mcp.wire import tool_results
from raincheck.operations.untrusted_json import read_json
from raincheck.ports.task_store import Cursor, TaskSummary

RELATED_TASK = "io.modelcontextprotocol/related-task"
"""The `_meta` key of 2025-11-25 that ties a message to its task."""

ETA = "raincheck/eta-seconds"
"""Our own `_meta` key beside a task: in how many seconds it has probably ended. The protocols have no member for it."""

# What happened to the call itself; everything else is a tool that ran and reported an error (SEP-2663).
_NOT_THE_TOOLS = frozenset({TaskTimeout.code, WorkerLost.code, InternalError.code})

_STATUS = {
    TaskStatus.PENDING: "working",
    TaskStatus.PROCESSING: "working",
    TaskStatus.INPUT_REQUIRED: "input_required",
    TaskStatus.COMPLETED: "completed",
    TaskStatus.FAILED: "failed",
    TaskStatus.CANCELLED: "cancelled",
}


def created_task(task: Task, *, now: datetime, poll_after_seconds: float | None) -> dict[str, Any]:
    """`CreateTaskResult` of the extension: flat, without result, error, input requests or request state."""
    return {"resultType": "task", **_base(task, now, poll_after_seconds)}


def detailed_task(task: Task, *, now: datetime, poll_after_seconds: float | None) -> dict[str, Any]:
    """The whole task of the extension, for `tasks/get` (with its `resultType`) and `notifications/tasks`."""
    shown = _base(task, now, poll_after_seconds)
    if shown["status"] == "completed" and task.outcome is not None:
        shown["result"] = tool_results.outcome_result(task.outcome)
    elif shown["status"] == "failed":
        shown["error"] = failure_of(task)
    elif shown["status"] == "input_required":
        shown["inputRequests"] = {
            request.key: {"method": request.method, "params": dict(request.params)} for request in task.outstanding
        }
    return shown


def core_task(
    task: Task | TaskSummary, *, ttl: int | None, poll_after_seconds: float | None, message: str | None = None
) -> dict[str, Any]:
    """A task of 2025-11-25."""
    shown: dict[str, Any] = {
        "taskId": task.task_ref,
        "status": _wire_status(task) if isinstance(task, Task) else _STATUS[task.status],
        "createdAt": tool_results.timestamp(task.created_at),
        "lastUpdatedAt": tool_results.timestamp(task.updated_at),
        "ttl": ttl,
    }
    message = message or (_message(task) if isinstance(task, Task) else None)
    return _with_hints(shown, message, "pollInterval", poll_after_seconds)


def time_to_live(task: Task, now: datetime) -> int:
    """Milliseconds from creation until the task may be gone: what is true now.

    Of a task that is not settled it is only known that it stays for its retention from now on.
    """
    until = task.expires_at or now + timedelta(seconds=task.ttl_seconds)
    return max(0, int((until - task.created_at) / timedelta(milliseconds=1)))


def failure_of(task: Task) -> dict[str, Any]:
    """The JSON-RPC error of a task that failed on a task surface."""
    outcome = task.outcome
    if outcome is not None and outcome.rpc_error is not None:
        return dict(outcome.rpc_error)
    error = outcome.error if outcome is not None and outcome.error is not None else _unknown_error()
    return {"code": INTERNAL_ERROR, "message": error.message, "data": error.public()}


def is_rpc_failure(task: Task) -> bool:
    """Whether the task ended in what would have been a JSON-RPC error of the call, not in a tool's own error."""
    if task.status is not TaskStatus.FAILED or task.outcome is None or task.outcome.error is None:
        return task.status is TaskStatus.FAILED
    return task.outcome.rpc_error is not None or task.outcome.error.code in _NOT_THE_TOOLS


def related(result: Mapping[str, Any], task_ref: str) -> dict[str, Any]:
    """The message with the `_meta` that ties it to its task (2025-11-25)."""
    meta: dict[str, Any] = dict(result.get("_meta") or {})
    return {**result, "_meta": {**meta, RELATED_TASK: {"taskId": task_ref}}}


def with_eta(shown: dict[str, Any], eta_seconds: float | None) -> dict[str, Any]:
    """The task with its expected end in `_meta`, where that is known."""
    return shown if eta_seconds is None else {**shown, "_meta": {ETA: eta_seconds}}


def page_cursor(task: TaskSummary) -> str:
    """An opaque cursor: the page after this task."""
    place = json.dumps([task.created_at.isoformat(), task.task_ref])
    return base64.urlsafe_b64encode(place.encode()).decode()


def cursor_from(text: str) -> Cursor:
    """The place that a cursor of ours names.

    Raises:
        InvalidParameters: It is not one of ours.
    """
    try:
        at, task_ref = read_json(base64.urlsafe_b64decode(text.encode()))
        place = Cursor(datetime.fromisoformat(at), str(task_ref))
        if place.created_at.tzinfo is None:
            raise ValueError(at)
    except (ValueError, TypeError, AttributeError):
        raise InvalidParameters("Unknown cursor: use the nextCursor of the page before.") from None
    return place


def _base(task: Task, now: datetime, poll_after_seconds: float | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "taskId": task.task_ref,
        "status": _wire_status(task),
        "createdAt": tool_results.timestamp(task.created_at),
        "lastUpdatedAt": tool_results.timestamp(task.updated_at),
        "ttlMs": time_to_live(task, now),
    }
    return _with_hints(shown, _message(task), "pollIntervalMs", poll_after_seconds)


def _with_hints(
    shown: dict[str, Any], message: str | None, interval: str, poll_after_seconds: float | None
) -> dict[str, Any]:
    if message:
        shown["statusMessage"] = message
    if poll_after_seconds is not None:
        shown[interval] = max(1, round(poll_after_seconds * 1000))
    return shown


def _wire_status(task: Task) -> str:
    if task.status is TaskStatus.FAILED and not is_rpc_failure(task):
        return "completed"
    return _STATUS[task.status]


def _message(task: Task) -> str | None:
    if task.outcome is not None and task.outcome.error is not None:
        return task.outcome.error.message
    if task.terminal or task.progress is None:
        return None
    fraction, message = task.progress.fraction, task.progress.message
    percent = None if fraction is None else f"{fraction:.0%}"
    return ": ".join(part for part in (percent, message) if part) or None


def _unknown_error() -> TaskError:
    return TaskError(code=InternalError.code, message="The task failed.")
