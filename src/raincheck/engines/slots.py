"""The slot pool: the slots of one process for running tasks."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context

from raincheck.domain.task import Task
from raincheck.ports.engine import RunTask

logger = logging.getLogger(__name__)


class _Slot:
    """One place, held or given back."""

    def __init__(self, pool: SlotPool, released: Callable[[], None] | None) -> None:
        self._pool = pool
        self._held = True
        self._released = released

    def release(self) -> None:
        if self._held:
            self._held = False
            if self._released is not None:
                self._released()
                self._released = None
            self._pool.give_back()

    async def acquire(self) -> None:
        if not self._held:
            await self._pool.take()
            self._held = True


class SlotPool:
    """At most `size` places, each for one running task; a suspended task gives its place back.

    Args:
        size: How many tasks run at once.
        freed: Called when a place became free that no suspended task waits for.
    """

    def __init__(self, size: int, freed: Callable[[], None] = lambda: None) -> None:
        self._free = size
        self._freed = freed
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._running: dict[str, asyncio.Task[None]] = {}

    @property
    def free(self) -> int:
        """How many places can be had at once."""
        return self._free

    @property
    def running(self) -> int:
        """How many tasks are under way here, suspended ones included."""
        return len(self._running)

    def runs(self, task_ref: str) -> bool:
        """Whether that task is under way here."""
        return task_ref in self._running

    def spawn(self, run: RunTask, task: Task, released: Callable[[], None] | None = None) -> bool:
        """Run the task in a free place; there must be one. False where it runs here already: nothing is done.

        Args:
            released: Called when the task first gives its place back: it ended, or it suspended.
        """
        if task.task_ref in self._running:
            return False
        self._free -= 1
        self._start(run, task, released)
        return True

    async def spawn_in_turn(self, run: RunTask, task: Task, released: Callable[[], None] | None = None) -> bool:
        """As `spawn`, but wait for a place first: behind the suspended tasks that go on."""
        await self.take()
        if task.task_ref in self._running:
            self.give_back()
            return False
        self._start(run, task, released)
        return True

    def _start(self, run: RunTask, task: Task, released: Callable[[], None] | None) -> None:
        slot = _Slot(self, released)
        # An empty context: a task that starts straight from its own call must not run with that request's variables.
        job = asyncio.create_task(self._run_one(run, task, slot), context=Context())
        self._running[task.task_ref] = job

    async def _run_one(self, run: RunTask, task: Task, slot: _Slot) -> None:
        try:
            await run(task, slot)
        finally:
            del self._running[task.task_ref]
            slot.release()

    def give_back(self) -> None:
        """A place became free: a suspended task that goes on has it first, then what is pending."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
        self._freed()

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

    async def drain(self, seconds: float) -> None:
        """Wait up to so many seconds for what runs."""
        if self._running and seconds > 0:
            logger.info("draining %d running tasks for up to %g s", len(self._running), seconds)
            await asyncio.wait(set(self._running.values()), timeout=seconds)

    async def join(self) -> None:
        """Wait until nothing runs here any more."""
        while self._running:
            await asyncio.wait(set(self._running.values()))
