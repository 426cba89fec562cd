"""The engine that hands over: tasks are left to a local worker, which outlives this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Protocol

from raincheck.domain.task import Task
from raincheck.engines.local import LocalEngine
from raincheck.ports.engine import EngineFactory, RunTask
from raincheck.ports.task_store import TaskStore
from raincheck.timing.background import BackgroundLoop

logger = logging.getLogger(__name__)

_AFTER_START_SECONDS = 0.3
_LOOK_SECONDS = 1.0
_MOST_FAILURES = 3


class WorkerStarter(Protocol):
    """Starts a worker where none lives (`raincheck.runtime.local_worker.LocalWorker`)."""

    @property
    def failures(self) -> int:
        """How many starts in a row failed."""
        ...

    def ensure(self) -> None:
        """See that a worker lives, or is being started. Blocks. Raises `OSError`."""
        ...


class HandOverEngine:
    """Sees to it that a worker lives while something is pending; runs tasks here only where none can be started.

    The worker is started soon after this process, so that it is there before the first call.

    Args:
        store: Where pending tasks are found.
        operation_types: Which operations this process has, asked anew for every look.
        worker: The worker's starter.
        here: The engine for when no worker can be started.
    """

    def __init__(
        self,
        store: TaskStore,
        operation_types: Callable[[], Collection[str]],
        worker: WorkerStarter,
        here: LocalEngine,
    ) -> None:
        self._store = store
        self._operation_types = operation_types
        self._worker = worker
        self._here = here
        self._runs_here = False
        self._watching = False
        self._run: RunTask | None = None
        self._loop = BackgroundLoop("hand-over", self._look, purpose="start a local worker", at_once=False)
        self._soon: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """How many tasks are under way in this process."""
        return self._here.running

    async def start(self, run: RunTask) -> None:
        """Begin to see to the worker."""
        self._run = run
        self._loop.start()
        self._soon = asyncio.get_running_loop().call_later(_AFTER_START_SECONDS, self._loop.wake)

    async def deliver(self, task: Task) -> None:
        """Leave the task to the worker, which finds it in the store."""
        if self._runs_here:
            await self._here.deliver(task)
        elif not self._watching:
            self._loop.wake()

    def wake(self, operation_type: str) -> None:
        """Only for tasks that run here: the worker has limits of its own."""
        if self._runs_here:
            self._here.wake(operation_type)

    async def stop(self, drain_seconds: float) -> None:
        """Stop seeing to the worker, which goes on."""
        if self._soon is not None:
            self._soon.cancel()
        await self._loop.stop()
        await self._here.stop(drain_seconds)

    async def join(self) -> None:
        """Wait until nothing runs here any more."""
        await self._here.join()

    async def _look(self) -> float | None:
        try:
            await asyncio.to_thread(self._worker.ensure)
            if self._worker.failures < _MOST_FAILURES:
                # What comes in from here on wakes the loop, or is found by this look.
                self._watching = False
                self._watching = bool(await self._store.claimable(self._operation_types(), 1))
                return _LOOK_SECONDS if self._watching else None
            reason = f"it ended {_MOST_FAILURES} times before it took up tasks, see its log"
        except OSError as error:
            reason = str(error)
        logger.warning("no local worker can be started (%s): tasks run in this process, and end with it", reason)
        assert self._run is not None
        self._runs_here = True
        await self._here.start(self._run)
        return None


def hand_over_engine(worker: WorkerStarter) -> EngineFactory:
    """Makes the engine that leaves tasks to this worker."""

    def make(
        store: TaskStore,
        operation_types: Callable[[], Collection[str]],
        *,
        max_concurrency: int,
        clock: Callable[[], datetime],
    ) -> HandOverEngine:
        here = LocalEngine(store, operation_types, max_concurrency=max_concurrency)
        return HandOverEngine(store, operation_types, worker, here)

    return make
