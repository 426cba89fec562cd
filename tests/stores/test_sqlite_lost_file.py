"""The file of a SQLite store is deleted, moved or replaced in use: nothing is taken that nobody would find."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from stores.records import after, claimed, new_task, stored

from raincheck.domain.task import Task
from raincheck.errors import StoreUnavailable, StoreUnusable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import TaskQuery
from raincheck.stores.sqlite.store import SqliteStore


def delete(path: Path) -> str:
    path.unlink()
    return "was deleted"


def delete_all(path: Path) -> str:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    return "was deleted"


def delete_the_journal(path: Path) -> str:
    Path(f"{path}-wal").unlink()
    return "was deleted"


def put_a_copy_over_it(path: Path) -> str:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.replace(copy, path)
    return "was replaced by another file"


def verbs(store: SqliteStore, task: Task) -> list[Awaitable[object]]:
    return [
        *(store.insert(new_task(idempotency_key="k")) for _ in range(3)),
        store.replace(claimed(task)),
        store.purge(after(0), 5),
        store.put_record(Record(kind="sketch", key="k", value=1)),
        store.renew("w", {task.task_ref: 1}, after(30)),
        store.get(task.task_ref),
        store.claimable(["report"], 5),
        store.overdue(after(0), 5),
        store.list(TaskQuery()),
        store.count(),
        store.records(RecordQuery("sketch")),
        store.time(),
    ]


@pytest.mark.parametrize("lose", [delete, delete_all, delete_the_journal, put_a_copy_over_it])
async def test_a_file_that_was_taken_away_is_refused_by_every_verb(
    sqlite: SqliteStore, path: Path, lose: Callable[[Path], str]
) -> None:
    task = await stored(sqlite)
    sqlite.subscribe(lambda change: None)
    became = lose(path)
    answers = await asyncio.gather(*verbs(sqlite, task), return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreUnavailable}, answers
    (told,) = {str(answer) for answer in answers}
    assert re.match(rf"The task store {path} takes nothing: {path}\S* {became} while it was in use\. ", told)


async def test_a_file_that_was_put_back_goes_on_with_what_it_had(sqlite: SqliteStore, path: Path) -> None:
    task = await stored(sqlite)
    aside = path.with_name("aside")
    path.rename(aside)
    with pytest.raises(StoreUnavailable):
        await stored(sqlite)
    aside.rename(path)
    assert await sqlite.replace(claimed(task))
    assert await sqlite.get(task.task_ref) == claimed(task)


@pytest.mark.parametrize("became", ["is gone", "was cut to nothing"])
async def test_a_second_process_makes_no_second_file_beside_a_journal(
    sqlite: SqliteStore, path: Path, became: str
) -> None:
    await stored(sqlite)
    if became == "is gone":
        path.unlink()
    else:
        os.truncate(path, 0)
    second = SqliteStore(path)
    with pytest.raises(StoreUnusable, match=rf"The task store {path} {became}, but its journal"):
        await second.open()
    assert path.exists() == (became != "is gone")
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").unlink()
    # Whoever removes the journal too begins with an empty store, and the process before takes nothing.
    await second.open()
    assert (await second.insert(new_task(idempotency_key="k"))).created
    with pytest.raises(StoreUnavailable):
        await sqlite.insert(new_task(idempotency_key="k"))
    await second.close()


async def test_a_file_taken_away_within_a_commit_leaves_it_open_what_was_done(sqlite: SqliteStore, path: Path) -> None:
    await stored(sqlite)
    aside = path.with_name("aside")
    connection: sqlite3.Connection = cast(Any, sqlite)._writer._connection
    connection.set_trace_callback(lambda statement: path.rename(aside) if statement == "COMMIT" else None)
    task = new_task()
    with pytest.raises(StoreUnavailable) as refusal:
        await sqlite.insert(task)
    assert refusal.value.maybe_done
    connection.set_trace_callback(None)
    with pytest.raises(StoreUnavailable) as refusal:
        await stored(sqlite)
    assert not refusal.value.maybe_done
    aside.rename(path)
    assert await sqlite.get(task.task_ref) == task
