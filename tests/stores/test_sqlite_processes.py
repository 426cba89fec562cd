"""Several processes on one SQLite file, and processes that are killed."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import ExitStack
from pathlib import Path

import pytest
from stores.processes import Child, child
from stores.records import new_task, stored

from raincheck.domain.task import TaskStatus
from raincheck.stores.sqlite.store import SqliteStore
from support.waiting import PATIENCE


def _facts(path: Path) -> tuple[str, dict[str, int], dict[str, int]]:
    """The file's integrity, its tasks by status counted, and as its counters have it."""
    connection = sqlite3.connect(path)
    try:
        integrity = connection.execute("PRAGMA integrity_check").fetchall()[0][0]
        counted = dict(connection.execute("SELECT status, count(*) FROM task GROUP BY status").fetchall())
        kept = dict(connection.execute("SELECT status, number FROM task_count WHERE number <> 0").fetchall())
        return integrity, counted, kept
    finally:
        connection.close()


def _all(stack: ExitStack, verb: str, path: Path, number: int) -> list[Child]:
    return [stack.enter_context(child(verb, path, f"process-{index}")) for index in range(number)]


async def test_ten_processes_make_one_file_at_once(path: Path) -> None:
    with ExitStack() as stack:
        children = _all(stack, "create", path, 10)
        for each in children:
            each.go()
        refs = [each.rest()[0] for each in children]
    store = SqliteStore(path)
    await store.open()
    assert len(set(refs)) == 10
    assert await store.versions(refs) == dict.fromkeys(refs, 1)
    await store.close()
    assert _facts(path) == ("ok", {"pending": 10}, {"pending": 10})


async def test_no_two_of_ten_processes_claim_one_task_or_share_a_key_twice(sqlite: SqliteStore, path: Path) -> None:
    with ExitStack() as stack:
        children = _all(stack, "compete", path, 10)
        for each in children:
            each.go()
        answers = [json.loads(each.rest()[0]) for each in children]
    won = [ref for answer in answers for ref in answer["won"]]
    assert sum(answer["created"] for answer in answers) == 10 + 10 * 20
    assert len(won) == len(set(won)) == 210
    assert (await sqlite.count())[TaskStatus.PROCESSING] == 210
    assert _facts(path) == ("ok", {"processing": 210}, {"processing": 210})
    for index, answer in enumerate(answers):
        for ref in answer["won"]:
            task = await sqlite.get(ref)
            assert task is not None
            assert (task.worker_id, task.version) == (f"process-{index}", 2)


@pytest.mark.parametrize("lines", [1, 37, 200, 900])
async def test_every_acknowledged_task_survives_kill_9(path: Path, lines: int) -> None:
    with child("insert_for_ever", path) as writing:
        refs = [writing.line() for _ in range(lines)]
        refs += writing.kill()
    assert len(refs) >= lines
    store = SqliteStore(path)
    await store.open()
    missing = [ref for ref in refs if await store.get(ref) is None]
    total = sum((await store.count()).values())
    await stored(store)
    await store.close()
    assert missing == []
    assert total >= len(refs)
    integrity, counted, kept = _facts(path)
    assert integrity == "ok"
    assert counted == kept


async def test_listeners_hear_of_another_process_while_this_one_is_idle(sqlite: SqliteStore, path: Path) -> None:
    heard: asyncio.Queue[object] = asyncio.Queue()
    end = sqlite.subscribe(heard.put_nowait)
    with child("create", path) as other:
        while not heard.empty():
            heard.get_nowait()
        other.go()
        async with asyncio.timeout(PATIENCE):
            assert await heard.get() is None
        ref = other.rest()[0]
    assert await sqlite.get(ref) is not None
    end()


async def test_own_commits_are_not_taken_for_those_of_others(sqlite: SqliteStore) -> None:
    heard: list[object] = []
    end = sqlite.subscribe(heard.append)
    await stored(sqlite)
    while None in heard:
        heard.remove(None)
    await asyncio.gather(*(sqlite.insert(new_task()) for _ in range(50)))
    # Longer than the interval of the looks: they are the subject.
    await asyncio.sleep(0.2)
    assert len(heard) == 51
    assert None not in heard
    end()
