"""The sweeper: settles overdue tasks and tasks of lost workers, and removes expired ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from raincheck.domain.task import Task, TaskStatus
from raincheck.domain.transitions import DeadlinePassed, LeaseExpired, Refused
from raincheck.errors import StoreError
from raincheck.ports.task_store import TaskStore
from raincheck.runtime.attempt import log_deadline
from raincheck.runtime.lost_workers import LostWorkers
from raincheck.tasks.writer import TaskWriter
from raincheck.timing.background import BackgroundLoop
from raincheck.timing.clock import StoreClock, monotonic

logger = logging.getLogger(__name__)

_BATCH = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepTimes:
    """When the sweeper does what, in seconds.

    Attributes:
        sweep: How often to look for overdue and orphaned tasks.
        purge: How often to remove expired ones.
        lease: For so long after an outage of the store or a jump of the clock no lease counts as over: healthy workers
            must have the time to renew theirs. On a store over the network, whose clock may have jumped before this
            process came, nor after its start.
    """

    sweep: float
    purge: float = 60.0
    lease: float = 0.0


class Sweeper:
    """Sweeps a store. Every process on a store runs one; compare-and-set decides between them.

    Args:
        writer: Writes what the sweep settles or returns, and has the clock by which it is due.
        times: How often to look, and for how long to spare leases.
        purge_others: Removes up to so many of what else has expired; how many.
        returned: Called with each task that became pending again.
        store_clock: The store's clock: read again before anything counts as over, since it may just have been set.
        held: The tasks that run in this very process, with their fencing numbers. Their worker is not lost, only late:
            the machine slept, or the store took no writes for longer than a lease.
        lost_workers: Finds the tasks of workers whose process is known to be gone: they do not wait for their leases.

    Attributes:
        failing: Whether the store did not let the last sweep happen.
    """

    def __init__(
        self,
        store: TaskStore,
        writer: TaskWriter,
        times: SweepTimes,
        *,
        store_clock: StoreClock | None = None,
        purge_others: Callable[[int], Awaitable[int]] | None = None,
        returned: Callable[[Task], Awaitable[None]],
        held: Callable[[], Mapping[str, int]] = dict[str, int],
        lost_workers: LostWorkers | None = None,
    ) -> None:
        self._lost_workers = lost_workers
        self._store = store
        self._writer = writer
        self._clock = writer.clock
        self._times = times
        self._purge_others = purge_others
        self._store_clock = store_clock
        self._returned = returned
        self.failing = False
        self._blind = store.capabilities.remote
        self._saw_again_at = float("-inf")
        self._held = held
        self._purge_at = float("-inf")
        self._loop = BackgroundLoop("sweeper", self._sweep_and_purge, purpose="sweep", seconds=times.sweep)

    def start(self) -> None:
        """Begin to sweep, at once and then for ever."""
        self._loop.start()

    async def stop(self) -> None:
        """Stop sweeping."""
        await self._loop.stop()

    async def sweep(self) -> int:
        """Settle or return every overdue and orphaned task there is; how many were changed."""
        changed = 0
        while True:
            found = await self._store.overdue(self._clock(), _BATCH)
            if self._blind:
                self._blind, self._saw_again_at = False, monotonic()
            if found and self._store_clock is not None:
                await self._store_clock.read_again()
            held = self._held()
            results = await asyncio.gather(*(self._sweep_one(task, held) for task in found))
            changed += sum(results)
            if len(found) < _BATCH or not any(results):
                return changed

    async def take_over(self) -> int:
        """Settle or return every task whose worker's process is gone; how many were changed."""
        changed = 0
        if self._lost_workers is not None:
            async for batch in self._lost_workers.search():
                changed += sum(await asyncio.gather(*(self._settle(task, self._gone(task)) for task in batch)))
        return changed

    async def purge(self) -> int:
        """Remove every task whose retention is over, and what else has expired; how many tasks were removed."""
        removed = await _until_none_is_left(lambda limit: self._store.purge(self._clock(), limit))
        if self._purge_others is not None:
            await _until_none_is_left(self._purge_others)
        return removed

    async def _sweep_one(self, task: Task, held: Mapping[str, int]) -> bool:
        event = DeadlinePassed() if task.deadline_at <= self._clock() else LeaseExpired()
        if isinstance(event, LeaseExpired) and (held.get(task.task_ref) == task.fence or self._leases_are_spared()):
            return False
        return await self._settle(task, event)

    def _gone(self, task: Task) -> DeadlinePassed | LeaseExpired:
        return DeadlinePassed() if task.deadline_at <= self._clock() else LeaseExpired(gone=task.worker_id)

    async def _settle(self, task: Task, event: DeadlinePassed | LeaseExpired) -> bool:
        seen_lease = task.lease_until if isinstance(event, LeaseExpired) else None
        try:
            swept = await self._writer.write(task, event, seen_lease=seen_lease)
        except Refused:
            return False
        if swept is None:
            return False
        if isinstance(event, DeadlinePassed):
            log_deadline(task)
        else:
            logger.warning(
                "worker lost: %s -> %s",
                task.status,
                swept.status,
                extra={"task_ref": task.task_ref, "operation": task.operation_type},
            )
        if swept.status is TaskStatus.PENDING:
            await self._returned(swept)
        return True

    def _leases_are_spared(self) -> bool:
        jumped_at = self._store_clock.jumped_at if self._store_clock is not None else float("-inf")
        return monotonic() - max(self._saw_again_at, jumped_at) < self._times.lease

    async def _sweep_and_purge(self) -> None:
        try:
            await self.sweep()
            await self._take_over_if_possible()
            if monotonic() >= self._purge_at:
                await self.purge()
                self._purge_at = monotonic() + self._times.purge
            self.failing = False
        except StoreError:
            self._blind = self.failing = True
            raise

    async def _take_over_if_possible(self) -> None:
        try:
            await self.take_over()
        except StoreError as error:
            # The sweep before went through, and the lease decides in any case.
            logger.debug("cannot look for lost workers: %s", error.message)


async def _until_none_is_left(purge: Callable[[int], Awaitable[int]]) -> int:
    removed = 0
    while True:
        count = await purge(_BATCH)
        removed += count
        if count < _BATCH:
            return removed
        await asyncio.sleep(0)
