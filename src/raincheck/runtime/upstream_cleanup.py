"""Upstream cleanup: cancels work that an ended task left on another server.

The operation saves what is needed for that with its checkpoint, as a record. The writer that settles the task otherwise
(a cancel, the deadline, a worker given up) makes the record due in the same write, so that no crash in between can lose
it; then any process that has the operation makes the call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from raincheck.domain.task import TaskStatus
from raincheck.errors import TaskFailure
from raincheck.operations.catalog import OperationCatalog
from raincheck.operations.operation import CancelsUpstream
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import TaskStore
from raincheck.tasks.upstream_records import AFTER_DEADLINE, KIND
from raincheck.timing.background import BackgroundLoop

logger = logging.getLogger(__name__)

_BATCH = 50
_MOST_TRIES = 12
_CALL_SECONDS = 30.0
_LATER = timedelta(seconds=60)
_LONGEST_PAUSE = 600.0


class UpstreamCleanup:
    """The loop that stops what tasks left behind. Every process runs one; compare-and-set decides between them.

    Args:
        operations: The operations of this process.
        look_seconds: How often to look.
    """

    def __init__(
        self,
        store: TaskStore,
        operations: OperationCatalog,
        *,
        clock: Callable[[], datetime],
        look_seconds: float = 1.0,
    ) -> None:
        self._store = store
        self._operations = operations
        self._clock = clock
        self._loop = BackgroundLoop(
            "upstream-cleanup", self._look_if_needed, purpose="look for work left behind", seconds=look_seconds
        )

    def start(self) -> None:
        """Begin to look."""
        self._loop.start()

    async def stop(self) -> None:
        """Stop looking; a call under way is broken off, and made again by another process or the next start."""
        await self._loop.stop()

    async def look(self) -> None:
        """See to everything that is due."""
        found = await self._store.records(RecordQuery(KIND, due=self._clock(), limit=_BATCH))
        await asyncio.gather(*(self._see_to(record) for record in found))

    async def _look_if_needed(self) -> None:
        if any(self._stopper(name) for name in tuple(self._operations)):
            await self.look()

    def _stopper(self, operation_type: str) -> CancelsUpstream | None:
        operation = self._operations.get(operation_type)
        executor = None if operation is None else operation.executor
        return executor if isinstance(executor, CancelsUpstream) and executor.leaves_work else None

    async def _see_to(self, record: Record) -> None:
        now = self._clock()
        task = await self._store.get(record.key)
        if task is not None and not task.terminal:
            await self._again(record, max(now, task.deadline_at) + AFTER_DEADLINE)
        elif (task is not None and task.status is TaskStatus.COMPLETED) or (record.expires_at or now) < now:
            await self._store.remove_record(record)
        elif (stopper := self._stopper(record.value["operation_type"])) is None:
            # Another process has the operation; this record must not stand before the others.
            await self._again(record, now + _LATER)
        else:
            tries = record.value["tries"] + 1
            claimed = replace(
                record, version=record.version + 1, due_at=now + _LATER, value={**record.value, "tries": tries}
            )
            if await self._store.put_record(claimed):
                await self._stop(claimed, stopper, tries)

    async def _stop(self, record: Record, stopper: CancelsUpstream, tries: int) -> None:
        extra = {"task_ref": record.key, "operation": record.value["operation_type"]}
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await stopper.stop_outside(record.value["cleanup"])
        except (TaskFailure, TimeoutError) as error:
            told = error.message if isinstance(error, TaskFailure) else f"no answer within {_CALL_SECONDS:g} s"
            if tries < _MOST_TRIES and (isinstance(error, TimeoutError) or error.retryable):
                pause = min(_LONGEST_PAUSE, 2.0 ** (tries - 1))
                logger.warning("an upstream job could not be cancelled, trying again: %s", told, extra=extra)
                await self._again(record, self._clock() + timedelta(seconds=pause))
                return
            logger.error("an upstream job could not be cancelled, given up: %s", told, extra=extra)
        else:
            logger.info("upstream job cancelled", extra=extra)
        await self._store.remove_record(record)

    async def _again(self, record: Record, at: datetime) -> None:
        await self._store.put_record(replace(record, version=record.version + 1, due_at=at))
