"""Run an executor as a runner would, with a context that records what the operation reports."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NoReturn

import psutil

from raincheck.domain.task import Progress
from raincheck.operations.context import CallbackAddress, TaskContext
from raincheck.operations.operation import Operation
from support.waiting import PATIENCE


class Recorder:
    """A context backend that keeps the reports, and answers questions with what it was given."""

    def __init__(self, answer: Mapping[str, Any] | None = None) -> None:
        self.reports: list[Progress] = []
        self.saved: list[tuple[Any, Any]] = []
        self.suspended = 0
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.reported = asyncio.Event()
        self.was_asked = asyncio.Event()
        self._answer = answer

    async def report(self, progress: Progress) -> None:
        self.reports.append(progress)
        self.reported.set()

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append((method, params))
        self.was_asked.set()
        if self._answer is None:
            await asyncio.Event().wait()
        assert self._answer is not None
        return self._answer

    async def save(self, checkpoint: Any, cleanup: Mapping[str, Any] | None) -> None:
        self.saved.append((checkpoint, cleanup))

    async def external_completed(self) -> None:
        self.saved.append((None, None))

    async def suspend(self) -> None:
        self.suspended += 1

    async def resume(self) -> None:
        self.suspended -= 1

    async def hand_over(self) -> None:
        return

    async def await_external(self) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def callback_address(self) -> CallbackAddress:
        return CallbackAddress("t0ken", "https://here.example.com/callbacks/t0ken")


def context_for(operation: Operation, backend: Recorder | None = None, *, key: str | None = None) -> TaskContext:
    return TaskContext(
        task_ref="task-1",
        operation_type=operation.operation_type,
        idempotency_key=key,
        backend=backend or Recorder(),
        loop=asyncio.get_running_loop(),
    )


async def run(operation: Operation, backend: Recorder | None = None, **arguments: Any) -> Any:
    """Validate and run, as for an accepted task."""
    stored = operation.executor.validate(arguments)
    return await operation.executor.run(stored, context_for(operation, backend))


def start(operation: Operation, context: TaskContext, **arguments: Any) -> asyncio.Task[Any]:
    """Run in a task, which the test cancels or awaits."""
    return asyncio.create_task(_run(operation, context, arguments))


async def _run(operation: Operation, context: TaskContext, arguments: Mapping[str, Any]) -> Any:
    return await operation.executor.run(operation.executor.validate(arguments), context)


async def soon(awaitable: Any) -> Any:
    """Await it for at most 20 s."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def until(condition: Any) -> None:
    """Wait until `condition()` is true, at most 20 s."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
