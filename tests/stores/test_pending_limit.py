"""The contract of every store: room for pending tasks, priorities, keys of calls under way, checkpoints."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from stores.backends import Backend
from stores.conftest import OpenStore
from stores.records import NOW, after, apply, cancelled, claimed, new_task, settled, stored

from raincheck.domain.task import KeyKind, Outcome
from raincheck.domain.transitions import Cancel, Claim, CompleteExternally, LeaseExpired, Release, SaveCheckpoint
from raincheck.errors import QueueFull
from raincheck.ports.task_store import Inserted, PendingLimit, TaskQuery, TaskStore

KEY: dict[str, Any] = {"idempotency_key": "f" * 64, "key_kind": KeyKind.INFLIGHT}


@pytest.mark.parametrize(
    ("pending_limit", "limit"),
    [(PendingLimit(total=2), "in_all"), (PendingLimit(per_scope=2), "of_scope"), (PendingLimit(2, 2), "in_all")],
)
async def test_a_task_too_many_is_refused(store: TaskStore, pending_limit: PendingLimit, limit: str) -> None:
    first = await stored(store)
    assert (await store.insert(new_task(), pending_limit=pending_limit)).created
    refused = new_task(idempotency_key="k")
    with pytest.raises(QueueFull) as caught:
        await store.insert(refused, pending_limit=pending_limit)
    assert caught.value.details["limit"] == limit
    assert await store.get(refused.task_ref) is None
    assert len(await store.list(TaskQuery())) == 2
    await apply(store, first, Claim(worker_id="w", lease_until=after(30)))
    assert (await store.insert(refused, pending_limit=pending_limit)).created


async def test_the_room_of_a_scope_is_its_own(store: TaskStore) -> None:
    await stored(store, scope="ada")
    assert (await store.insert(new_task(scope="bob"), pending_limit=PendingLimit(per_scope=1))).created
    with pytest.raises(QueueFull):
        await store.insert(new_task(scope="bob"), pending_limit=PendingLimit(per_scope=1))
    assert (await store.insert(new_task(scope="bob"))).created
    assert (await store.insert(new_task(scope="eve"), pending_limit=PendingLimit(total=4, per_scope=1))).created


async def test_a_key_that_is_taken_needs_no_room(store: TaskStore) -> None:
    task = await stored(store, idempotency_key="k")
    assert await store.insert(new_task(idempotency_key="k"), pending_limit=PendingLimit(1, 1)) == Inserted(
        task, created=False
    )


async def test_what_comes_back_pending_takes_room_again(store: TaskStore) -> None:
    task = await stored(store, retry_when_lost=True)
    claim = Claim(worker_id="w", lease_until=after(30))
    back = await apply(store, task, claim, Release(fence=1))
    with pytest.raises(QueueFull):
        await store.insert(new_task(), pending_limit=PendingLimit(per_scope=1))
    await apply(store, back, Cancel())
    ended = await store.insert(new_task(), pending_limit=PendingLimit(total=1, per_scope=1))
    assert ended.created
    assert await store.purge(after(3600), 10) >= 1
    with pytest.raises(QueueFull):
        await store.insert(new_task(), pending_limit=PendingLimit(total=1))


@pytest.mark.parametrize("pending_limit", [PendingLimit(total=5), PendingLimit(per_scope=5)])
async def test_racing_processes_never_take_more_room_than_there_is(
    open_store: OpenStore, backend: Backend, pending_limit: PendingLimit
) -> None:
    stores = [await open_store() for _ in range(3 if backend.shared else 1)]
    calls = [stores[number % len(stores)].insert(new_task(), pending_limit=pending_limit) for number in range(30)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, Inserted) for answer in answers) == 5
    assert sum(isinstance(answer, QueueFull) for answer in answers) == 25
    assert len(await stores[0].list(TaskQuery())) == 5


async def test_the_highest_priority_is_claimed_first(store: TaskStore) -> None:
    low = await stored(store, priority=-5)
    old = await stored(store, created_at=after(1))
    young = await stored(store, created_at=after(2))
    urgent = await stored(store, created_at=after(3), priority=100)
    other = await stored(store, created_at=after(4), priority=7, operation_type="resize")
    assert list(await store.claimable(["report", "resize"], 10)) == [urgent, other, old, young, low]
    assert list(await store.claimable(["report", "resize"], 2)) == [urgent, other]
    assert list(await store.claimable(["report"], 10)) == [urgent, old, young, low]
    back = await apply(store, urgent, Claim(worker_id="w", lease_until=after(30)))
    assert list(await store.claimable(["report"], 1)) == [old]
    assert back.priority == 100
    assert await store.get(back.task_ref) == back


async def test_equal_calls_share_the_task_under_way(store: TaskStore) -> None:
    first = await stored(store, **KEY)
    assert first.inflight
    assert await store.insert(new_task(**KEY)) == Inserted(first, created=False)
    running = await apply(store, first, Claim(worker_id="w", lease_until=after(30)))
    assert await store.insert(new_task(**KEY)) == Inserted(running, created=False)
    assert (await store.insert(new_task(**KEY, scope="bob"))).created


async def test_a_settled_task_gives_its_inflight_key_away_and_stays(store: TaskStore) -> None:
    task = claimed(await stored(store, **KEY))
    assert await store.replace(task)
    ended = settled(task, Outcome(value={"big": "x" * 5000}), at=after(1))
    assert await store.replace(ended)
    second = new_task(**KEY, created_at=after(2))
    assert await store.insert(second) == Inserted(second, created=True)
    kept = await store.get(task.task_ref)
    assert kept is not None
    assert (kept.idempotency_key, kept.outcome, kept.version) == (None, ended.outcome, ended.version)
    assert await store.insert(new_task(**KEY, created_at=after(3))) == Inserted(second, created=False)
    # Its retention ends; the key is not its own any more.
    assert await store.purge(after(100), 10) == 1
    assert await store.get(task.task_ref) is None
    assert await store.insert(new_task(**KEY, created_at=after(101))) == Inserted(second, created=False)


async def test_of_equal_calls_that_race_after_the_end_one_makes_the_task(
    open_store: OpenStore, backend: Backend
) -> None:
    stores = [await open_store() for _ in range(3 if backend.shared else 1)]
    await cancelled(stores[0], **KEY)
    tasks = [new_task(**KEY, created_at=after(1)) for _ in range(12)]
    answers = await asyncio.gather(*(stores[n % len(stores)].insert(task) for n, task in enumerate(tasks)))
    assert sum(answer.created for answer in answers) == 1
    assert len({answer.task.task_ref for answer in answers}) == 1
    assert len(await stores[0].list(TaskQuery())) == 2


async def test_a_callers_own_key_holds_after_the_end(store: TaskStore) -> None:
    ended = await cancelled(store, idempotency_key="k")
    assert await store.insert(new_task(idempotency_key="k", created_at=after(1))) == Inserted(ended, created=False)


@pytest.mark.parametrize("size", [1, 50_000])
async def test_a_checkpoint_outlives_its_worker(store: TaskStore, size: int) -> None:
    claim = Claim(worker_id="w", lease_until=after(30))
    saved = {"job": "j" * size, "at": [1, None]}
    task = await apply(store, await stored(store), claim, SaveCheckpoint(fence=1, checkpoint=saved))
    assert await store.get(task.task_ref) == task
    back = await apply(store, task, LeaseExpired(), at=after(31))
    assert back.checkpoint == saved
    assert list(await store.claimable(["report"], 1)) == [back]
    again = await apply(store, back, claim, SaveCheckpoint(fence=2, checkpoint="small"), Release(fence=2), claim)
    assert await store.get(task.task_ref) == again
    done = await apply(store, again, CompleteExternally(outcome=Outcome(value=1)))
    assert await store.get(task.task_ref) == done


async def test_where_to_call_back_and_the_priority_come_back(store: TaskStore) -> None:
    task = await stored(store, callback_url="https://example.com/é\ud800?x=" + "y" * 3000, priority=-100)
    task = await apply(store, task, Claim(worker_id="w", lease_until=after(30)))
    assert await store.get(task.task_ref) == task
    assert (task.callback_url or "").endswith("y")
    assert task.created_at == NOW
