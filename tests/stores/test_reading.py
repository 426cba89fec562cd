"""The contract of every store: what is found, in which order, and who is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection

import pytest
from stores.backends import Backend
from stores.conftest import OpenStore
from stores.records import after, apply, cancelled, claimed, new_task, stored

from raincheck.domain.task import Outcome, Progress, Task, TaskError, TaskStatus
from raincheck.domain.transitions import Claim, Release, ReportProgress, Settle
from raincheck.ports.task_store import Cursor, TaskQuery, TaskStore, TaskSummary
from support.waiting import PATIENCE


def _refs(tasks: Collection[Task | TaskSummary]) -> list[str]:
    return [task.task_ref for task in tasks]


# What may be claimed.


async def test_pending_tasks_of_known_operations_are_claimable_oldest_first(store: TaskStore) -> None:
    third = await stored(store, created_at=after(3))
    first = await stored(store, created_at=after(1), operation_type="other")
    await stored(store, operation_type="unknown")
    second = await stored(store, created_at=after(2))
    await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30)))
    await cancelled(store)
    assert list(await store.claimable(["report", "other", "absent", "report"], 10)) == [first, second, third]
    assert list(await store.claimable({"report", "other"}, 2)) == [first, second]
    assert list(await store.claimable([], 10)) == []
    assert list(await store.claimable(["report"], 0)) == []


async def test_a_task_that_came_back_is_claimable_at_its_old_place(store: TaskStore) -> None:
    first = await stored(store, created_at=after(1), retry_when_lost=True)
    second = await stored(store, created_at=after(2))
    back = await apply(store, first, Claim(worker_id="w", lease_until=after(30)), Release(fence=1))
    assert list(await store.claimable(["report"], 10)) == [back, second]


async def test_tasks_of_one_moment_are_claimable_in_the_order_of_their_refs(store: TaskStore) -> None:
    for ref in ("c", "a", "d", "b"):
        await stored(store, task_ref=ref)
    assert _refs(await store.claimable(["report"], 3)) == ["a", "b", "c"]


# What is overdue.


async def test_tasks_are_overdue_by_their_deadline_or_their_lease(store: TaskStore) -> None:
    by_deadline = await stored(store, deadline_at=after(20))
    by_lease = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(10)))
    both = await apply(store, await stored(store, deadline_at=after(15)), Claim(worker_id="w", lease_until=after(99)))
    await apply(
        store,
        await stored(store, deadline_at=after(5)),
        Claim(worker_id="w", lease_until=after(5)),
        Settle(fence=1, outcome=Outcome()),
    )
    assert list(await store.overdue(after(9.999999), 10)) == []
    assert list(await store.overdue(after(10), 10)) == [by_lease]
    assert {*_refs(await store.overdue(after(20), 10))} == {by_deadline.task_ref, by_lease.task_ref, both.task_ref}
    assert len(await store.overdue(after(20), 2)) == 2


async def test_a_returned_task_is_overdue_by_its_deadline_only(store: TaskStore) -> None:
    task = await apply(
        store,
        await stored(store, retry_when_lost=True),
        Claim(worker_id="w", lease_until=after(10)),
        Release(fence=1),
    )
    assert list(await store.overdue(after(3599), 10)) == []
    assert list(await store.overdue(after(3600), 10)) == [task]


# Listings.


async def test_a_listing_is_newest_first_and_by_ref_within_a_moment(store: TaskStore) -> None:
    for ref, seconds in (("b", 1), ("z", 0), ("c", 1), ("a", 2)):
        await stored(store, task_ref=ref, created_at=after(seconds))
    assert _refs(await store.list(TaskQuery())) == ["a", "c", "b", "z"]
    assert _refs(await store.list(TaskQuery(limit=2))) == ["a", "c"]
    assert _refs(await store.list(TaskQuery(limit=0))) == []


async def test_a_listing_shows_what_matters_of_a_task(store: TaskStore) -> None:
    task = await apply(
        store,
        await stored(store),
        Claim(worker_id="w", lease_until=after(30)),
        ReportProgress(fence=1, progress=Progress(fraction=0.4, message="page 4")),
    )
    assert list(await store.list(TaskQuery())) == [TaskSummary.of(task)]
    done = await apply(
        store, task, Settle(fence=1, outcome=Outcome(error=TaskError(code="upstream_error", message="x"))), at=after(3)
    )
    assert list(await store.list(TaskQuery())) == [TaskSummary.of(done)]
    assert (await store.list(TaskQuery()))[0].error_code == "upstream_error"


async def test_filters_of_a_listing_hold_together(store: TaskStore) -> None:
    shuffled = random.Random(7)
    tasks: list[Task] = []
    for number in range(120):
        task = await stored(
            store,
            created_at=after(shuffled.randrange(40)),
            scope=shuffled.choice(["ada", "bob"]),
            operation_type=shuffled.choice(["report", "resize", "é"]),
        )
        if number % 3:
            task = await apply(store, task, Claim(worker_id="w", lease_until=after(30)))
        if number % 3 == 2:
            task = await apply(store, task, Settle(fence=1, outcome=Outcome()))
        tasks.append(task)
    tasks.sort(key=lambda task: (task.created_at, task.task_ref), reverse=True)
    some = (TaskStatus.PENDING, TaskStatus.COMPLETED, TaskStatus.PENDING)
    for scope in (None, "ada", "bob", "eve"):
        for operation in (None, "report", "é", "absent"):
            for statuses in ((), some, (TaskStatus.FAILED,)):
                expected = [
                    TaskSummary.of(task)
                    for task in tasks
                    if scope in (None, task.scope)
                    and operation in (None, task.operation_type)
                    and (not statuses or task.status in statuses)
                ]
                pages: list[TaskSummary] = []
                cursor = None
                while page := await store.list(
                    TaskQuery(scope=scope, operation_type=operation, statuses=statuses, after=cursor, limit=7)
                ):
                    assert len(page) <= 7
                    pages.extend(page)
                    cursor = Cursor(page[-1].created_at, page[-1].task_ref)
                assert pages == expected


async def test_a_cursor_holds_its_place_while_tasks_come_and_go(store: TaskStore) -> None:
    tasks = [await cancelled(store, created_at=after(number), at=after(number)) for number in range(6)]
    page = await store.list(TaskQuery(limit=3))
    cursor = Cursor(page[-1].created_at, page[-1].task_ref)
    await stored(store, created_at=after(100))
    assert await store.purge(after(60 + 3), 100) == 4
    # What the cursor points at is gone; its place is not.
    assert _refs(await store.list(TaskQuery(after=cursor, limit=3))) == []
    assert _refs(await store.list(TaskQuery(after=Cursor(after(5), "~"), limit=3))) == [
        tasks[5].task_ref,
        tasks[4].task_ref,
    ]


async def test_counts_name_every_status(store: TaskStore) -> None:
    assert await store.count() == dict.fromkeys(TaskStatus, 0)
    await stored(store)
    await cancelled(store)
    expected = dict.fromkeys(TaskStatus, 0) | {TaskStatus.PENDING: 1, TaskStatus.CANCELLED: 1}
    assert await store.count() == expected


async def test_versions_of_the_tasks_there_are(store: TaskStore) -> None:
    task = await stored(store)
    other = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30)))
    wanted = [task.task_ref, other.task_ref, "gone", "\ud800"]
    assert await store.versions(wanted) == {task.task_ref: 1, other.task_ref: 2}
    assert await store.versions([]) == {}


# Listeners.


async def test_listeners_hear_of_own_changes_in_order(store: TaskStore) -> None:
    heard: list[Task | str | None] = []
    end = store.subscribe(heard.append)
    task = await stored(store, idempotency_key="k")
    versions = [task]
    for event in (
        Claim(worker_id="w", lease_until=after(30)),
        *(ReportProgress(fence=1, progress=Progress(fraction=number / 10)) for number in range(5)),
        Settle(fence=1, outcome=Outcome(value=[1])),
    ):
        task = await apply(store, task, event)
        versions.append(task)
    # What changes nothing is not told.
    assert not await store.replace(task)
    assert not (await store.insert(new_task(idempotency_key="k"))).created
    await asyncio.sleep(0)
    assert [each for each in heard if isinstance(each, Task)] == versions
    end()
    end()
    await stored(store)
    assert [each for each in heard if isinstance(each, Task)] == versions


async def test_a_change_is_told_when_it_can_be_read(store: TaskStore) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()
    end = store.subscribe(lambda change: seen.put_nowait(change.task_ref) if isinstance(change, Task) else None)
    task = new_task()
    insert = asyncio.ensure_future(store.insert(task))
    async with asyncio.timeout(PATIENCE):
        assert await seen.get() == task.task_ref
    assert await store.get(task.task_ref) == task
    await insert
    end()


async def test_a_listener_that_fails_takes_nothing_from_the_others(store: TaskStore) -> None:
    heard: list[Task | str | None] = []

    def fail(_: Task | str | None) -> None:
        raise RuntimeError("a bug of the listener")

    ends = [store.subscribe(fail), store.subscribe(heard.append), store.subscribe(heard.append)]
    task = await stored(store)
    await asyncio.sleep(0)
    assert [each for each in heard if isinstance(each, Task)] == [task, task]
    for end in ends:
        end()


# More than one store on one place, and one after another.


async def test_a_durable_store_holds_everything_after_a_restart(
    store: TaskStore, backend: Backend, open_store: OpenStore
) -> None:
    if not backend.durable:
        pytest.skip(f"{backend.name} is not durable")
    tasks = [
        await stored(store, arguments={"a": "x" * 5000}, idempotency_key="k"),
        await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30))),
        await cancelled(store),
    ]
    counts = await store.count()
    await store.close()
    again = await open_store()
    for task in tasks:
        assert await again.get(task.task_ref) == task
    assert await again.count() == counts
    assert (await again.insert(new_task(idempotency_key="k"))).task == tasks[0]
    assert list(await again.overdue(after(30), 5)) == [tasks[1]]
    assert await again.purge(after(60), 5) == 1


async def test_two_stores_on_one_place_see_and_hear_each_other(
    store: TaskStore, backend: Backend, open_store: OpenStore
) -> None:
    if not backend.shared:
        pytest.skip(f"{backend.name} is not shared")
    other = await open_store()
    changed = asyncio.Event()
    task = new_task(idempotency_key="k")
    end = other.subscribe(lambda change: changed.set() if change in (None, task.task_ref) else None)
    await asyncio.sleep(0)
    changed.clear()
    assert (await store.insert(task)).created
    assert await other.get(task.task_ref) == task
    async with asyncio.timeout(PATIENCE):
        await changed.wait()
    end()
    assert (await other.insert(new_task(idempotency_key="k"))).task == task
    won = await asyncio.gather(*(each.replace(claimed(task)) for each in (store, other) for _ in range(20)))
    assert won.count(True) == 1
    keys = await asyncio.gather(
        *(each.insert(new_task(idempotency_key="race")) for each in (store, other) for _ in range(20))
    )
    assert len({inserted.task.task_ref for inserted in keys}) == 1
    assert sum(inserted.created for inserted in keys) == 1
