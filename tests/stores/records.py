"""Tasks for the store tests, at times that the tests choose."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from raincheck.domain.task import Outcome, Task, new_task_ref
from raincheck.domain.transitions import Cancel, Claim, Event, Settle, transition
from raincheck.ports.task_store import TaskStore

__all__ = ["NOW", "after", "apply", "cancelled", "claimed", "new_task", "settled", "stored"]

# The processes that a test starts have its moment, also where they start after the full hour.
_HOUR = os.environ.setdefault("HOUR_OF_THE_STORES_TESTS", (datetime.now(UTC) - timedelta(hours=2)).isoformat()[:13])
NOW = datetime.fromisoformat(f"{_HOUR}:00:00.123456+00:00")
"""Two hours ago or more, whatever the time of the run, and not long ago: a store that counts expiry by its own clock
takes what expires within the hour for expired, and never for what has long expired."""


def after(seconds: float) -> datetime:
    """So many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)


def new_task(**changes: Any) -> Task:
    """A pending task accepted at NOW (or `created_at`), with a deadline after an hour and a retention of a minute."""
    created_at: datetime = changes.pop("created_at", NOW)
    members: dict[str, Any] = {
        "task_ref": new_task_ref(),
        "scope": "ada",
        "operation_type": "report",
        "arguments": {"quarter": "Q3"},
        "created_at": created_at,
        "updated_at": created_at,
        "deadline_at": created_at + timedelta(hours=1),
        "ttl_seconds": 60.0,
    }
    return Task(**{**members, **changes})


def claimed(task: Task, worker_id: str = "worker-1", *, at: datetime = NOW, lease_seconds: float = 30) -> Task:
    """The task in a worker's hands."""
    return transition(task, Claim(worker_id=worker_id, lease_until=at + timedelta(seconds=lease_seconds)), at)


def settled(task: Task, outcome: Outcome | None = None, *, at: datetime = NOW) -> Task:
    """The claimed task with its outcome."""
    return transition(task, Settle(fence=task.fence, outcome=outcome or Outcome(value=1)), at)


async def stored(store: TaskStore, **changes: Any) -> Task:
    """A new task, inserted."""
    task = new_task(**changes)
    assert (await store.insert(task)).created
    return task


async def apply(store: TaskStore, task: Task, *events: Event, at: datetime = NOW) -> Task:
    """The stored task after these events."""
    for event in events:
        task = transition(task, event, at)
        assert await store.replace(task)
    return task


async def cancelled(store: TaskStore, *, at: datetime = NOW, **changes: Any) -> Task:
    """A task that was cancelled at that moment, inserted and written."""
    return await apply(store, await stored(store, **changes), Cancel(), at=at)
