"""Records of the work that a task started on another server: written with its checkpoint, due once it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from raincheck.domain.task import Task
from raincheck.ports.records import Record
from raincheck.ports.task_store import TaskStore

KIND: Final = "upstream"
AFTER_DEADLINE = timedelta(seconds=5)
_KEPT = timedelta(days=1)


def record_of(task: Task, cleanup: Mapping[str, Any]) -> Record:
    """The record of what the task leaves outside, to be written with its checkpoint."""
    return Record(
        kind=KIND,
        key=task.task_ref,
        value={"operation_type": task.operation_type, "cleanup": dict(cleanup), "tries": 0},
        # Who settles the task makes it due; this is for a store that was written to by other means.
        due_at=task.deadline_at + AFTER_DEADLINE,
        expires_at=task.deadline_at + _KEPT,
    )


async def cleanup_record_for(store: TaskStore, task: Task, changed: Task, now: datetime) -> Record | None:
    """What is to be written with `changed`: the task's record, due now, where the task ends and left something."""
    if not (task.resumable and changed.terminal):
        return None
    record = await store.get_record(KIND, task.task_ref)
    return None if record is None else replace(record, due_at=now)


async def discard_cleanup(store: TaskStore, task_ref: str) -> None:
    """The work has come to its end: there is nothing to stop."""
    record = await store.get_record(KIND, task_ref)
    if record is not None:
        await store.remove_record(record)
