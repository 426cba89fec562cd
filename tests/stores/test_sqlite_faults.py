"""A SQLite store when the machine does not play along: a clear error, nothing half written, and on it goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from stores.processes import child
from stores.records import after, claimed, new_task, stored

from raincheck.domain.task import TaskStatus
from raincheck.errors import StoreError, StoreUnavailable
from raincheck.ports.task_store import TaskQuery
from raincheck.stores.sqlite.store import SqliteStore
from support.waiting import PATIENCE


def _writing_connection(store: SqliteStore) -> sqlite3.Connection:
    return cast(Any, store)._writer._connection


@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
async def test_a_lock_that_is_held_too_long_is_an_error_and_its_end_the_end_of_it(path: Path, mode: str) -> None:
    store = SqliteStore(path, busy_seconds=0.2)
    await store.open()
    task = await stored(store)
    with child("hold", path, mode) as holder:
        writes = (
            *(store.insert(new_task()) for _ in range(20)),
            store.replace(claimed(task)),
            store.purge(after(1), 5),
        )
        answers = await asyncio.gather(*writes, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        assert {str(answer) for answer in answers} == {f"The task store {path} is locked by another process."}
        with pytest.raises(StoreUnavailable):
            await store.renew("w", {task.task_ref: 1}, after(30))
        # Who only reads does not wait.
        assert await store.get(task.task_ref) == task
        holder.go()
        holder.rest()
    assert await store.replace(claimed(task))
    assert sum((await store.count()).values()) == 1
    await store.close()


async def test_a_lock_that_ends_in_time_is_waited_for(sqlite: SqliteStore, path: Path) -> None:
    with child("hold", path, "IMMEDIATE") as holder:
        waiting = asyncio.ensure_future(stored(sqlite))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        holder.go()
        async with asyncio.timeout(PATIENCE):
            task = await waiting
        holder.rest()
    assert await sqlite.get(task.task_ref) == task


async def test_commits_are_still_synchronous_when_the_wal_could_not_be_grown(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with child("open_without_room", path) as other:
        other.go()
        assert other.rest() == ["synchronous 2, cache -8192"]


async def test_closing_writes_what_waits(sqlite: SqliteStore, path: Path) -> None:
    tasks = [new_task() for _ in range(2500)]
    writes = [asyncio.ensure_future(sqlite.insert(task)) for task in tasks]
    await asyncio.sleep(0)
    await sqlite.close()
    assert all(inserted.created for inserted in await asyncio.gather(*writes))
    await sqlite.open()
    assert (await sqlite.count())[TaskStatus.PENDING] == 2500


async def test_what_waits_is_committed_together(sqlite: SqliteStore) -> None:
    statements: list[str] = []
    await stored(sqlite)
    _writing_connection(sqlite).set_trace_callback(statements.append)
    await asyncio.gather(*(sqlite.insert(new_task()) for _ in range(200)))
    _writing_connection(sqlite).set_trace_callback(None)
    assert 1 <= statements.count("COMMIT") <= 4


async def test_a_full_disk_is_an_error_for_what_does_not_fit_and_for_nothing_else(sqlite: SqliteStore) -> None:
    await stored(sqlite)
    connection = _writing_connection(sqlite)
    pages = connection.execute("PRAGMA page_count").fetchall()[0][0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    large = [new_task(arguments={"a": "x" * 100_000}) for _ in range(3)]
    small = [new_task() for _ in range(3)]
    answers = await asyncio.gather(
        *(sqlite.insert(task) for pair in zip(large, small, strict=True) for task in pair), return_exceptions=True
    )
    assert [type(answer) for answer in answers[::2]] == [StoreUnavailable] * 3
    assert "the disk is full" in str(answers[0])
    assert answers[1::2] == [(task, True) for task in small]
    for task in large:
        assert await sqlite.get(task.task_ref) is None
    assert (await sqlite.count())[TaskStatus.PENDING] == 4
    connection.execute("PRAGMA max_page_count = 1000000")
    for task in large:
        assert (await sqlite.insert(task)).created
    assert (await sqlite.count())[TaskStatus.PENDING] == 7


async def test_one_bad_write_does_not_fail_those_it_is_committed_with(sqlite: SqliteStore) -> None:
    first = await stored(sqlite)
    good = [new_task() for _ in range(10)]
    answers = await asyncio.gather(
        *(sqlite.insert(task) for task in good[:5]),
        sqlite.insert(new_task(attempt=2**70)),
        sqlite.insert(new_task(task_ref=first.task_ref)),
        *(sqlite.insert(task) for task in good[5:]),
        return_exceptions=True,
    )
    assert [type(answers[5]), type(answers[6])] == [OverflowError, StoreError]
    assert [*answers[:5], *answers[7:]] == [(task, True) for task in good]
    assert (await sqlite.count())[TaskStatus.PENDING] == 11


@pytest.mark.parametrize("text", ["the caller's secret", "x" * 2000])
async def test_errors_hold_nothing_of_the_callers_data(sqlite: SqliteStore, text: str) -> None:
    first = await stored(sqlite, task_ref="the-ref", scope=text, arguments={"a": text})
    with pytest.raises(StoreError) as refusal:
        await sqlite.insert(first)
    assert text not in refusal.value.message
    assert "the-ref" not in refusal.value.message


async def test_an_io_error_is_reported_and_survived(path: Path) -> None:
    with child("fill", path) as other:
        other.go()
        *errors, facts = other.rest()
    assert errors == [f"StoreUnavailable: The task store {path} cannot be read or written (I/O error)."] * 5
    assert json.loads(facts) == {"readable": True, "absent": True, "again": True, "counted": True}


async def test_a_file_that_went_away_while_the_store_was_closed_is_made_anew(sqlite: SqliteStore, path: Path) -> None:
    await stored(sqlite)
    await sqlite.close()
    path.unlink()
    await sqlite.open()
    assert sum((await sqlite.count()).values()) == 0


async def test_a_task_is_read_whole_while_another_process_removes_it(sqlite: SqliteStore, path: Path) -> None:
    task = await stored(sqlite, arguments={"a": "x" * 5000})
    assert await sqlite.get(task.task_ref) == task
    removed: list[str] = []

    def remove_meanwhile(statement: str) -> None:
        if "FROM payload" in statement and not removed:
            removed.append(statement)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("DELETE FROM payload")
                other.execute("DELETE FROM task")

    cast(Any, sqlite)._reader.set_trace_callback(remove_meanwhile)
    assert await sqlite.get(task.task_ref) == task
    assert removed
    assert await sqlite.get(task.task_ref) is None


async def test_a_task_that_changes_its_status_during_a_listing_is_in_it(sqlite: SqliteStore, path: Path) -> None:
    task = await stored(sqlite)
    moved: list[str] = []

    def move_meanwhile(statement: str) -> None:
        if "ORDER BY created_at DESC" in statement and not moved:
            moved.append(statement)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("UPDATE task SET status = 'completed'")

    assert len(await sqlite.list(TaskQuery())) == 1
    cast(Any, sqlite)._reader.set_trace_callback(move_meanwhile)
    assert [each.task_ref for each in await sqlite.list(TaskQuery())] == [task.task_ref]
    assert moved
    assert [str(each.status) for each in await sqlite.list(TaskQuery())] == ["completed"]


# Read-only files and folders. Root may write everything, so the child gives its rights up, in a folder that it can see.


@pytest.fixture
def visible() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="raincheck-visible-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


def _as_nobody(path: Path) -> str:
    with child("open_as_nobody", path) as other:
        other.go()
        return other.rest()[0]


async def test_a_folder_that_may_not_be_written_is_a_clear_error(visible: Path) -> None:
    visible.chmod(0o555)
    assert _as_nobody(visible / "tasks.db") == (
        f"StoreUnavailable: The task store {visible / 'tasks.db'} cannot be created: Permission denied."
    )
    assert _as_nobody(visible / "state" / "tasks.db") == (
        f"StoreUnavailable: The task store {visible / 'state' / 'tasks.db'} cannot be created: Permission denied."
    )


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("folder_mode", [0o555, 0o777])
async def test_a_file_that_may_only_be_read_is_a_clear_error(visible: Path, fresh: bool, folder_mode: int) -> None:
    path = visible / "tasks.db"
    if fresh:
        path.touch()
    else:
        store = SqliteStore(path)
        await store.open()
        await store.close()
    path.chmod(0o444)
    visible.chmod(folder_mode)
    kind, message = _as_nobody(path).split(": ", 1)
    if folder_mode == 0o777:
        # Anybody may have put it there.
        assert kind == "StoreUnusable"
        return
    assert kind == "StoreUnavailable"
    assert message.startswith(f"The task store {path} ")
    assert "read-only" in message or "may not be read or written" in message


async def test_a_file_that_may_not_even_be_read_is_a_clear_error(visible: Path) -> None:
    path = visible / "tasks.db"
    path.touch()
    path.chmod(0o000)
    assert _as_nobody(path).startswith(f"StoreUnavailable: The task store {path} cannot be opened")
