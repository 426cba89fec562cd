"""The pending scanner: finds pending tasks in the store, those of lost deliveries and after a restart all of them.

It is why an engine may lose a delivery, and a queue everything: what is pending is found here, only later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime

from raincheck.engines.slots import SlotPool
from raincheck.errors import StoreError
from raincheck.ports.engine import RunTask
from raincheck.ports.task_store import TaskStore
from raincheck.timing.background import BackgroundLoop

_SOON_SECONDS = 0.01


class PendingScanner:
    """Fills the free places of a pool with pending tasks of the store, in the order of its `claimable`.

    Args:
        store: Where pending tasks are found.
        operation_types: Which operations this process can run, asked anew for every scan.
        scan_seconds: How often to look although nothing says that there is something.
        lost_before: What has been pending since before this time counts as lost; younger tasks are left to their
            delivery, which may be under way. None: everything is taken.
    """

    def __init__(
        self,
        store: TaskStore,
        operation_types: Callable[[], Collection[str]],
        pool: SlotPool,
        *,
        scan_seconds: float,
        lost_before: Callable[[], datetime] | None = None,
    ) -> None:
        self._store = store
        self._operation_types = operation_types
        self._pool = pool
        self._lost_before = lost_before
        self._run: RunTask | None = None
        self._more_pending = True
        self._backlog = False
        self._given_up: set[str] = set()
        self._soon: asyncio.TimerHandle | None = None
        self._loop = BackgroundLoop("engine", self._pass, purpose="look for pending tasks", seconds=scan_seconds)

    def start(self, run: RunTask) -> None:
        """Begin to scan, at once and then for ever."""
        self._run = run
        self._loop.start()

    async def stop(self) -> None:
        """Stop scanning. Idempotent."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        await self._loop.stop()

    @property
    def behind(self) -> bool:
        """Whether something is pending that has an older right to a free place than what comes now."""
        return self._backlog

    def expect_more(self) -> None:
        """There is something pending: look as soon as a place is free."""
        self._more_pending = self._backlog = True
        if self._pool.free > 0:
            self._loop.wake()

    def wake(self) -> None:
        """Something changed in the store, and may be pending: look soon, once for all that changes until then."""
        if self._pool.free > 0 and self._soon is None and self._loop.running:
            self._soon = asyncio.get_running_loop().call_later(_SOON_SECONDS, self._look)

    def look_for(self, operation_type: str) -> None:
        """Tasks of this operation may start that could not before: look for them soon, lost or not."""
        self._given_up.add(operation_type)
        self._more_pending = True
        if self._pool.free > 0:
            self._loop.wake()

    def _look(self) -> None:
        self._soon = None
        self._more_pending = True
        self._loop.wake()

    def place_is_free(self) -> None:
        """Look at once if something is known to be pending."""
        if self._more_pending:
            self._loop.wake()

    async def _pass(self) -> None:
        if not self._loop.woken:
            self._more_pending = True
        try:
            await self._scan()
        except StoreError:
            self._more_pending = True
            if self._pool.free > 0:
                self._loop.wake()
            raise

    async def _scan(self) -> None:
        run = self._run
        assert run is not None
        while self._more_pending and self._pool.free > 0:
            # Tasks spawned but not yet claimed are still pending in the store, and must not hide the others.
            wanted = self._pool.free + self._pool.running
            self._more_pending = False
            given_up, self._given_up = self._given_up, set()
            found = await self._store.claimable(self._operation_types(), wanted)
            if self._lost_before is not None:
                limit = self._lost_before()
                found = [task for task in found if task.updated_at < limit]
                if given_up.intersection(self._operation_types()):
                    found = [*await self._store.claimable(given_up, wanted), *found]
            for task in found:
                if self._pool.free <= 0:
                    # Suspended tasks count as running, so `wanted` may be far above what had a place.
                    self._more_pending = True
                    break
                self._pool.spawn(run, task)
            if len(found) == wanted:
                self._more_pending = True
            self._backlog = self._more_pending
            await asyncio.sleep(0)
