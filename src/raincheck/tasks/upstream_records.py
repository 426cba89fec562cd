"""Records of the work that a task started on another server: written with its checkpoint, due once it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from raincheck.domain.task import Task
from raincheck.ports.records import Note
from raincheck.ports.task_store import TaskStore

__all__ = ["AFTER_DEADLINE", "KIND", "due_with", "forget", "note_of"]

KIND: Final = "upstream"
AFTER_DEADLINE = timedelta(seconds=5)
_KEPT = timedelta(days=1)


def note_of(task: Task, leftover: Mapping[str, Any]) -> Note:
    """The note of what the task leaves outside, to be written with its checkpoint."""
    return Note(
        kind=KIND,
        key=task.task_ref,
        value={"operation_type": task.operation_type, "leftover": dict(leftover), "tries": 0},
        # Who settles the task makes it due; this is for a store that was written to by other means.
        due_at=task.deadline_at + AFTER_DEADLINE,
        expires_at=task.deadline_at + _KEPT,
    )


async def due_with(store: TaskStore, task: Task, changed: Task, now: datetime) -> Note | None:
    """What is to be written with `changed`: the task's note, due now, where the task ends and left something."""
    if task.checkpoint is None or not changed.terminal:
        return None
    note = await store.get_note(KIND, task.task_ref)
    return None if note is None else replace(note, due_at=now)


async def forget(store: TaskStore, task_ref: str) -> None:
    """The work has come to its end: there is nothing to stop."""
    note = await store.get_note(KIND, task_ref)
    if note is not None:
        await store.remove_note(note)
