"""The embedded engine: runs tasks in this process, on its event loop, a bounded number at once.

It keeps no queue. A task that is submitted while a place is free starts at once; everything else stays pending in the
store and is fetched, oldest first, when a place becomes free. So a restart, or another process on the same store, takes
up what is pending without being told.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection

from raincheck.engine import RunTask
from raincheck.errors import StoreError
from raincheck.store import TaskStore
from raincheck.task import Task

__all__ = ["LocalEngine"]

logger = logging.getLogger(__name__)


class _Slot:
    """One place, held or given back."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._engine.give_back()

    async def acquire(self) -> None:
        if not self._held:
            await self._engine.take()
            self._held = True


class LocalEngine:
    """Runs tasks of the operations it is told of in this process.

    Args:
        store: Where pending tasks are found.
        operation_types: Which operations this process can run, asked anew for every scan.
        max_concurrency: How many tasks run at once; 0 runs none.
        scan_seconds: How often to look for tasks that nobody delivered.
    """

    def __init__(
        self,
        store: TaskStore,
        operation_types: Callable[[], Collection[str]],
        *,
        max_concurrency: int,
        scan_seconds: float = 1.0,
    ) -> None:
        self._store = store
        self._operation_types = operation_types
        self._free = max_concurrency
        self._scan_seconds = scan_seconds
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._run: RunTask | None = None
        self._more_pending = True
        self._wake = asyncio.Event()
        self._scanner: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """How many tasks are under way here, parked ones included."""
        return len(self._running)

    async def start(self, run: RunTask) -> None:
        """See `Engine.start`."""
        self._run = run
        if self._free:
            self._scanner = asyncio.create_task(self._scan_for_ever(), name="raincheck-engine")

    async def deliver(self, task: Task) -> None:
        """See `Engine.deliver`."""
        if self._free > 0 and not self._waiters:
            self._spawn(task)
        else:
            self._more_pending = True

    async def stop(self, drain_seconds: float) -> None:
        """See `Engine.stop`."""
        self._run = None
        if self._scanner is not None:
            self._scanner.cancel()
            await asyncio.gather(self._scanner, return_exceptions=True)
            self._scanner = None
        if self._running and drain_seconds > 0:
            logger.info("draining %d running tasks for up to %g s", len(self._running), drain_seconds)
            await asyncio.wait(set(self._running.values()), timeout=drain_seconds)

    async def join(self) -> None:
        """Wait until nothing runs here any more."""
        while self._running:
            await asyncio.wait(set(self._running.values()))

    def give_back(self) -> None:
        """A place became free: a parked task that goes on has it first, then what is pending."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
        if self._more_pending:
            self._wake.set()

    async def take(self) -> None:
        """Wait for a place."""
        if self._free > 0:
            self._free -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give_back()
            raise

    def _spawn(self, task: Task) -> None:
        run = self._run
        if run is None or task.task_ref in self._running:
            return
        self._free -= 1
        slot = _Slot(self)
        job = asyncio.create_task(self._run_one(run, task, slot))
        self._running[task.task_ref] = job

    async def _run_one(self, run: RunTask, task: Task, slot: _Slot) -> None:
        try:
            await run(task, slot)
        finally:
            del self._running[task.task_ref]
            slot.release()

    async def _scan_for_ever(self) -> None:
        while True:
            try:
                await self._scan()
            except StoreError as error:
                logger.warning("cannot look for pending tasks: %s", error.message)
                self._more_pending = True
            except Exception:  # the loop must outlive a bug; nothing else would start pending tasks
                logger.exception("the scan for pending tasks failed")
            self._wake.clear()
            if self._more_pending and self._free > 0:
                await asyncio.sleep(0.05)
                continue
            try:
                async with asyncio.timeout(self._scan_seconds):
                    await self._wake.wait()
            except TimeoutError:
                self._more_pending = True

    async def _scan(self) -> None:
        while self._more_pending and self._free > 0 and self._run is not None:
            # Tasks spawned but not yet claimed are still pending in the store, and must not hide the others.
            wanted = self._free + len(self._running)
            self._more_pending = False
            found = await self._store.claimable(self._operation_types(), wanted)
            for task in found:
                if self._free <= 0:
                    break
                self._spawn(task)
            if len(found) == wanted:
                self._more_pending = True
            await asyncio.sleep(0)
