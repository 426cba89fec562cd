"""The writer of tasks: the next version by compare-and-set, the records that go with it, and the event of its end.

Every change of a stored task goes through here but the claim, whose answer the runner must be able to look for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from raincheck.domain.task import Task
from raincheck.domain.transitions import Event, transition
from raincheck.ports.records import Record
from raincheck.ports.task_store import TaskStore
from raincheck.tasks.upstream_records import cleanup_record_for


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEnded:
    """A task reached its terminal state by a write of this process: of all processes, one has this event.

    Attributes:
        task: The task as it was written.
        delivery: Whether a webhook was written with it.
    """

    task: Task
    delivery: bool


class TaskWriter:
    """Applies events to stored tasks.

    Args:
        store: The open store.
        clock: The wall clock.
        delivery_of: The record by which the end of a task is sent to others; None where none was asked for.
        ended: Called with each task that ends here, once that is durable.
    """

    def __init__(
        self,
        store: TaskStore,
        clock: Callable[[], datetime],
        *,
        delivery_of: Callable[[Task], Record | None] = lambda task: None,
        ended: Callable[[TaskEnded], None] = lambda ended: None,
    ) -> None:
        self._store = store
        self.clock = clock
        self._delivery_of = delivery_of
        self._ended = ended

    async def write(
        self,
        task: Task,
        event: Event,
        *,
        lease: timedelta | None = None,
        seen_lease: datetime | None = None,
        records: Sequence[Record] = (),
    ) -> Task | None:
        """Apply the event to this version of the task: one try.

        Args:
            task: The task as it was read.
            lease: How long a lease that goes on is good for from now.
            seen_lease: The stored lease must still be this one (`TaskStore.replace`).
            records: Written in the same step.

        Returns:
            The task as it is now stored; None where another version is.

        Raises:
            Refused: The event does not apply.
            StoreError: Nothing was written, as far as the store can tell.
        """
        now = self.clock()
        changed = transition(task, event, now)
        if changed is task:
            return task
        if lease is not None and changed.lease_until is not None:
            # Heartbeats leave the version alone, so the task as read may hold a lease that was renewed since.
            changed = replace(changed, lease_until=max(changed.lease_until, now + lease))
        cleanup = await cleanup_record_for(self._store, task, changed, now)
        delivery = self._delivery_of(changed) if changed.terminal else None
        written = await self._store.replace(
            changed,
            seen_lease=seen_lease,
            lease_seconds=None if lease is None else lease.total_seconds(),
            records=[*records, *(each for each in (cleanup, delivery) if each is not None)],
        )
        if not written:
            return None
        if changed.terminal:
            self._ended(TaskEnded(task=changed, delivery=delivery is not None))
        return changed

    async def apply(
        self,
        task: Task,
        event: Event,
        read: Callable[[], Awaitable[Task | None]],
        *,
        lease: timedelta | None = None,
        records: Sequence[Record] = (),
    ) -> Task | None:
        """`write`, on whatever version `read` finds meanwhile, until one is written; None where `read` finds none."""
        current: Task | None = task
        while current is not None:
            if (changed := await self.write(current, event, lease=lease, records=records)) is not None:
                return changed
            current = await read()
        return None
