"""A task store whose `claimable` follows the fair queue."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from raincheck.domain.task import Task, TaskStatus
from raincheck.ports.records import Record
from raincheck.ports.task_store import TaskStore
from raincheck.stores.shared.delegating import StoreWrapper


class _FairQueue(Protocol):
    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]: ...
    def claimed(self, task: Task) -> None: ...


class TurnTakingStore(StoreWrapper):
    """Asks what is next, and tells of what began.

    Args:
        inner: The store.
        turns: Knows whose turn it is (`raincheck.limits.fair_queue`).
    """

    def __init__(self, inner: TaskStore, turns: _FairQueue) -> None:
        super().__init__(inner)
        self._turns = turns

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """See `TaskStore.claimable`, but for the order of those of one priority."""
        return await self._turns.claimable(operation_types, limit)

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        records: Sequence[Record] = (),
    ) -> bool:
        """See `TaskStore.replace`."""
        written = await self.inner.replace(task, seen_lease=seen_lease, lease_seconds=lease_seconds, records=records)
        if written and task.status is TaskStatus.PROCESSING:
            self._turns.claimed(task)
        return written
