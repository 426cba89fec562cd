"""A store that tells of the tasks that end in it: each by the one process whose write ended it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from raincheck.domain.task import Task
from raincheck.ports.records import Record
from raincheck.ports.task_store import TaskStore
from raincheck.stores.shared.delegating import StoreWrapper


class TellingStore(StoreWrapper):
    """Tells of ends, whoever brought them about: the worker, the sweeper, or a caller who cancels.

    Args:
        inner: The store.
        settled: Called with a terminal task once it is written.
    """

    def __init__(self, inner: TaskStore, settled: Callable[[Task], None]) -> None:
        super().__init__(inner)
        self._settled = settled

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        record: Record | None = None,
    ) -> bool:
        """See `TaskStore.replace`."""
        written = await self.inner.replace(task, seen_lease=seen_lease, lease_seconds=lease_seconds, record=record)
        if written and task.terminal:
            self._settled(task)
        return written
