"""Permits at work: how many run and how fast they start, over several replicas; who comes first; what parks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest
from limits.conftest import Gauge, Replicas

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import StoreUnavailable
from raincheck.limits.permit_allocator import OF_OPERATION, PermitAllocator
from raincheck.limits.permit_rules import Limit
from raincheck.operations.context import TaskContext
from raincheck.ports.records import Record
from raincheck.ports.task_store import TaskStore
from raincheck.runtime.service import Service
from raincheck.stores.memory.store import MemoryStore
from raincheck.stores.shared.delegating import StoreWrapper
from raincheck.timing.clock import utc_now
from support.lab import Lab
from support.waiting import PATIENCE


async def submit(service: Service, name: str, count: int = 1, **arguments: Any) -> list[str]:
    refs: list[str] = []
    for _ in range(count):
        refs.append((await service.registry.submit(name, arguments, scope="a")).task.task_ref)
    return refs


async def ended(service: Service, refs: list[str], seconds: float = PATIENCE) -> list[Task]:
    async with asyncio.timeout(seconds):
        tasks: list[Task] = []
        for ref in refs:
            while not (task := await service.registry.wait(ref, scope="a", seconds=PATIENCE)).terminal:
                pass
            tasks.append(task)
        return tasks


async def test_no_more_run_at_once_than_allowed_however_many_replicas_there_are(replicas: Replicas) -> None:
    gauge = Gauge()

    @replicas.lab.operation("render", max_running=2)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        with gauge:
            await asyncio.sleep(0.03)

    first, second = await replicas.start(), await replicas.start()
    refs = await submit(first, "render", 10) + await submit(second, "render", 10)
    tasks = await ended(first, refs)
    assert {task.status for task in tasks} == {TaskStatus.COMPLETED}
    assert (gauge.most, gauge.starts) == (2, 20)


async def test_starts_keep_to_the_rate_and_the_burst_over_all_replicas(replicas: Replicas) -> None:
    starts: list[float] = []

    @replicas.lab.operation("render", starts_per_minute=600, start_burst=3)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        starts.append(time.monotonic())

    first, second = await replicas.start(), await replicas.start()
    began = time.monotonic()
    refs = await submit(first, "render", 8) + await submit(second, "render", 7)
    await ended(first, refs)
    took = time.monotonic() - began
    assert len(starts) == 15
    # Fifteen starts, three of them at once: twelve tenths of a second; and no start is lost to the other replica.
    assert 1.1 < took < 4
    for first_seen, ninth in zip(starts, starts[8:], strict=False):
        # Nine starts, three of them at once; a start is seen a little after it was allowed.
        assert ninth - first_seen > 0.6 - 0.15


async def test_a_saturated_operation_hides_no_other_and_costs_no_place(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.operation("slow", max_running=1, priority=100)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        await gate.wait()

    @lab.operation("quick")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return None

    async with lab.service(store=MemoryStore(), max_concurrency=2) as service:
        slow = await submit(service, "slow", 20)
        quick = await submit(service, "quick", 20)
        await ended(service, quick, seconds=5)
        gate.set()
        await ended(service, slow)


async def test_a_saturated_operation_does_not_make_the_engine_spin(lab: Lab) -> None:
    class Counting(MemoryStore):
        asked = 0

        async def claimable(self, operation_types: Any, limit: int) -> Any:
            self.asked += 1
            return await super().claimable(operation_types, limit)

    gate = asyncio.Event()

    @lab.operation("slow", max_running=1)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        await gate.wait()

    store = Counting()
    async with lab.service(store=store, max_concurrency=50) as service:
        refs = await submit(service, "slow", 100)
        store.asked = 0
        await asyncio.sleep(1.5)
        assert store.asked < 15
        gate.set()
        # Each end starts the next one at once, not at the next look.
        await ended(service, refs, seconds=5)


async def test_a_backlog_starts_by_priority_and_then_by_age(lab: Lab) -> None:
    order: list[str] = []
    gate = asyncio.Event()

    async def body(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        order.append(f"{context.operation_type}{arguments.get('n', '')}")
        await gate.wait()

    lab.operation("low", priority=-10, max_running=5)(body)
    lab.operation("plain")(body)
    lab.operation("high", priority=10)(body)
    async with lab.service(store=MemoryStore(), max_concurrency=1) as service:
        refs = await submit(service, "plain", n="first")
        for name in ("low", "plain", "high"):
            for n in (1, 2):
                refs += await submit(service, name, n=n)
        gate.set()
        await ended(service, refs)
    assert order == ["plainfirst", "high1", "high2", "plain1", "plain2", "low1", "low2"]


async def test_a_task_that_waits_for_its_caller_gives_its_permit_away_and_takes_one_again(replicas: Replicas) -> None:
    gauge = Gauge()

    @replicas.lab.operation("ask", max_running=1)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        with gauge:
            pass
        if arguments.get("ask"):
            await context.elicit("Go on?", {"type": "object", "properties": {}})
        with gauge:
            await asyncio.sleep(0.1)

    first, second = await replicas.start(), await replicas.start()
    (asking,) = await submit(first, "ask", ask=True)
    task = await first.registry.wait(asking, scope="a", seconds=PATIENCE)
    assert task.status is TaskStatus.INPUT_REQUIRED
    others = await submit(second, "ask", 5)
    await ended(second, others[:1])
    await first.registry.provide_input(asking, {task.outstanding[0].key: {"action": "accept"}}, scope="a")
    await ended(first, [asking, *others])
    assert gauge.most == 1


async def test_a_cancelled_task_gives_its_permit_back_once_it_has_stopped(lab: Lab) -> None:
    gauge, stopping = Gauge(), asyncio.Event()

    @lab.operation("stubborn", max_running=1)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        with gauge:
            try:
                await asyncio.sleep(0 if arguments.get("quick") else 60)
            finally:
                await asyncio.sleep(0.3)
                stopping.set()

    async with lab.service(store=MemoryStore()) as service:
        (ref,) = await submit(service, "stubborn")
        async with asyncio.timeout(PATIENCE):
            while not gauge.now:
                await asyncio.sleep(0.01)
        (other,) = await submit(service, "stubborn", quick=True)
        await service.registry.cancel(ref, scope="a")
        await ended(service, [other], 5)
    assert gauge.most == 1
    assert stopping.is_set()


async def test_who_gives_up_waiting_for_its_permit_leaves_the_line(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.operation("ask", max_running=1)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        if arguments.get("ask"):
            await context.elicit("Go on?", {"type": "object", "properties": {}})
        else:
            await gate.wait()

    async with lab.service(store=MemoryStore()) as service:
        (asking,) = await submit(service, "ask", ask=True)
        task = await service.registry.wait(asking, scope="a", seconds=PATIENCE)
        (running,) = await submit(service, "ask")
        async with asyncio.timeout(PATIENCE):
            while (await service.registry.get(running, scope="a")).status is not TaskStatus.PROCESSING:
                await asyncio.sleep(0.01)
        await service.registry.provide_input(asking, {task.outstanding[0].key: {"action": "accept"}}, scope="a")
        await asyncio.sleep(0.05)
        await service.registry.cancel(asking, scope="a")
        gate.set()
        await ended(service, [running, *await submit(service, "ask")], seconds=4)


@pytest.mark.parametrize("limit", [{"max_running": 3}, {"starts_per_minute": 60_000, "start_burst": 50}])
async def test_limits_cost_no_start_where_they_are_not_reached(lab: Lab, limit: dict[str, Any]) -> None:
    @lab.operation("quick", **limit)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return 1

    async with lab.service(store=MemoryStore()) as service:
        began = time.monotonic()
        await ended(service, await submit(service, "quick", 200))
        # Refused once and tried again, three at a time, they would take more than a minute.
        assert time.monotonic() - began < 15


class _LosesAnAnswer(StoreWrapper):
    """Loses the answer of the first permit that is taken."""

    def __init__(self, inner: TaskStore) -> None:
        super().__init__(inner)
        self.lost = False

    async def put_record(self, record: Record) -> bool:
        written = await self.inner.put_record(record)
        if record.kind == OF_OPERATION and not self.lost:
            self.lost = True
            raise StoreUnavailable("The store gave no answer.", maybe_done=True)
        return written


async def test_a_permit_whose_answer_was_lost_is_given_back(lab: Lab) -> None:
    store = _LosesAnAnswer(MemoryStore())
    await store.open()
    limit = Limit(1, 0.0, 1)
    allocator = PermitAllocator(
        store, utc_now, kind=OF_OPERATION, name="render", owner="here", limit=limit, freed=lambda: None
    )
    with pytest.raises(StoreUnavailable):
        await allocator.take("first", 1, scope="a", start=True)
    assert store.lost
    async with asyncio.timeout(PATIENCE):
        while await allocator.take("second", 1, scope="a", start=True) is not None:
            await asyncio.sleep(0.1)
    await allocator.stop(5)
    await store.close()
