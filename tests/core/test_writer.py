"""The writer of tasks: compare-and-set until it is written, and no lease cut short."""

from __future__ import annotations

from datetime import timedelta

import pytest
from stores.records import NOW, after, apply, claimed, new_task, stored

from raincheck.domain.task import Progress, Task, TaskStatus
from raincheck.domain.transitions import Cancel, Refused, ReportProgress
from raincheck.stores.memory.store import MemoryStore
from raincheck.tasks.writer import TaskEnded, TaskWriter

PROGRESS = ReportProgress(fence=1, progress=Progress(fraction=0.5))


async def test_a_lease_that_was_renewed_since_the_task_was_read_is_not_cut_short() -> None:
    store = MemoryStore()
    await store.open()
    task = claimed(await stored(store))
    assert await store.replace(task)
    # By a heartbeat: the version stays, so the task as it was read still fits.
    await store.renew("worker-1", {task.task_ref: task.fence}, after(100))
    writer = TaskWriter(store, lambda: after(80))
    written = await writer.write(task, PROGRESS, lease=timedelta(seconds=30))
    assert written is not None
    assert written.lease_until == after(110)
    found = await store.get(task.task_ref)
    assert found is not None
    assert found.lease_until == after(110)


async def test_an_event_is_applied_to_whatever_others_have_written_meanwhile() -> None:
    store = MemoryStore()
    await store.open()
    task = claimed(await stored(store))
    assert await store.replace(task)
    ends: list[TaskEnded] = []
    writer = TaskWriter(store, lambda: NOW, ended=ends.append)
    newer = await apply(store, task, PROGRESS)
    read: list[str] = []

    async def again() -> Task | None:
        read.append(task.task_ref)
        return await store.get(task.task_ref)

    written = await writer.apply(task, Cancel(), again)
    assert written is not None
    assert (written.status, written.version) == (TaskStatus.CANCELLED, newer.version + 1)
    assert read == [task.task_ref]
    assert [ended.task for ended in ends] == [written]
    with pytest.raises(Refused):
        await writer.apply(task, PROGRESS, again)
    assert await writer.apply(new_task(), Cancel(), lambda: store.get("gone")) is None
    assert len(ends) == 1
