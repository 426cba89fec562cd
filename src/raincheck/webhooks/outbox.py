"""The outbox: whatever ends a task writes down, in the same step, that its end is to be told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from raincheck.notes import Note
from raincheck.store import TaskStore
from raincheck.stores.wrapper import StoreWrapper
from raincheck.task import Task
from raincheck.webhooks.delivery import first_note

__all__ = ["Outbox"]


class Outbox(StoreWrapper):
    """A store whose `replace` adds the delivery of a task that has ended; every `replace` to a terminal task is its end.

    Args:
        inner: The store inside.
        written: Called after each that was added.
    """

    def __init__(self, inner: TaskStore, *, written: Callable[[], None] = lambda: None) -> None:
        super().__init__(inner)
        self._written = written

    async def replace(self, task: Task, *, seen_lease: datetime | None = None, note: Note | None = None) -> bool:
        """See `TaskStore.replace`. A caller that brings a note of its own must not end a task that tells somebody."""
        if not task.terminal or (delivery := first_note(task)) is None:
            return await self.inner.replace(task, seen_lease=seen_lease, note=note)
        assert note is None, "the step that ends a task has room for one note, and it is the delivery's"
        done = await self.inner.replace(task, seen_lease=seen_lease, note=delivery)
        if done:
            self._written()
        return done
