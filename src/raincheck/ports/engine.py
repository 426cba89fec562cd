"""The engine port: brings task ids to a worker.

The store is the truth and fences its writers, so an engine needs only at-least-once delivery. A lost or doubled
delivery is harmless: starting a task is a compare-and-set that one worker wins, and what is pending is scanned for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Protocol

from raincheck.domain.task import Task
from raincheck.ports.task_store import TaskStore


class Slot(Protocol):
    """One of the engine's places for running tasks. A suspended task gives it back and takes one again later."""

    def release(self) -> None:
        """Give the place back. Idempotent."""
        ...

    async def acquire(self) -> None:
        """Wait for a place. Idempotent."""
        ...


RunTask = Callable[[Task, Slot], Awaitable[None]]
"""Runs one pending task to its end: claims it, or returns at once where another worker did, or where its operation may
start nothing now. Raises nothing."""


class Engine(Protocol):
    """Brings tasks to `RunTask`, at most `max_concurrency` at once."""

    @property
    def running(self) -> int:
        """How many tasks are under way in this process, suspended ones included."""
        ...

    async def start(self, run: RunTask) -> None:
        """Begin to run tasks: those delivered, and those found pending in the store.

        A queue that cannot be reached now is no error: it is tried again, and what is pending is found in the store.

        Raises:
            ConfigurationError: The queue can never be used as it is set.
        """
        ...

    async def deliver(self, task: Task) -> None:
        """A task is pending and durable: it was just accepted, or a lost worker's came back.

        Must not wait for it to run, nor for a queue, nor fail: the store has it already.
        """
        ...

    def wake(self, operation_type: str) -> None:
        """Pending tasks of this operation could not start before, and may now: look for them soon in the store.

        However they were delivered: an engine may have given those up.
        """
        ...

    async def stop(self, drain_seconds: float) -> None:
        """Start nothing more, and wait up to `drain_seconds` for what runs. Idempotent."""
        ...

    async def join(self) -> None:
        """Once stopped: wait until nothing runs here any more, and let go of every connection."""
        ...


class EngineFactory(Protocol):
    """Makes the engine of one process's service."""

    def __call__(
        self,
        store: TaskStore,
        operation_types: Callable[[], Collection[str]],
        *,
        max_concurrency: int,
        clock: Callable[[], datetime],
    ) -> Engine:
        """The engine, not yet started.

        Args:
            store: Where pending tasks are found; open when the engine starts.
            operation_types: Which operations this process can run now, asked anew each time.
            max_concurrency: How many tasks run at once here; 0: this process only accepts.
            clock: The clock that the tasks' times are of.
        """
        ...
