"""The engine port: what brings a task to a worker.

The store is the truth and fences its writers, so an engine needs only at-least-once delivery. A lost or doubled
delivery is harmless: starting a task is a compare-and-set that one worker wins, and what is pending is scanned for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from raincheck.task import Task

__all__ = ["Engine", "RunTask", "Slot"]


class Slot(Protocol):
    """One of the engine's places for running tasks. A parked task gives it back and takes one again later."""

    def release(self) -> None:
        """Give the place back. Idempotent."""
        ...

    async def acquire(self) -> None:
        """Wait for a place. Idempotent."""
        ...


RunTask = Callable[[Task, Slot], Awaitable[None]]
"""Runs one pending task to its end: claims it, or returns at once where somebody else did. Raises nothing."""


class Engine(Protocol):
    """Brings tasks to `RunTask`, at most `max_concurrency` at once."""

    async def start(self, run: RunTask) -> None:
        """Begin to run tasks: those delivered, and those found pending in the store."""
        ...

    async def deliver(self, task: Task) -> None:
        """A task is pending and durable. Must not wait for it to run, nor fail: the store has it already."""
        ...

    async def stop(self, drain_seconds: float) -> None:
        """Start nothing more, and wait up to `drain_seconds` for what runs. Idempotent."""
        ...
