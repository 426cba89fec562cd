"""`TaskStore.waiting`: the tasks of every scope are found, however many one of them has."""

from __future__ import annotations

from collections import Counter

import pytest
from stores.conftest import OpenStore
from stores.records import after, apply, cancelled, stored

from raincheck.domain.transitions import Claim, Release
from raincheck.ports.task_store import TaskStore


async def test_one_scope_hides_none_of_the_others(store: TaskStore) -> None:
    many = [await stored(store, scope="bob", created_at=after(n)) for n in range(30)]
    ada = await stored(store, scope="ada", created_at=after(40))
    eve = await stored(store, scope="eve", created_at=after(41), operation_type="other")
    assert list(await store.claimable(["report", "other"], 5)) == many[:5]
    found = await store.waiting(["report", "other", "absent"], 5)
    by_scope = {scope: [each for each in found if each.scope == scope] for scope in ("ada", "bob", "eve")}
    assert by_scope == {"ada": [ada], "bob": many[: len(by_scope["bob"])], "eve": [eve]}
    assert by_scope["bob"]
    assert list(await store.waiting([], 5)) == []


async def test_the_scopes_go_round_behind_the_last_one(store: TaskStore) -> None:
    scopes = ["ada", "bob", "cyd", "dan", "eve", "\ud800", ""]
    for scope in scopes * 3:
        await stored(store, scope=scope)
    order = [task.scope for task in await store.waiting(["report"], 7)]
    assert sorted(order) == sorted(scopes)
    for place, scope in enumerate(order):
        behind = [*order[place + 1 :], *order[: place + 1]]
        assert [task.scope for task in await store.waiting(["report"], 2, after=scope)] == behind[:2]
        some = await store.waiting(["report"], 3, after=scope, leave_out=behind[:2])
        assert [task.scope for task in some] == behind[2:5]
    assert await store.waiting(["report"], 3, leave_out=scopes) == []


async def test_of_few_scopes_as_many_tasks_are_found_as_are_asked_for(store: TaskStore) -> None:
    for scope in ("ada", "bob") * 10:
        await stored(store, scope=scope)
    assert Counter(task.scope for task in await store.waiting(["report"], 6)) == {"ada": 3, "bob": 3}


async def test_the_highest_priority_comes_first_and_only_what_is_pending(store: TaskStore) -> None:
    low = await stored(store, scope="ada", priority=-3)
    high = await stored(store, scope="bob", priority=7, created_at=after(9))
    plain = await stored(store, scope="ada", created_at=after(5), retry_when_lost=True)
    await cancelled(store)
    assert list(await store.waiting(["report"], 5)) == [high, plain, low]
    assert list(await store.waiting(["report"], 1)) == [high]
    taken = await apply(store, plain, Claim(worker_id="w", lease_until=after(30)))
    assert list(await store.waiting(["report"], 5)) == [high, low]
    back = await apply(store, taken, Release(fence=1))
    assert list(await store.waiting(["report"], 5)) == [high, back, low]


@pytest.mark.parametrize("scope", ["ada"])
async def test_another_process_finds_them_too(open_store: OpenStore, backend: object, scope: str) -> None:
    first = await open_store()
    task = await stored(first, scope=scope)
    second = await open_store()
    expected = [task] if second.capabilities.shared else []
    assert list(await second.waiting(["report"], 5)) == expected
