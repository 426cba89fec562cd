"""The outbox: whatever ends a task writes down, in the same step, that its end is to be told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from raincheck.domain.task import Task
from raincheck.errors import StoreError
from raincheck.ports.records import Note
from raincheck.ports.task_store import TaskStore
from raincheck.stores.shared.delegating import StoreWrapper
from raincheck.webhooks.delivery import first_note

__all__ = ["Outbox"]

logger = logging.getLogger(__name__)


class Outbox(StoreWrapper):
    """A store whose `replace` adds the delivery of a task that ends. A `replace` of a terminal task is its end.

    Args:
        inner: The store inside.
        written: Called after each that was added.
    """

    def __init__(self, inner: TaskStore, *, written: Callable[[], None] = lambda: None) -> None:
        super().__init__(inner)
        self._written = written

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        note: Note | None = None,
    ) -> bool:
        """See `TaskStore.replace`.

        The step has room for one note. Where it is the delivery's, the caller's own is written right after it: it must
        be there already and come due by itself, later, should this process die in between
        (`raincheck.runtime.upstream_cleanup`).
        """
        if not task.terminal or (delivery := first_note(task)) is None:
            return await self.inner.replace(task, seen_lease=seen_lease, lease_seconds=lease_seconds, note=note)
        done = await self.inner.replace(task, seen_lease=seen_lease, lease_seconds=lease_seconds, note=delivery)
        if done:
            if note is not None:
                await self._write(note)
            self._written()
        return done

    async def _write(self, note: Note) -> None:
        try:
            while True:
                there = await self.inner.get_note(note.kind, note.key)
                if await self.inner.put_note(replace(note, version=1 if there is None else there.version + 1)):
                    return
        except StoreError as error:
            # The task has ended all the same: that must not be told as a failure.
            logger.warning("a note beside a delivery is written late: %s", error.message)
