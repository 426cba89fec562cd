"""A Redis store when the server or the network does not play along: a clear error, no wrong answer, and on it goes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, cast

import pytest
from stores.conftest import MakeRedis
from stores.records import NOW, after, cancelled, claimed, new_task, stored
from stores.redis_keys import keys
from stores.renewals import Renew, elsewhere

from raincheck.domain.task import Outcome, Task, TaskStatus
from raincheck.domain.transitions import Settle, transition
from raincheck.errors import StoreUnavailable, StoreUnusable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import TaskQuery
from raincheck.stores.redis.store import RedisStore
from support.proxy import TcpProxy
from support.servers.redis import RedisServer
from support.servers.server import needed
from support.waiting import PATIENCE

_RECORD = Record(kind="webhook", key="k", value=1)

# Servers that do not answer.


async def _refused_in_time(store: RedisStore, seconds: float, task: Task, *renewals: Renew) -> None:
    started = time.monotonic()
    calls = (
        store.insert(new_task()),
        store.replace(claimed(task)),
        store.get(task.task_ref),
        store.claimable(["report"], 5),
        store.overdue(NOW, 5),
        store.purge(NOW, 5),
        store.list(TaskQuery()),
        store.count(),
        store.versions([task.task_ref]),
        store.time(),
        store.replace(claimed(task), records=(_RECORD,)),
        store.get_record("webhook", "k"),
        store.put_record(_RECORD),
        store.remove_record(_RECORD),
        store.records(RecordQuery("webhook")),
        *(renew("w", {task.task_ref: 1}, after(30)) for renew in (*renewals, store.renew)),
    )
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - started < seconds + 0.5
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    for answer in answers:
        assert isinstance(answer, StoreUnavailable)
        assert answer.retryable
        assert answer.message.startswith("The task store redis://127.0.0.1:")
        assert "\n" not in answer.message


async def _works(store: RedisStore, task: Task, renew: Renew) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(StoreUnavailable):
                assert await renew("w", {task.task_ref: 1}, after(30)) == {task.task_ref}
                return


async def test_a_frozen_server_is_an_error_in_time_and_does_later_nothing_that_was_refused(
    redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    store = make_redis(redis_server.url, timeout_seconds=0.5)
    await store.open()
    task = await stored(store)
    async with elsewhere(store) as renew:
        await renew("w", {task.task_ref: 1}, after(30))
        redis_server.freeze()
        await _refused_in_time(store, 0.5, task, renew)
        await _refused_in_time(store, 0.5, task, renew)
        redis_server.thaw()
        await _works(store, task, renew)
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(StoreUnavailable):
                await store.get(task.task_ref)
                break
    # A command that arrived in the frozen server's buffers has been executed by now, before this one.
    with contextlib.closing(redis_server.client()) as client:
        await asyncio.to_thread(client.ping)
    assert await store.get(task.task_ref) == task
    assert await store.get_record("webhook", "k") is None
    assert (await store.count())[TaskStatus.PENDING] == 1
    assert await store.replace(claimed(task))
    assert await store.renew("worker-1", {task.task_ref: 1}, after(60)) == set()


async def test_a_black_hole_is_an_error_in_time_and_its_end_the_end_of_it(
    redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    async with TcpProxy(redis_server.port) as proxy:
        store = make_redis(f"redis://127.0.0.1:{proxy.port}/0", timeout_seconds=0.5)
        await store.open()
        task = await stored(store)
        proxy.black_hole()
        await _refused_in_time(store, 0.5, task)
        proxy.heal()
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(StoreUnavailable):
                    assert await store.get(task.task_ref) == task
                    break
        assert (await store.count())[TaskStatus.PENDING] == 1
        await store.close()


async def test_a_server_that_is_gone_is_an_error_in_time_and_its_return_the_end_of_it(
    redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    store = make_redis(redis_server.url, timeout_seconds=0.5)
    await store.open()
    task = await stored(store)
    async with elsewhere(store) as renew:
        await renew("w", {task.task_ref: 1}, after(30))
        redis_server.kill()
        await _refused_in_time(store, 0.5, task, renew)
        redis_server.start()
        await _works(store, task, renew)
    redis_server.kill()
    with pytest.raises(StoreUnavailable, match="cannot be reached: connection refused"):
        await store.get(task.task_ref)
    redis_server.start()
    assert await store.get(task.task_ref) == task
    assert await store.replace(claimed(task))


async def test_listeners_are_told_to_look_after_a_lost_connection(
    redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    async with TcpProxy(redis_server.port) as proxy:
        store, other = make_redis(f"redis://127.0.0.1:{proxy.port}/0", poll_interval=60), make_redis(redis_server.url)
        await store.open()
        await other.open()
        heard: asyncio.Queue[object] = asyncio.Queue()
        end = store.subscribe(heard.put_nowait)
        async with asyncio.timeout(PATIENCE):
            assert await heard.get() is None
            proxy.reset()
            assert await heard.get() is None
            task = await stored(other)
            assert await heard.get() == task.task_ref
        end()
        await store.close()


async def test_a_refused_write_does_not_silence_those_it_was_sent_with(
    redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    store, other = make_redis(redis_server.url), make_redis(redis_server.url, poll_interval=60)
    await store.open()
    await other.open()
    taken = await stored(store, idempotency_key="k")
    heard: asyncio.Queue[object] = asyncio.Queue()
    end = other.subscribe(heard.put_nowait)
    async with asyncio.timeout(PATIENCE):
        assert await heard.get() is None
        for refused in (lambda: store.insert(new_task(idempotency_key="k")), lambda: store.replace(taken)):
            task = new_task()
            await asyncio.gather(store.insert(task), refused())
            while await heard.get() != task.task_ref:
                pass
    end()


async def test_a_clock_that_was_set_delays_nobody(redis_server: RedisServer, make_redis: MakeRedis) -> None:
    store = make_redis(redis_server.url)
    await store.open()
    clock = cast(Any, store)._clock
    task = new_task()
    calls = (
        lambda: store.insert(task),
        lambda: store.replace(claimed(task)),
        lambda: store.renew("worker-1", {task.task_ref: 1}, after(60)),
        lambda: store.purge(NOW, 5),
    )
    for call, expected in zip(calls, ((task, True), True, set[str](), 0), strict=True):
        # As if the server's had jumped forward by years.
        clock.set(0.0, time.monotonic())
        async with asyncio.timeout(2):
            assert await call() == expected


async def test_listeners_are_told_to_look_now_and_then_in_any_case(
    redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    store = make_redis(redis_server.url, poll_interval=0.05)
    await store.open()
    heard: asyncio.Queue[object] = asyncio.Queue()
    end = store.subscribe(heard.put_nowait)
    async with asyncio.timeout(PATIENCE):
        assert [await heard.get() for _ in range(4)] == [None] * 4
    end()


async def test_callers_that_give_up_harm_nobody_while_the_server_is_frozen(
    redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    store = make_redis(redis_server.url)
    await store.open()
    task = await stored(store)
    redis_server.freeze()
    calls = [asyncio.ensure_future(store.get(task.task_ref)) for _ in range(20)]
    calls += [asyncio.ensure_future(store.get("nope")) for _ in range(20)]
    await asyncio.sleep(0.05)
    for call in calls[:20]:
        call.cancel()
    redis_server.thaw()
    async with asyncio.timeout(PATIENCE):
        answers = await asyncio.gather(*calls[20:])
    assert answers == [None] * 20
    assert await store.get(task.task_ref) == task


# Servers that refuse.


async def test_scripts_that_the_server_forgot_are_sent_again(redis_server: RedisServer, make_redis: MakeRedis) -> None:
    store = make_redis(redis_server.url)
    await store.open()
    with contextlib.closing(redis_server.client()) as client:
        client.script_flush()
        answers = await asyncio.gather(*(store.insert(new_task()) for _ in range(20)))
        assert all(answer.created for answer in answers)
        task = claimed(answers[0].task)
        client.script_flush()
        assert await store.replace(task)
        client.script_flush()
        assert await store.renew("worker-1", {task.task_ref: 1}, after(60)) == set()
        client.script_flush()
        assert len(await store.list(TaskQuery())) == 20


async def test_so_many_leases_that_one_script_renews_a_part_of_them(
    redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    store = make_redis(redis_server.url)
    await store.open()
    held = {(await store.insert(new_task())).task.task_ref for _ in range(3)}
    for ref in held:
        task = await store.get(ref)
        assert task is not None
        assert await store.replace(claimed(task))
    gone = [f"gone-{number}" for number in range(900)]
    leases = dict.fromkeys([*gone[:300], *held, *gone[300:]], 1)
    assert await store.renew("worker-1", leases, after(60)) == set(gone)


async def test_a_full_server_refuses_what_is_new_and_keeps_what_it_has(
    redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    store = make_redis(redis_server.url)
    await store.open()
    old = await cancelled(store)
    task = await stored(store, idempotency_key="k")
    before = await keys(redis_server.url, "mcp_task:")
    with contextlib.closing(redis_server.client()) as client:
        client.config_set("maxmemory", 1)
        for call in (store.insert(new_task(idempotency_key="l")), store.replace(claimed(task))):
            with pytest.raises(StoreUnavailable, match="is full: it has used its maxmemory"):
                await call
        assert (await keys(redis_server.url, "mcp_task:")).keys() == before.keys()
        assert await store.get(task.task_ref) == task
        # What makes room is done.
        assert await store.purge(after(60), 10) == 1
        assert await store.get(old.task_ref) is None
        client.config_set("maxmemory", 0)
    assert await store.replace(claimed(task))
    assert (await store.insert(new_task(idempotency_key="l"))).created


async def test_a_server_that_became_a_replica_refuses_writes_until_it_is_a_primary(
    redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    store = make_redis(redis_server.url)
    await store.open()
    task = await stored(store)
    with contextlib.closing(redis_server.client()) as client:
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(StoreUnavailable, match="read-only replica: connect to the primary"):
            await store.replace(claimed(task))
        with pytest.raises(StoreUnavailable, match="read-only replica: connect to the primary"):
            await make_redis(redis_server.url).open()
        client.replicaof("NO", "ONE")
    assert await store.replace(claimed(task))


async def test_keys_of_another_program_are_refused(redis_server: RedisServer, make_redis: MakeRedis) -> None:
    with contextlib.closing(redis_server.client()) as client:
        client.hset("mcp_task:{rc}:due", "a", "b")
    with pytest.raises(StoreUnusable, match="keys of another program under key_prefix"):
        await make_redis(redis_server.url).open()
    other = make_redis(redis_server.url, key_prefix="other:")
    await other.open()
    with contextlib.closing(redis_server.client()) as client:
        client.set("other:{rc}:task:x", "text", ex=60)
    with pytest.raises(StoreUnusable, match="keys of another program"):
        await other.get("x")


async def test_tasks_of_a_newer_layout_are_left_alone(redis_server: RedisServer, make_redis: MakeRedis) -> None:
    store = make_redis(redis_server.url)
    await store.open()
    with contextlib.closing(redis_server.client()) as client:
        client.set("mcp_task:{rc}:layout", "3", ex=60)
    said = "has layout '3', this raincheck knows layout 1: upgrade raincheck or set another key_prefix"
    with pytest.raises(StoreUnusable, match=said):
        await store.insert(new_task())
    with pytest.raises(StoreUnusable, match=said):
        await make_redis(redis_server.url).open()


async def test_a_value_that_no_server_takes_leaves_no_trace(redis_server: RedisServer, make_redis: MakeRedis) -> None:
    store = make_redis(redis_server.url)
    await store.open()
    task = await stored(store)
    with pytest.raises(TypeError):
        await store.replace(transition(claimed(task), Settle(fence=1, outcome=Outcome(value=NOW)), NOW))
    assert await store.get(task.task_ref) == task


async def test_a_server_that_loads_its_data_is_waited_for(make_redis: MakeRedis) -> None:
    needed(RedisServer.missing())
    server = RedisServer("--key-load-delay", "200")
    try:
        server.start()
        store = make_redis(server.url, timeout_seconds=20)
        await store.open()
        tasks = await asyncio.gather(*(stored(store) for _ in range(500)))
        server.kill()
        starting = asyncio.create_task(asyncio.to_thread(server.start))
        waiting = [asyncio.create_task(store.get(task.task_ref)) for task in tasks]
        refused: set[str] = set()
        while not starting.done():
            try:
                await make_redis(server.url).open()
            except StoreUnavailable as error:
                refused.add(error.message)
        await starting
        assert f"The task store {server.url} is loading its data." in refused
        assert await asyncio.gather(*waiting) == tasks
    finally:
        server.close()
