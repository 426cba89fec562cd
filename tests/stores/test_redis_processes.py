"""Several processes on one Redis, and processes and servers that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable
from contextlib import ExitStack
from dataclasses import replace

import pytest
from stores.conftest import MakeRedis
from stores.processes import child
from stores.records import NOW, after, apply, claimed, new_task, settled, stored

from raincheck.domain.task import Task, TaskStatus
from raincheck.domain.transitions import Claim
from raincheck.errors import StoreUnavailable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import Inserted, TaskQuery
from raincheck.stores.redis.store import RedisStore
from support.servers.redis import RedisServer
from support.waiting import PATIENCE

_PROGRAM = "redis_children.py"


@pytest.fixture
async def store(redis_server: RedisServer, make_redis: MakeRedis) -> RedisStore:
    store = make_redis(redis_server.url)
    await store.open()
    return store


async def test_no_two_of_ten_processes_claim_one_task_or_share_a_key_twice(
    store: RedisStore, redis_server: RedisServer
) -> None:
    with ExitStack() as stack:
        names = [f"process-{index}" for index in range(10)]
        children = [stack.enter_context(child("compete", redis_server.url, name, program=_PROGRAM)) for name in names]
        for each in children:
            each.go()
        answers = [json.loads(each.rest()[0]) for each in children]
    won = [ref for answer in answers for ref in answer["won"]]
    assert sum(answer["created"] for answer in answers) == 10 + 10 * 20
    assert len(won) == len(set(won)) == 210
    assert (await store.count())[TaskStatus.PROCESSING] == 210
    for name, answer in zip(names, answers, strict=True):
        for ref in answer["won"]:
            task = await store.get(ref)
            assert task is not None
            assert (task.worker_id, task.version) == (name, 2)


@pytest.mark.parametrize("lines", [1, 200, 900])
async def test_every_acknowledged_task_survives_kill_9_of_its_writer(
    store: RedisStore, redis_server: RedisServer, lines: int
) -> None:
    with child("insert_for_ever", redis_server.url, program=_PROGRAM) as writing:
        refs = [writing.line() for _ in range(lines)]
        refs += writing.kill()
    assert len(refs) >= lines
    assert len(await store.versions(refs)) == len(refs)
    counts = await store.count()
    listed = await store.list(TaskQuery(limit=100_000))
    assert sum(counts.values()) == len(listed) >= len(refs)
    assert counts[TaskStatus.PENDING] == len(await store.claimable(["report"], 100_000))


async def _halves(store: RedisStore) -> tuple[set[str], set[str]]:
    """Which tasks are settled, and which have a record."""
    ended = {each.task_ref for each in await store.list(TaskQuery(statuses=[TaskStatus.COMPLETED], limit=100_000))}
    recorded = {each.key for each in await store.records(RecordQuery("webhook", limit=100_000))}
    for kind in ("webhook", "upstream"):
        assert recorded == {each.key for each in await store.records(RecordQuery(kind, due=NOW, limit=100_000))}
    return ended, recorded


async def test_after_kill_9_of_a_writer_each_task_is_settled_with_its_record_or_not_at_all(
    store: RedisStore, redis_server: RedisServer
) -> None:
    with child("settle_for_ever", redis_server.url, program=_PROGRAM) as writing:
        refs = [writing.line() for _ in range(300)]
        refs += writing.kill()
    ended, recorded = await _halves(store)
    assert ended == recorded
    assert ended >= set(refs)


async def test_after_kill_9_of_the_server_each_task_is_settled_with_its_record_or_not_at_all(
    store: RedisStore, redis_server: RedisServer
) -> None:
    acknowledged: set[str] = set()
    enough = asyncio.Event()
    stopping = asyncio.Event()

    async def caller() -> None:
        while not stopping.is_set():
            with contextlib.suppress(StoreUnavailable):
                task = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30)))
                record = Record(kind="webhook", key=task.task_ref, value="x" * 3000, due_at=NOW)
                # Whatever else is answered is a wrong answer to a write that was sent twice.
                assert await store.replace(settled(task), records=(record, replace(record, kind="upstream")))
                acknowledged.add(task.task_ref)
                if len(acknowledged) % 500 == 499:
                    enough.set()

    callers = [asyncio.create_task(caller()) for _ in range(30)]
    for _ in range(2):
        async with asyncio.timeout(PATIENCE):
            await enough.wait()
        enough.clear()
        await asyncio.to_thread(redis_server.kill)
        await asyncio.to_thread(redis_server.start)
    stopping.set()
    await asyncio.gather(*callers)
    ended, recorded = await _halves(store)
    assert ended == recorded
    assert ended >= acknowledged


async def test_listeners_hear_of_another_process(store: RedisStore, redis_server: RedisServer) -> None:
    heard: asyncio.Queue[object] = asyncio.Queue()
    end = store.subscribe(heard.put_nowait)
    with child("insert_one", redis_server.url, program=_PROGRAM) as other:
        async with asyncio.timeout(PATIENCE):
            assert await heard.get() is None
        other.go()
        ref = other.rest()[0]
        async with asyncio.timeout(PATIENCE):
            while await heard.get() != ref:
                pass
    end()


@pytest.mark.parametrize("orderly", [False, True], ids=["kill -9", "shutdown"])
async def test_nothing_acknowledged_is_lost_when_the_server_goes_and_comes_back_in_mid_load(
    store: RedisStore, redis_server: RedisServer, orderly: bool
) -> None:
    acknowledged: list[Task] = []
    refused: list[Task] = []
    stopping = asyncio.Event()
    enough = asyncio.Event()

    async def write(task: Task, call: Awaitable[bool | Inserted]) -> bool:
        try:
            answer = await call
        except StoreUnavailable:
            refused.append(task)
            return False
        # Nobody else writes these tasks: whatever else is answered is a wrong answer to a write that was sent twice.
        assert answer in (True, (task, True))
        acknowledged.append(task)
        if len(acknowledged) % 2000 == 1999:
            enough.set()
        return True

    async def caller() -> None:
        while not stopping.is_set():
            task = new_task(arguments={"a": "x" * 50})
            if await write(task, store.insert(task)):
                task = claimed(task)
                await write(task, store.replace(task))

    callers = [asyncio.create_task(caller()) for _ in range(30)]
    for _ in range(2):
        async with asyncio.timeout(PATIENCE):
            await enough.wait()
        enough.clear()
        await asyncio.to_thread(redis_server.stop if orderly else redis_server.kill)
        await asyncio.to_thread(redis_server.start)
    async with asyncio.timeout(PATIENCE):
        await enough.wait()
    stopping.set()
    await asyncio.gather(*callers)
    latest = {task.task_ref: task for task in acknowledged}
    versions = await store.versions(list(latest))
    # A refused claim may have been written where its answer was lost for good; an acknowledged one is there.
    unclear = {task.task_ref for task in refused}
    wrong = [ref for ref, task in latest.items() if versions.get(ref) != task.version and ref not in unclear]
    assert wrong == []
    assert versions.keys() == latest.keys()


async def test_a_flushed_store_knows_nothing_and_goes_on(store: RedisStore, redis_server: RedisServer) -> None:
    task = new_task(idempotency_key="k")
    await store.insert(task)
    await asyncio.to_thread(redis_server.flush, 0)
    assert await store.get(task.task_ref) is None
    assert not await store.replace(claimed(task))
    assert await store.renew("w", {task.task_ref: 1}, task.deadline_at) == {task.task_ref}
    assert sum((await store.count()).values()) == 0
    assert list(await store.list(TaskQuery())) == []
    assert (await store.insert(new_task(idempotency_key="k"))).created
    assert (await store.count())[TaskStatus.PENDING] == 1
