"""The lines of the log that every task has: accepted, started, ended; the end of a failed one is a warning."""

from __future__ import annotations

import logging

from raincheck.domain.logs import TASKS
from raincheck.domain.task import Task, TaskStatus

logger = logging.getLogger(TASKS)


def accepted(task: Task) -> None:
    """The task is durable."""
    _tell(logging.INFO, "task accepted", task)


def started(task: Task) -> None:
    """A worker has claimed the task and begins."""
    _tell(logging.INFO, "task started", task, worker_id=task.worker_id, attempt=task.attempt)


def ended(task: Task) -> None:
    """The task is terminal: how, with which code, and how many seconds after its start (or, never started, after it
    was accepted)."""
    assert task.settled_at is not None
    seconds = round(max(0.0, (task.settled_at - (task.started_at or task.created_at)).total_seconds()), 3)
    error = task.outcome.error if task.outcome is not None else None
    level = logging.WARNING if task.status is TaskStatus.FAILED else logging.INFO
    _tell(level, f"task {task.status}", task, seconds=seconds, code=error.code if error is not None else None)


def _tell(level: int, message: str, task: Task, **more: object) -> None:
    if logger.isEnabledFor(level):
        # Made here, without a look for the line of the caller: that would be a tenth of the cost.
        extra = {"task_ref": task.task_ref, "operation": task.operation_type, "on_one_line": True, **more}
        logger.handle(logger.makeRecord(TASKS, level, __file__, 0, message, (), None, extra=extra))
