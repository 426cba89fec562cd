"""`max_pending` at every door: exact, before anything is written, and told in the words of each surface."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from limits.conftest import Replicas

from raincheck.errors import QueueFull
from raincheck.operations.context import TaskContext
from raincheck.runtime.service import Service
from raincheck.stores.memory.store import MemoryStore
from raincheck.tasks.views import OPERATOR
from support.lab import Lab
from support.waiting import PATIENCE


def idle(lab: Lab) -> None:
    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return 1


async def tried(service: Service, scope: str = "a", **options: Any) -> str:
    try:
        await service.registry.submit("work", {}, scope=scope, **options)
    except QueueFull as full:
        return full.details["limit"] if full.retryable else "for good"
    return "accepted"


async def test_racing_calls_on_several_replicas_fill_the_room_exactly(replicas: Replicas) -> None:
    idle(replicas.lab)
    settings = {"max_concurrency": 0, "max_pending": 25, "max_pending_per_scope": 10}
    services = [await replicas.start(**settings), await replicas.start(**settings)]
    calls = [tried(services[n % 2], scope=f"scope{n % 4}") for n in range(80)]
    answers = await asyncio.gather(*calls)
    assert answers.count("accepted") == 25
    stored = await services[0].registry.list(scope=OPERATOR, limit=100)
    assert len(stored) == 25
    assert max(Counter(task.scope for task in stored).values()) <= 10


async def test_one_caller_may_not_take_the_room_of_the_others(lab: Lab) -> None:
    idle(lab)
    async with lab.service(store=MemoryStore(), max_concurrency=0, max_pending=10, max_pending_per_scope=3) as service:
        greedy = [await tried(service, "greedy") for _ in range(5)]
        modest = await tried(service, "modest")
    assert greedy == ["accepted"] * 3 + ["of_scope"] * 2
    assert modest == "accepted"


async def test_a_repeated_call_gets_its_task_however_full_it_is(lab: Lab) -> None:
    idle(lab)
    async with lab.service(store=MemoryStore(), max_concurrency=0, max_pending=1) as service:
        first = await service.registry.submit("work", {}, scope="a", idempotency_key="k")
        again = await service.registry.submit("work", {}, scope="a", idempotency_key="k")
        assert await tried(service) == "in_all"
    assert again.deduplicated
    assert again.task.task_ref == first.task.task_ref


async def test_what_started_makes_room(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        await gate.wait()

    async with lab.service(store=MemoryStore(), max_concurrency=1, max_pending=1) as service:
        assert await tried(service) == "accepted"
        async with asyncio.timeout(PATIENCE):
            while await tried(service) != "accepted":
                await asyncio.sleep(0.01)
        assert await tried(service) == "in_all"
        gate.set()


@pytest.mark.parametrize("room", [{}, {"max_pending": 0, "max_pending_per_scope": 0}])
async def test_without_a_limit_any_number_may_wait(lab: Lab, room: dict[str, Any]) -> None:
    idle(lab)
    async with lab.service(store=MemoryStore(), max_concurrency=0, **room) as service:
        assert {await tried(service) for _ in range(300)} == {"accepted"}
