"""A call whose answer was lost, and that is sent again before its task is cancelled."""

from __future__ import annotations

import asyncio
from pathlib import Path

from stores.records import new_task

from raincheck.domain.task import TaskStatus
from raincheck.stores.sqlite.store import SqliteStore
from raincheck.tasks.lost_answers import LostAnswers
from raincheck.tasks.writer import TaskWriter
from raincheck.timing.clock import utc_now
from support.waiting import PATIENCE


async def test_a_task_that_is_found_again_is_not_cancelled(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    wanted, unwanted = new_task(), new_task()
    lost = LostAnswers(store, TaskWriter(store, utc_now))
    for task in (wanted, unwanted):
        await store.insert(task)
        lost._cancel_later(task)  # pyright: ignore[reportPrivateUsage]
    lost.wanted(wanted.task_ref)
    async with asyncio.timeout(PATIENCE):
        while (await found(store, unwanted.task_ref)) is not TaskStatus.CANCELLED:
            await asyncio.sleep(0.05)
    assert await found(store, wanted.task_ref) is TaskStatus.PENDING
    await lost.stop()
    await store.close()


async def found(store: SqliteStore, task_ref: str) -> TaskStatus:
    task = await store.get(task_ref)
    assert task is not None
    return task.status
