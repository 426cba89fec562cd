"""The outbox: whatever ends a task writes down, in the same step, that its end is to be told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from raincheck.domain.task import Task
from raincheck.errors import StoreError
from raincheck.ports.records import Record
from raincheck.ports.task_store import TaskStore
from raincheck.stores.shared.delegating import StoreWrapper
from raincheck.webhooks.delivery import first_record

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
        record: Record | None = None,
    ) -> bool:
        """See `TaskStore.replace`.

        The step has room for one record. Where it is the delivery's, the caller's own is written right after it: it
        must be there already and come due by itself, later, should this process die in between
        (`raincheck.runtime.upstream_cleanup`).
        """
        if not task.terminal or (delivery := first_record(task)) is None:
            return await self.inner.replace(task, seen_lease=seen_lease, lease_seconds=lease_seconds, record=record)
        done = await self.inner.replace(task, seen_lease=seen_lease, lease_seconds=lease_seconds, record=delivery)
        if done:
            if record is not None:
                await self._write(record)
            self._written()
        return done

    async def _write(self, record: Record) -> None:
        try:
            while True:
                there = await self.inner.get_record(record.kind, record.key)
                if await self.inner.put_record(replace(record, version=1 if there is None else there.version + 1)):
                    return
        except StoreError as error:
            # The task has ended all the same: that must not be told as a failure.
            logger.warning("a record beside a delivery is written late: %s", error.message)
