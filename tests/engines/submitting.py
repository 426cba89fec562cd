"""What the engine tests do over and over: submit many, wait for many, until something is so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from engines.kinds import Place

from raincheck.domain.task import Task
from raincheck.runtime.service import Service
from support.lab import Lab
from support.waiting import PATIENCE

__all__ = ["accepting", "settled", "submit", "until"]


async def submit(service: Service, operation: str, count: int = 1, **arguments: Any) -> list[str]:
    """Submit so many tasks, one after the other; their refs."""
    refs: list[str] = []
    for _ in range(count):
        refs.append((await service.registry.submit(operation, arguments, scope="a")).task.task_ref)
    return refs


async def settled(service: Service, refs: Sequence[str], seconds: float = PATIENCE) -> list[Task]:
    """These tasks, once they are terminal."""
    async with asyncio.timeout(seconds):
        return [await _settled(service, ref) for ref in refs]


async def _settled(service: Service, ref: str) -> Task:
    while not (task := await service.registry.wait(ref, scope="a", seconds=PATIENCE)).terminal:
        pass
    return task


async def until(met: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Look again and again until it is so."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(met):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def accepting(lab: Lab, place: Place) -> AsyncGenerator[Service]:
    """A process that only accepts tasks and hands them to the queue."""
    async with lab.service(engine=place.engine(), max_concurrency=0) as service:
        yield service
