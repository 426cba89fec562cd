"""Scopes take turns, whichever engine brings their tasks: who has many does not make the others wait for them all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from engines.kinds import Place
from engines.submitting import accepting, until

from raincheck.domain.task import TaskStatus
from raincheck.operations.context import TaskContext
from raincheck.ports.engine import EngineFactory
from raincheck.runtime.service import Service
from raincheck.tasks.views import OPERATOR
from support.lab import Lab
from support.waiting import PATIENCE


def noting(lab: Lab, order: list[str], seconds: float = 0.06) -> None:
    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        order.append(arguments["scope"])
        await asyncio.sleep(seconds)


async def submit(service: Service, scope: str, count: int) -> None:
    for _ in range(count):
        await service.registry.submit("work", {"scope": scope}, scope=scope)


async def counted(service: Service) -> Counter[TaskStatus]:
    return Counter(task.status for task in await service.registry.list(scope=OPERATOR, limit=200))


async def test_one_task_of_ada_does_not_wait_for_sixty_of_bob(lab: Lab, place: Place) -> None:
    order: list[str] = []
    noting(lab, order)
    engine = place.engine()
    async with accepting(lab, place) as server, lab.service(engine=engine, max_concurrency=2):
        await submit(server, "bob", 60)
        await until(lambda: len(order) >= 8)
        began = len(order)
        await submit(server, "ada", 1)
        await until(lambda: "ada" in order, 10)
        assert order.index("ada") <= began + 8
        await until(lambda: len(order) == 61, 20)


async def test_the_scopes_take_turns_over_several_workers_and_restarts(lab: Lab, place: Place) -> None:
    order: list[str] = []
    noting(lab, order)
    engine = place.engine()
    async with accepting(lab, place) as server:
        for scope in ("bob", "ada", "eve"):
            await submit(server, scope, 16)
        # What has waited for a moment is a backlog.
        await asyncio.sleep(0.3)
        async with lab.service(engine=engine, max_concurrency=1), lab.service(engine=engine, max_concurrency=1):
            await until(lambda: len(order) >= 21)
        assert_fair(order[:21])
        before = len(order)
        await rest(lab, engine, order, 48)
        assert_fair(order[before : before + 12])
        assert (await counted(server))[TaskStatus.PENDING] == 0


async def rest(lab: Lab, engine: EngineFactory, order: list[str], most: int) -> None:
    async with lab.service(engine=engine, max_concurrency=2, drain_seconds=2.0) as worker:
        await until(lambda: len(order) >= most - 2, 20)
        async with asyncio.timeout(PATIENCE):
            while (await counted(worker))[TaskStatus.PENDING]:
                await asyncio.sleep(0.05)


def assert_fair(order: list[str]) -> None:
    counts = Counter(order)
    assert set(counts) == {"ada", "bob", "eve"}
    assert max(counts.values()) - min(counts.values()) <= 4, counts
