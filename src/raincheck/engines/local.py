"""The embedded engine: runs tasks in this process, on its event loop, a bounded number at once.

It keeps no queue. A task that is submitted while a place is free and nothing waits starts at once; everything else
stays pending in the store and is fetched, in the order of its `claimable`, when a place becomes free. So a restart, or
another process on the same store, takes up what is pending without being told. A store on the network that pushes wakes
the scan when another process changed something, so that a worker starts what a server accepted within milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

from raincheck.domain.task import Task
from raincheck.engines.pending_scanner import PendingScanner
from raincheck.engines.slots import SlotPool
from raincheck.ports.engine import RunTask
from raincheck.ports.task_store import TaskStore


class LocalEngine:
    """Runs tasks of the operations it is told of in this process.

    Args:
        store: Where pending tasks are found.
        operation_types: Which operations this process can run, asked anew for every scan.
        max_concurrency: How many tasks run at once; 0 runs none.
        scan_seconds: How often to look for tasks that were not delivered.
        listen: Whether a store that does not push is asked for others' changes all the time, so that what another
            process accepted starts within milliseconds.
    """

    def __init__(
        self,
        store: TaskStore,
        operation_types: Callable[[], Collection[str]],
        *,
        max_concurrency: int,
        scan_seconds: float = 1.0,
        listen: bool = False,
    ) -> None:
        self._store = store
        self._size = max_concurrency
        self._listen = listen
        self._pool = SlotPool(max_concurrency, lambda: self._scanner.place_is_free())
        self._scanner = PendingScanner(store, operation_types, self._pool, scan_seconds=scan_seconds)
        self._run: RunTask | None = None
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def running(self) -> int:
        """See `Engine.running`."""
        return self._pool.running

    async def start(self, run: RunTask) -> None:
        """See `Engine.start`."""
        self._run = run
        if self._size:
            self._scanner.start(run)
            capabilities = self._store.capabilities
            if capabilities.shared and (capabilities.pushes or self._listen):
                self._unsubscribe = self._store.subscribe(self._changed)

    async def deliver(self, task: Task) -> None:
        """See `Engine.deliver`."""
        if self._run is not None and self._pool.free > 0 and not self._scanner.behind:
            self._pool.spawn(self._run, task)
        else:
            self._scanner.expect_more()

    def wake(self, operation_type: str) -> None:
        """See `Engine.wake`."""
        self._scanner.look_for(operation_type)

    async def stop(self, drain_seconds: float) -> None:
        """See `Engine.stop`."""
        self._run = None
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await self._scanner.stop()
        await self._pool.drain(drain_seconds)

    async def join(self) -> None:
        """See `Engine.join`."""
        await self._pool.join()

    def _changed(self, change: Task | str | None) -> None:
        # What this process changed itself was delivered.
        if not isinstance(change, Task):
            self._scanner.wake()


def local_engine(
    store: TaskStore,
    operation_types: Callable[[], Collection[str]],
    *,
    max_concurrency: int,
    clock: Callable[[], datetime],
) -> LocalEngine:
    """See `raincheck.ports.engine.EngineFactory`."""
    return LocalEngine(store, operation_types, max_concurrency=max_concurrency)


def listening_engine(
    store: TaskStore,
    operation_types: Callable[[], Collection[str]],
    *,
    max_concurrency: int,
    clock: Callable[[], datetime],
) -> LocalEngine:
    """The engine of a local worker, which has all its tasks from other processes."""
    return LocalEngine(store, operation_types, max_concurrency=max_concurrency, listen=True)
