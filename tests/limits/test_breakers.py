"""Circuit breakers at work: a real HTTP API that fails and heals, accepted by one process and run by another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from limits.conftest import Clock, Replicas
from operations.http_server import Received, Server, answer, serving

from raincheck.domain.task import Outcome, Task, TaskError, TaskStatus
from raincheck.errors import CircuitOpen, QueueFull
from raincheck.operations.context import TaskContext
from raincheck.operations.http.executor import http_operation
from raincheck.operations.limit_policy import BreakerPolicy
from raincheck.operations.operation import Policy
from raincheck.runtime.service import Service
from raincheck.stores.memory.store import MemoryStore
from support.lab import Lab
from support.waiting import PATIENCE

BREAKER = BreakerPolicy(min_calls=4, window_seconds=60, cool_down_seconds=60, probes=2)


async def call(service: Service, name: str = "api", **options: Any) -> Task:
    task = (await service.registry.submit(name, {}, scope="a", **options)).task
    return await service.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)


async def refused(service: Service, name: str = "api") -> CircuitOpen:
    """The refusal, once this process knows."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await call(service, name)
            except CircuitOpen as error:
                return error


@dataclass
class Api:
    """An HTTP API that fails while it is told to."""

    server: Server
    failing: list[bool] = field(default_factory=lambda: [True])

    @property
    def calls(self) -> int:
        return len(self.server.received)


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[Api]:
    """Such an API, and the operation "api" that calls it."""

    async def handle(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(500 if api.failing else 200, {"ok": True}))

    async with serving(handle) as server:
        api = Api(server)
        lab.operations["api"] = http_operation(
            "api",
            method="GET",
            url=f"{server.url}/",
            parameters={"type": "object"},
            description="Call it.",
            policy=Policy(breaker=BREAKER),
        )
        yield api


async def test_an_api_that_fails_is_left_alone_until_it_answers_again(
    replicas: Replicas, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "raincheck.limits")
    clock = Clock()
    accepting, working = await replicas.start(max_concurrency=0, clock=clock), await replicas.start(clock=clock)
    failed = await asyncio.gather(*(call(accepting) for _ in range(4)))
    assert {task.status for task in failed} == {TaskStatus.FAILED}
    error = await refused(accepting)
    assert 0 < error.details["retry_after_seconds"] <= 60
    assert error.retryable
    called, tasks = api.calls, len(await accepting.registry.list(scope="a", limit=200))
    for service in (accepting, working):
        with pytest.raises(CircuitOpen):
            await call(service)
    assert api.calls == called
    assert len(await accepting.registry.list(scope="a", limit=200)) == tasks, "nothing was queued"
    # It still fails when it is tried: open again, after one call.
    clock.advance(60)
    assert (await call(accepting)).status is TaskStatus.FAILED
    assert api.calls == called + 1
    await refused(accepting)
    # It is well again.
    api.failing.clear()
    clock.advance(60)
    async with asyncio.timeout(PATIENCE):
        probes = await asyncio.gather(*(call(accepting) for _ in range(8)), return_exceptions=True)
        let_through = [each for each in probes if isinstance(each, Task)]
        assert 1 <= len(let_through) <= 2, "no more than the probes"
        while "closed" not in caplog.text:
            await asyncio.gather(call(accepting), return_exceptions=True)
    assert (await call(working)).status is TaskStatus.COMPLETED
    said = [record.getMessage() for record in caplog.records if "circuit breaker" in record.getMessage()]
    assert sum("opened" in line for line in said) == 2
    assert sum("closed" in line for line in said) == 1


async def test_a_repeated_call_gets_its_task_although_the_breaker_is_open(lab: Lab) -> None:
    @lab.operation("api", breaker=BreakerPolicy(min_calls=1))
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise RuntimeError("down")

    async with lab.service(store=MemoryStore()) as service:
        first = await call(service, idempotency_key="k")
        await refused(service)
        again = await service.registry.submit("api", {}, scope="a", idempotency_key="k")
        assert again.deduplicated
        assert again.task.task_ref == first.task_ref
        with pytest.raises(CircuitOpen):
            await service.registry.submit("api", {}, scope="a", idempotency_key="other")


async def test_a_tool_that_reports_an_error_counts_and_a_cancelled_task_does_not(lab: Lab) -> None:
    outcome = Outcome(mcp_result={"content": [], "isError": True}, error=TaskError(code="operation_failed", message=""))

    @lab.operation("tool", breaker=BreakerPolicy(min_calls=2))
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        if arguments.get("hang"):
            await asyncio.sleep(60)
        return outcome

    async with lab.service(store=MemoryStore()) as service:
        for _round in range(5):
            hanging = (await service.registry.submit("tool", {"hang": True}, scope="a")).task
            await service.registry.cancel(hanging.task_ref, scope="a")
        await call(service, "tool")
        await call(service, "tool")
        await refused(service, "tool")


@pytest.mark.parametrize("how", ["cancelled", "no room", "deduplicated"])
async def test_a_probe_that_never_runs_makes_place_for_another(lab: Lab, how: str) -> None:
    failing, gate = [True], asyncio.Event()

    @lab.operation("api", breaker=BreakerPolicy(min_calls=1, cool_down_seconds=60, probes=1))
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        if failing:
            raise RuntimeError("down")
        await gate.wait()

    @lab.operation("other")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        await gate.wait()

    clock = Clock()
    async with lab.service(store=MemoryStore(), clock=clock, max_pending=1, max_concurrency=1) as service:
        submit = service.registry.submit
        await call(service, idempotency_key="before")
        await refused(service)
        failing.clear()
        clock.advance(60)
        if how == "deduplicated":
            assert (await submit("api", {}, scope="a", idempotency_key="before")).deduplicated
        elif how == "cancelled":
            probe = (await submit("api", {}, scope="a")).task
            with pytest.raises(CircuitOpen):
                await submit("api", {}, scope="a")
            await service.registry.cancel(probe.task_ref, scope="a")
        else:
            await submit("other", {}, scope="a")
            async with asyncio.timeout(PATIENCE):
                while (await service.registry.list(scope="a", limit=1))[0].status is TaskStatus.PENDING:
                    await asyncio.sleep(0.01)
            waiting = (await submit("other", {}, scope="a")).task
            with pytest.raises(QueueFull):
                await submit("api", {}, scope="a")
            await service.registry.cancel(waiting.task_ref, scope="a")
        gate.set()
        async with asyncio.timeout(2):
            while True:
                try:
                    assert (await call(service)).status is TaskStatus.COMPLETED
                except CircuitOpen:
                    await asyncio.sleep(0.02)
                else:
                    return


async def test_a_probe_whose_worker_told_nobody_is_looked_up(lab: Lab) -> None:
    failing = [True]

    @lab.operation("api", breaker=BreakerPolicy(min_calls=1, cool_down_seconds=60, probes=1))
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        if failing:
            raise RuntimeError("down")

    clock = Clock()
    async with lab.service(store=MemoryStore(), clock=clock) as service:
        await call(service)
        await refused(service)
        failing.clear()
        clock.advance(60)
        # Settled by a process that died before it counted: as if another store had seen it.
        service._store._settled = lambda task: None  # pyright: ignore
        assert (await call(service)).status is TaskStatus.COMPLETED
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await call(service)
                except CircuitOpen:
                    await asyncio.sleep(0.05)
                else:
                    return
