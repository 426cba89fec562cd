"""One clock for all processes on a store, and what a jump of it does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from raincheck.domain.task import Task, TaskStatus, new_task_ref
from raincheck.domain.transitions import Claim, transition
from raincheck.errors import StoreUnavailable
from raincheck.operations.context import TaskContext
from raincheck.runtime.sweeper import Sweeper, SweepTimes
from raincheck.stores.sqlite.store import SqliteStore
from raincheck.tasks.writer import TaskWriter
from raincheck.timing.clock import StoreClock, monotonic, utc_now
from support.lab import Lab
from support.waiting import PATIENCE

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Source:
    """A store's clock, that the test sets."""

    def __init__(self, now: datetime | None) -> None:
        self.now = now

    async def time(self) -> datetime | None:
        return self.now


class Wall:
    """A wall clock that runs, and jumps when the test says so."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


async def test_the_stores_clock_is_everybodys_whatever_the_machine_says() -> None:
    wall = Wall()
    clock = StoreClock(Source(NOON), wall)
    assert await clock.synchronise()
    wall.ahead = timedelta(hours=1)
    assert NOON <= clock() < NOON + timedelta(minutes=1)
    assert clock.jumped_at == float("-inf")


async def test_a_store_without_a_clock_leaves_the_machines() -> None:
    clock = StoreClock(Source(None))
    assert not await clock.synchronise()
    assert abs((clock() - utc_now()).total_seconds()) < 1
    assert clock.jumped_at == float("-inf")


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_jump_is_noticed_on_either_clock(hours: int) -> None:
    wall, source = Wall(), Source(NOON)
    own, of_store = StoreClock(Source(None), wall), StoreClock(source)
    own()
    await of_store.synchronise()
    began = monotonic()
    wall.ahead = timedelta(hours=hours)
    source.now = NOON + timedelta(hours=hours)
    own()
    await of_store.synchronise()
    assert own.jumped_at >= began
    assert of_store.jumped_at >= began
    assert abs((of_store() - source.now).total_seconds()) < 60


class Slow(Source):
    """A store's clock whose answer is of the last moment before it comes."""

    async def time(self) -> datetime | None:
        before = monotonic()
        await asyncio.sleep(0.4)
        assert self.now is not None
        return self.now + timedelta(seconds=monotonic() - before)


async def test_an_answer_that_took_its_time_does_not_spoil_what_is_known() -> None:
    quick, slow = Source(NOON), Slow(NOON)
    clock = StoreClock(quick)
    await clock.synchronise()
    began = monotonic()
    clock._source = slow  # pyright: ignore[reportPrivateUsage]
    await clock.synchronise()
    assert abs((clock() - NOON).total_seconds() - (monotonic() - began)) < 0.05


async def _claimed(store: SqliteStore, *, lease: timedelta) -> Task:
    now = utc_now()
    task = Task(
        task_ref=new_task_ref(),
        scope="a",
        operation_type="work",
        arguments={},
        created_at=now,
        updated_at=now,
        deadline_at=now + timedelta(days=1),
        ttl_seconds=60.0,
        retry_when_lost=True,
    )
    assert (await store.insert(task)).created
    claimed = transition(task, Claim(worker_id="w", lease_until=now + lease), now)
    assert await store.replace(claimed)
    return claimed


async def _nobody(task: Task) -> None:
    pass


def _sweeper(store: SqliteStore, clock: StoreClock, *, lease_seconds: float) -> Sweeper:
    return Sweeper(
        store,
        TaskWriter(store, clock),
        SweepTimes(sweep=1.0, lease=lease_seconds),
        store_clock=clock,
        returned=_nobody,
    )


async def test_a_healthy_lease_outlives_a_jump_of_the_clock(lab: Lab) -> None:
    store, wall = SqliteStore(lab.path), Wall()
    await store.open()
    clock = StoreClock(store, wall)
    clock()
    task = await _claimed(store, lease=timedelta(seconds=30))
    wall.ahead = timedelta(hours=1)
    assert await _sweeper(store, clock, lease_seconds=30).sweep() == 0
    # Its worker reads the same clock, and renews; one that is dead does not.
    assert await store.renew("w", {task.task_ref: 1}, clock() + timedelta(seconds=30)) == set()
    assert await _sweeper(store, clock, lease_seconds=0.0).sweep() == 0
    wall.ahead += timedelta(minutes=1)
    assert await _sweeper(store, clock, lease_seconds=0.0).sweep() == 1
    await store.close()


async def test_workers_have_a_lease_of_time_to_renew_after_an_outage_of_the_store(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(lab.path)
    await store.open()
    await _claimed(store, lease=timedelta(seconds=-1))
    overdue, broken = store.overdue, asyncio.Event()

    async def unavailable(now: datetime, limit: int) -> Any:
        broken.set()
        raise StoreUnavailable("The store is restarting.")

    sweeper = _sweeper(store, StoreClock(store), lease_seconds=0.5)
    monkeypatch.setattr(store, "overdue", unavailable)
    sweeper.start()
    await asyncio.wait_for(broken.wait(), PATIENCE)
    monkeypatch.setattr(store, "overdue", overdue)
    assert await sweeper.sweep() == 0
    async with asyncio.timeout(PATIENCE):
        while not await sweeper.sweep():
            await asyncio.sleep(0.02)
    await sweeper.stop()
    assert (await store.count())[TaskStatus.PENDING] == 1
    await store.close()


async def test_a_service_on_a_store_with_a_clock_lives_by_that_clock(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = timedelta(days=400)

    async def time(store: SqliteStore) -> datetime:
        return utc_now() + ahead

    monkeypatch.setattr(SqliteStore, "time", time)

    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> str:
        return "done"

    async with lab.service() as service:
        task = (await service.registry.submit("work", {}, scope="a")).task
        task = await service.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)
    assert task.status is TaskStatus.COMPLETED
    assert abs((task.created_at - utc_now() - ahead).total_seconds()) < 60
