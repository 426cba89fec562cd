"""Histories in the store: nothing is lost between processes, nothing is written while nothing happens."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hints.histories import NOW, ended

from raincheck.errors import StoreUnavailable
from raincheck.operations.context import TaskContext
from raincheck.polling.history import History
from raincheck.polling.history_store import KIND, HistoryStore, stored_histories
from raincheck.ports.records import Record, record_key
from raincheck.ports.task_store import TaskStore
from raincheck.stores.memory.store import MemoryStore
from raincheck.stores.shared.delegating import StoreWrapper
from raincheck.stores.sqlite.store import SqliteStore
from support.lab import Lab
from support.waiting import PATIENCE


def clock() -> datetime:
    return NOW


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.01)


class Counting(StoreWrapper):
    """Counts what is read and written of records, and can be out of order."""

    reads = writes = 0
    broken = False

    async def get_record(self, kind: str, key: str) -> Record | None:
        if self.broken:
            raise StoreUnavailable("no answer")
        self.reads += 1
        return await self.inner.get_record(kind, key)

    async def put_record(self, record: Record) -> bool:
        if self.broken:
            raise StoreUnavailable("no answer")
        self.writes += 1
        return await self.inner.put_record(record)


async def memory() -> MemoryStore:
    store = MemoryStore()
    await store.open()
    return store


async def stored(store: TaskStore, name: str = "report") -> History | None:
    return next(iter([each async for each in stored_histories(store) if each.operation_type == name]), None)


async def test_what_ends_is_known_at_once_and_stored_soon() -> None:
    store = Counting(await memory())
    keeper = HistoryStore(store, clock=clock, flush_seconds=0.05)
    keeper.start([])
    for _ in range(12):
        keeper.settled(ended(3.0))
    known = keeper.known("report")
    assert known is not None
    assert known.ends == 12
    await until(lambda: store.writes)
    await keeper.stop()
    kept = await stored(store)
    assert kept is not None
    assert (kept.ends, kept.ran.weight, store.writes) == (12, 12, 1)
    record = await store.get_record(KIND, "report")
    assert record is not None
    assert record.expires_at is not None


async def test_an_idle_process_reads_and_writes_nothing() -> None:
    store = Counting(await memory())
    keeper = HistoryStore(store, clock=clock, flush_seconds=0.01, fresh_seconds=0.01)
    keeper.start(["report"])
    await until(lambda: store.reads == 1)
    await asyncio.sleep(0.1)
    assert (store.reads, store.writes) == (1, 0)
    await keeper.stop()
    assert (store.reads, store.writes) == (1, 0)


async def test_the_history_of_other_processes_is_read_when_it_is_asked_for() -> None:
    store = await memory()
    reader = HistoryStore(store, clock=clock, fresh_seconds=0.0)
    reader.start([])
    assert reader.known("report") is None
    writer = HistoryStore(store, clock=clock)
    writer.start([])
    writer.settled(ended(3.0))
    await writer.stop()
    await until(lambda: reader.known("report"))
    await reader.stop()


async def test_a_store_that_does_not_answer_loses_nothing() -> None:
    store = Counting(await memory())
    keeper = HistoryStore(store, clock=clock, flush_seconds=0.02)
    keeper.start([])
    store.broken = True
    keeper.settled(ended(3.0))
    await keeper.flush()
    keeper.settled(ended(4.0))
    known = keeper.known("report")
    assert known is not None
    assert known.ends == 2
    store.broken = False
    await until(lambda: store.writes)
    await keeper.stop()
    kept = await stored(store)
    assert kept is not None
    assert (kept.ends, kept.ran.weight) == (2, 2)


async def test_a_spoilt_record_begins_anew_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    store = await memory()
    await store.put_record(Record(kind=KIND, key="report", value={"ends": "many"}))
    assert [each async for each in stored_histories(store)] == []
    keeper = HistoryStore(store, clock=clock)
    keeper.start([])
    keeper.settled(ended(3.0))
    await keeper.stop()
    kept = await stored(store)
    assert kept is not None
    assert kept.ends == 1
    assert "begins anew" in caplog.text


async def test_an_operation_may_have_any_name() -> None:
    store = await memory()
    keeper = HistoryStore(store, clock=clock)
    keeper.start([])
    names = ["report", "Bericht für Köln", "x" * 300, "a b", "\n", "emoji 🌧", "lone \ud800"]
    for name in names:
        keeper.settled(replace(ended(3.0), operation_type=name))
    await keeper.stop()
    assert {each.operation_type async for each in stored_histories(store)} == set(names)
    assert len({record_key(name) for name in names}) == len(names)


_WRITER = """
import asyncio, sys
from hints.histories import NOW, ended
from raincheck.polling.history_store import HistoryStore
from raincheck.stores.sqlite.store import SqliteStore

async def main(path, number):
    store = SqliteStore(path)
    await store.open()
    keeper = HistoryStore(store, clock=lambda: NOW)
    keeper.start([])
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(number):
        keeper.settled(ended(3.0))
        await keeper.flush()
    await keeper.stop()
    await store.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_two_processes_on_one_file_lose_no_end(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    store = SqliteStore(path)
    await store.open()
    place = {"PYTHONPATH": ":".join(each for each in sys.path if each)}
    pipe = asyncio.subprocess.PIPE
    writers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _WRITER, str(path), "40", stdin=pipe, stdout=pipe, env=place
        )
        for _ in range(2)
    ]
    async with asyncio.timeout(PATIENCE):
        for writer in writers:
            assert writer.stdout is not None
            assert await writer.stdout.readline() == b"ready\n"
        await asyncio.gather(*(writer.communicate(b"go\n") for writer in writers))
    assert [writer.returncode for writer in writers] == [0, 0]
    kept = await stored(store)
    await store.close()
    assert kept is not None
    assert (kept.ends, kept.ran.weight) == (80, 80)


async def test_a_service_counts_every_end_once_whoever_brought_it_about_and_a_restart_keeps_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "tasks.db")

    @lab.operation("report")
    async def report(arguments: Any, context: TaskContext) -> int:  # pyright: ignore[reportUnusedFunction]
        if arguments.get("hang"):
            await asyncio.sleep(60)
        if arguments.get("fail"):
            raise ValueError("no paper")
        return 1

    async with lab.service() as service, lab.service(max_concurrency=0) as acceptor:
        submit = acceptor.registry.submit
        quick = [(await submit("report", {"fail": number < 3}, scope="ada")).task for number in range(8)]
        for task in quick:
            await acceptor.registry.wait(task.task_ref, scope="ada", seconds=PATIENCE)
        running = (await submit("report", {"hang": True}, scope="ada")).task
        await until(lambda: service.running)
        await acceptor.registry.cancel(running.task_ref, scope="ada")
        overdue = (await submit("report", {"hang": True}, scope="ada", max_wait_seconds=0.3)).task
        await acceptor.registry.wait(overdue.task_ref, scope="ada", seconds=PATIENCE)
        await until(lambda: not service.running)
    store = SqliteStore(lab.path)
    await store.open()
    kept = await stored(store)
    await store.close()
    assert kept is not None
    assert kept.ends == 10
    assert kept.codes == {"completed": 5, "operation_failed": 3, "cancelled": 1, "deadline": 1}
    async with lab.service() as again:
        await until(lambda: again.history.known("report"))
        known = again.history.known("report")
        assert known is not None
        assert known.ends == 10
