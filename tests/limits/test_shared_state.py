"""State that several processes read and change: cached, by compare-and-set, whatever stands in its record."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from raincheck.ports.records import Record
from raincheck.ports.shared_state import SharedState, StateKind
from raincheck.stores.memory.store import MemoryStore
from raincheck.timing.clock import utc_now

KIND: StateKind[int] = StateKind(
    kind="count", what="a count", empty=lambda _: 0, decode=int, encode=lambda value: value
)
DAY = timedelta(days=1)


class Counting(MemoryStore):
    """Counts what it is asked, and lets another process write before a write."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.conflicts = 0

    async def get_record(self, kind: str, key: str) -> Record | None:
        self.reads += 1
        return await super().get_record(kind, key)

    async def put_record(self, record: Record) -> bool:
        await asyncio.sleep(0)
        if self.conflicts:
            self.conflicts -= 1
            await super().put_record(record)
            return False
        return await super().put_record(record)


@pytest.fixture
async def store() -> Counting:
    found = Counting()
    await found.open()
    return found


def state(store: Counting, clock: Any = utc_now) -> SharedState[int]:
    return SharedState(store, clock, KIND, "report")


async def test_many_changes_of_many_processes_are_all_in_the_end(store: Counting) -> None:
    processes = [state(store) for _ in range(4)]

    async def count(process: SharedState[int]) -> None:
        for _ in range(5):
            assert await process.update(lambda value: value + 1, DAY)

    await asyncio.gather(*(count(process) for process in processes for _ in range(2)))
    assert await state(store).read() == 40


async def test_two_writers_of_one_process_do_not_overwrite_each_other(store: Counting) -> None:
    shared = state(store)
    assert await shared.read() == 0
    written = await asyncio.gather(shared.write(1, DAY), shared.write(2, DAY))
    assert written == [True, False]
    assert shared.value == await state(store).read() == 1


async def test_what_is_known_is_read_again_only_when_it_is_too_old(store: Counting) -> None:
    shared = state(store)
    for _ in range(5):
        assert await shared.read(known_seconds=60.0) == 0
    assert store.reads == 1
    await asyncio.sleep(0.01)
    await shared.read(known_seconds=0.005)
    assert store.reads == 2


async def test_a_write_that_lost_knows_what_won_and_tries_are_bounded(store: Counting) -> None:
    shared = state(store)
    store.conflicts = 1
    assert not await shared.write(7, DAY)
    assert shared.value == 7
    store.conflicts = 10**6
    assert not await shared.update(lambda value: value + 1, DAY)


async def test_a_damaged_record_begins_anew_with_a_warning(store: Counting, caplog: pytest.LogCaptureFixture) -> None:
    await store.put_record(Record(kind="count", key="report", value="many"))
    shared = state(store)
    assert await shared.update(lambda value: value + 1, DAY)
    assert await state(store).read() == 1
    assert "a count is not readable and begins anew" in caplog.text


async def test_an_expired_record_counts_as_none(store: Counting) -> None:
    now = utc_now()

    def clock() -> datetime:
        return now

    shared = state(store, clock)
    assert await shared.update(lambda value: value + 1, DAY)
    now += 2 * DAY
    assert shared.value == 0
    assert await shared.update(lambda value: value + 1, DAY)
    assert await shared.read() == 1
