"""What was learned of clients' patience, in the store: for all processes, bounded, never in the way of a call."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from raincheck.errors import StoreUnavailable
from raincheck.polling.known_clients import Client
from raincheck.polling.patience_store import KIND, PatienceStore
from raincheck.ports.records import LARGEST_RECORD, Record
from raincheck.stores.memory.store import MemoryStore
from raincheck.stores.shared.delegating import StoreWrapper
from support.waiting import PATIENCE

AGENT = Client("agent", "1")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 30, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def later(self, **passed: float) -> None:
        self.now += timedelta(**passed)


class Counting(StoreWrapper):
    """Counts what is read and written of records, and can be out of order or slow."""

    reads = writes = 0
    broken = False
    slow = False

    async def get_record(self, kind: str, key: str) -> Record | None:
        self.reads += 1
        if self.slow:
            await asyncio.sleep(30)
        if self.broken:
            raise StoreUnavailable("no answer")
        return await self.inner.get_record(kind, key)

    async def put_record(self, record: Record) -> bool:
        if self.broken:
            raise StoreUnavailable("no answer")
        self.writes += 1
        return await self.inner.put_record(record)


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.01)


@pytest.fixture
async def store() -> AsyncIterator[Counting]:
    inner = MemoryStore()
    await inner.open()
    yield Counting(inner)
    await inner.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
async def _no_leaked_task() -> AsyncIterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    assert [each.get_name() for each in asyncio.all_tasks() if each.get_name().startswith("raincheck")] == []


def make(store: Counting, clock: Clock, **options: Any) -> PatienceStore:
    made = PatienceStore(store, clock=clock, **{"flush_seconds": 0.02, **options})
    made.start()
    return made


async def test_a_hang_up_counts_at_once_and_in_another_process_soon(store: Counting, clock: Clock) -> None:
    here = make(store, clock)
    here.hung_up(AGENT, "a", after_seconds=5.0)
    assert await here.seconds(AGENT, "a") == 5.0
    await until(lambda: store.writes == 1)
    there = make(store, clock)
    assert await there.seconds(AGENT, "a") == 5.0
    assert await there.seconds(AGENT, "b") is None
    assert await there.seconds(Client("agent", "2"), "a") is None
    await here.stop()
    await there.stop()


async def test_two_processes_confirm_each_other(store: Counting, clock: Clock) -> None:
    here, there = make(store, clock), make(store, clock)
    here.hung_up(AGENT, "a", after_seconds=5.0)
    await here.stop()
    clock.later(hours=3)
    there.hung_up(AGENT, "a", after_seconds=5.2)
    await there.stop()
    clock.later(days=20)
    third = make(store, clock)
    assert await third.seconds(AGENT, "a") == 5.0
    clock.later(days=20)
    assert await third.seconds(AGENT, "a") is None
    await third.stop()


async def test_writers_at_the_same_time_lose_nothing(store: Counting, clock: Clock) -> None:
    processes = [make(store, clock) for _ in range(8)]
    for number, each in enumerate(processes):
        each.hung_up(Client(f"agent-{number}"), "a", after_seconds=5.0)
    await asyncio.gather(*(each.stop() for each in processes))
    reader = make(store, clock)
    assert [await reader.seconds(Client(f"agent-{number}"), "a") for number in range(8)] == [5.0] * 8
    await reader.stop()


async def test_hang_ups_in_the_first_half_second_teach_nothing(store: Counting, clock: Clock) -> None:
    patience = make(store, clock)
    patience.hung_up(AGENT, "a", after_seconds=0.4)
    assert await patience.seconds(AGENT, "a") is None
    await patience.stop()
    assert store.writes == 0


async def test_a_session_keeps_its_bound_when_made_up_names_push_it_out_of_the_record(
    store: Counting, clock: Clock
) -> None:
    class Connection: ...

    connection = Connection()
    patience = make(store, clock)
    mine = AGENT._replace(session=connection)
    patience.hung_up(mine, "a", after_seconds=5.0)
    for number in range(100):
        clock.later(seconds=1)
        patience.hung_up(Client(f"made-up-{number}"), "a", after_seconds=5.0)
    assert await patience.seconds(AGENT, "a") is None
    assert await patience.seconds(mine, "a") == 5.0
    sessions = patience._sessions  # pyright: ignore[reportPrivateUsage]
    assert len(sessions) == 1
    del mine, connection
    gc.collect()
    assert len(sessions) == 0
    await patience.stop()


async def test_the_record_is_bounded_expires_and_fits_the_smallest_store(store: Counting, clock: Clock) -> None:
    patience = make(store, clock)
    for number in range(200):
        clock.later(seconds=1)
        patience.hung_up(Client("\x00\U0001f300" * 50 + str(number), "\ud800" * 100), "a", after_seconds=5.0)
    await patience.stop()
    record = await store.get_record(KIND, "a")
    assert record is not None
    assert len(record.value) == 32
    assert len(json.dumps(record.value)) < LARGEST_RECORD
    assert record.expires_at is not None
    assert record.expires_at <= clock.now + timedelta(days=30)


async def test_this_process_remembers_a_bounded_number_of_scopes(store: Counting, clock: Clock) -> None:
    patience = make(store, clock)
    for number in range(1000):
        await patience.seconds(AGENT, f"scope-{number}")
    assert len(patience._scopes) <= 512  # pyright: ignore[reportPrivateUsage]
    await patience.stop()


async def test_a_hang_up_that_says_nothing_new_is_not_written(store: Counting, clock: Clock) -> None:
    patience = make(store, clock)
    for _ in range(2):
        patience.hung_up(AGENT, "a", after_seconds=5.0)
        clock.later(seconds=2)
    await until(lambda: store.writes)
    writes = store.writes
    for _ in range(1000):
        patience.hung_up(AGENT, "a", after_seconds=5.1)
    await patience.stop()
    assert store.writes == writes


async def test_an_idle_process_reads_and_writes_nothing(store: Counting, clock: Clock) -> None:
    patience = make(store, clock, fresh_seconds=0.01)
    assert await patience.seconds(AGENT, "a") is None
    await asyncio.sleep(0.1)
    assert (store.reads, store.writes) == (1, 0)
    await patience.stop()


async def test_what_other_processes_learned_is_read_again_in_the_background(store: Counting, clock: Clock) -> None:
    reader, writer = make(store, clock, fresh_seconds=0.0), make(store, clock)
    assert await reader.seconds(AGENT, "a") is None
    writer.hung_up(AGENT, "a", after_seconds=5.0)
    await writer.stop()
    async with asyncio.timeout(PATIENCE):
        while await reader.seconds(AGENT, "a") is None:
            await asyncio.sleep(0.01)
    await reader.stop()


async def test_a_store_that_does_not_answer_fails_no_call_and_loses_nothing(store: Counting, clock: Clock) -> None:
    patience = make(store, clock)
    store.broken = True
    assert await patience.seconds(AGENT, "a") is None
    patience.hung_up(AGENT, "a", after_seconds=5.0)
    assert not await patience.flush()
    assert await patience.seconds(AGENT, "a") == 5.0
    store.broken = False
    await patience.stop()
    assert await store.get_record(KIND, "a") is not None


async def test_a_slow_store_delays_the_first_call_of_a_scope_a_little_and_no_other(
    store: Counting, clock: Clock
) -> None:
    store.slow = True
    patience = make(store, clock, first_read_seconds=0.2)
    now = asyncio.get_running_loop().time
    began = now()
    assert await patience.seconds(AGENT, "a") is None
    first = now()
    assert 0.15 < first - began < 2
    for _ in range(100):
        assert await patience.seconds(AGENT, "a") is None
    assert now() - first < 0.15
    assert store.reads == 1
    await patience.stop()


async def test_a_record_that_is_not_readable_begins_anew(store: Counting, clock: Clock) -> None:
    assert await store.put_record(Record(kind=KIND, key="a", value={"odd": True}))
    patience = make(store, clock)
    assert await patience.seconds(AGENT, "a") is None
    patience.hung_up(AGENT, "a", after_seconds=5.0)
    await patience.stop()
    again = make(store, clock)
    assert await again.seconds(AGENT, "a") == 5.0
    await again.stop()
