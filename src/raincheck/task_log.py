"""The lines of the log that every task has: accepted, started, ended; the end of a failed one is a warning."""

from __future__ import annotations

import logging

from raincheck.logs import TASKS
from raincheck.task import Task, TaskStatus

__all__ = ["accepted", "ended", "started"]

logger = logging.getLogger(TASKS)


def accepted(task: Task) -> None:
    """The task is durable."""
    logger.info("task accepted", extra=_named(task))


def started(task: Task) -> None:
    """A worker has claimed the task and begins."""
    logger.info("task started", extra=_named(task) | {"worker_id": task.worker_id, "attempt": task.attempt})


def ended(task: Task) -> None:
    """The task is terminal: how, with which code, and how many seconds after its start (or, never started, after it
    was accepted)."""
    assert task.settled_at is not None
    seconds = (task.settled_at - (task.started_at or task.created_at)).total_seconds()
    more: dict[str, object] = {"seconds": round(max(0.0, seconds), 3)}
    if task.outcome is not None and task.outcome.error is not None:
        more["code"] = task.outcome.error.code
    level = logging.WARNING if task.status is TaskStatus.FAILED else logging.INFO
    logger.log(level, "task %s", task.status, extra=_named(task) | more)


def _named(task: Task) -> dict[str, object]:
    return {"task_ref": task.task_ref, "operation": task.operation_type}
