"""What one scope may do to another: the order of starts, `max_running_per_scope`, what may wait, and the breaker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
from limits.conftest import Gauge, Replicas

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import CircuitOpen, QueueFull
from raincheck.limits.round_robin import RoundRobin
from raincheck.operations.context import TaskContext
from raincheck.operations.limit_policy import BreakerPolicy
from raincheck.runtime.service import DEFAULT_PENDING_OF_PRINCIPAL, Service
from raincheck.stores.memory.store import MemoryStore
from support.lab import Lab
from support.waiting import PATIENCE


async def submit(service: Service, scope: str, count: int = 1, name: str = "work", **arguments: Any) -> list[str]:
    given = {"scope": scope, **arguments}
    return [(await service.registry.submit(name, given, scope=scope)).task.task_ref for _ in range(count)]


async def ended(service: Service, scope: str, refs: list[str], seconds: float = PATIENCE) -> list[Task]:
    async with asyncio.timeout(seconds):
        found: list[Task] = []
        for ref in refs:
            while not (task := await service.registry.wait(ref, scope=scope, seconds=PATIENCE)).terminal:
                pass
            found.append(task)
        return found


def test_turns_are_taken_among_those_of_one_rank() -> None:
    rota = RoundRobin()
    rota.served("bob")
    waiting = ["bob1", "bob2", "bob3", "ada1", "eve1", "eve2"]
    assert rota.in_turn(waiting, lambda each: each[:3]) == ["ada1", "eve1", "bob1", "eve2", "bob2", "bob3"]
    urgent = rota.in_turn(waiting, lambda each: each[:3], lambda each: each != "bob3")
    assert urgent == ["bob3", "ada1", "eve1", "bob1", "eve2", "bob2"]
    for number in range(30_000):
        rota.served(f"scope{number}")
    assert rota.in_turn(["scope29999", "scope29998", "bob"], str) == ["bob", "scope29998", "scope29999"]


async def test_no_scope_runs_more_than_it_may_and_none_hides_the_others(replicas: Replicas) -> None:
    gauges, gate = {"bob": Gauge(), "ada": Gauge()}, asyncio.Event()

    @replicas.lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        with gauges[arguments["scope"]]:
            await (gate.wait() if arguments["scope"] == "bob" else asyncio.sleep(0.01))

    settings = {"max_concurrency": 5, "max_running_per_scope": 2}
    first, second = await replicas.start(**settings), await replicas.start(**settings)
    his = await submit(first, "bob", 15) + await submit(second, "bob", 15)
    hers = await submit(first, "ada", 6)
    assert {task.status for task in await ended(first, "ada", hers, 10)} == {TaskStatus.COMPLETED}
    assert (gauges["bob"].now, gauges["bob"].starts) == (2, 2)
    gate.set()
    assert {task.status for task in await ended(second, "bob", his)} == {TaskStatus.COMPLETED}
    assert (gauges["bob"].most, gauges["bob"].starts, gauges["ada"].starts) == (2, 30, 6)
    assert gauges["ada"].most <= 2


async def test_a_task_that_waits_for_its_caller_gives_back_both_permits(lab: Lab) -> None:
    @lab.operation("ask", max_running=1)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        await context.elicit("Well?", {"type": "object"})

    @lab.operation("work", max_running=1)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any: ...

    async with lab.service(store=MemoryStore(), max_running_per_scope=1) as service:
        asking = await submit(service, "ada", 2, "ask")
        async with asyncio.timeout(PATIENCE):
            for ref in asking:
                while (task := await service.registry.get(ref, scope="ada")).status is not TaskStatus.INPUT_REQUIRED:
                    await asyncio.sleep(0.01)
        await ended(service, "ada", await submit(service, "ada", 3))
        for ref in asking:
            task = await service.registry.get(ref, scope="ada")
            answer: dict[str, Any] = {task.outstanding[0].key: {"action": "accept", "content": {}}}
            await service.registry.provide_input(ref, answer, scope="ada")
        assert {task.status for task in await ended(service, "ada", asking)} == {TaskStatus.COMPLETED}


async def test_calls_in_their_requests_hold_to_it_and_take_turns(lab: Lab) -> None:
    order: list[str] = []

    async def call(service: Service, scope: str) -> str:
        try:
            async with service.registry.inline_slot(lab.operations["look"], scope=scope):
                order.append(scope)
                await asyncio.sleep(0.05)
        except QueueFull as full:
            return full.details["limit"]
        return "done"

    @lab.operation("look", max_running=1, inline_wait_seconds=1.0)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any: ...

    async with lab.service(store=MemoryStore()) as service:
        his = [asyncio.create_task(call(service, "bob")) for _ in range(8)]
        await asyncio.sleep(0.02)
        assert await call(service, "ada") == "done"
        assert order.index("ada") <= 2
        await asyncio.gather(*his)
    lab.operation("look", inline_wait_seconds=0)(lambda arguments, context: asyncio.sleep(0))
    async with lab.service(store=MemoryStore(), max_running_per_scope=1) as service:
        answers = await asyncio.gather(*(call(service, scope) for scope in ("bob", "bob", "ada")))
    assert sorted(answers) == ["done", "done", "max_running_per_scope"]


async def test_unless_it_is_said_a_caller_who_authenticates_has_so_many_pending_and_others_any_number(lab: Lab) -> None:
    lab.operation("work")(lambda arguments, context: asyncio.sleep(0))
    bob, most = "principal:iss=x|sub=bob", DEFAULT_PENDING_OF_PRINCIPAL
    async with lab.service(store=MemoryStore(), max_concurrency=0) as service:
        await submit(service, bob, most)
        await submit(service, "anonymous", most + 1)
        await submit(service, "principal:iss=x|sub=ada")
        with pytest.raises(QueueFull) as full:
            await submit(service, bob)
    assert full.value.details == {"limit": "of_scope", "max_pending_per_scope": most}
    async with lab.service(store=MemoryStore(), max_concurrency=0, max_pending_per_scope=0) as service:
        await submit(service, bob, most + 1)


async def test_the_failures_of_one_scope_do_not_stop_the_calls_of_another(lab: Lab) -> None:
    @lab.operation("work", breaker=BreakerPolicy())
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        if arguments["scope"] == "bob":
            raise RuntimeError("down")

    async def until_refused(service: Service, scope: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await ended(service, scope, await submit(service, scope))
                except CircuitOpen:
                    return

    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(lab.service(store=MemoryStore()))
        await ended(service, "bob", await submit(service, "bob", 12))
        await until_refused(service, "bob")
        hers = [(await ended(service, "ada", await submit(service, "ada")))[0].status for _ in range(6)]
        assert set(hers) == {TaskStatus.COMPLETED}
        await ended(service, "bob", await submit(service, "bob", 12))
        await asyncio.sleep(0.5)
        assert (await ended(service, "ada", await submit(service, "ada")))[0].status is TaskStatus.COMPLETED
