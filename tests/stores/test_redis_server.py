"""What the Redis store asks of its server, and what it leaves there: settings, keys, slots, connections, expiry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import Generator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from stores.backends import server_of
from stores.conftest import MakeRedis
from stores.records import NOW, after, apply, cancelled, new_task, stored
from stores.redis_keys import keys
from stores.renewals import elsewhere

from raincheck.domain.task import KeyKind, Outcome, Progress, TaskStatus
from raincheck.domain.transitions import Cancel, Claim, ReportProgress, Settle, transition
from raincheck.errors import StoreUnusable
from raincheck.ports.records import Record
from raincheck.ports.task_store import TaskQuery
from raincheck.stores.redis import store as redis_store
from raincheck.stores.redis.scripts import SCRIPTS
from raincheck.stores.redis.store import RedisStore
from support.servers.redis import RedisServer
from support.servers.server import free_port, needed
from support.waiting import PATIENCE

PREFIX = "t1:"


@pytest.fixture
def server() -> RedisServer:
    """The one that all tests share, empty."""
    needed(RedisServer.missing())
    server = server_of(RedisServer)
    assert isinstance(server, RedisServer)
    server.flush(1)
    return server


@pytest.fixture
def url(server: RedisServer) -> str:
    return server.database(1)


@pytest.fixture
async def store(url: str, make_redis: MakeRedis) -> RedisStore:
    store = make_redis(url, key_prefix=PREFIX)
    await store.open()
    return store


@contextlib.contextmanager
def _server(*options: str, appendonly: bool = True) -> Generator[RedisServer]:
    needed(RedisServer.missing())
    server = RedisServer(*options, appendonly=appendonly)
    try:
        server.start()
        yield server
    finally:
        server.close()


async def _busy(store: RedisStore) -> None:
    """Tasks in every status, under strange names, with and without keys and large parts."""
    for scope, operation in (("ada", "report"), ("a:b {x} \ud800", "é:"), ("", "x" * 200)):
        for size in (1, 3000):
            arguments = {"a": "x" * size}
            made: dict[str, Any] = {"scope": scope, "operation_type": operation, "arguments": arguments}
            claim = Claim(worker_id="w w", lease_until=after(30))
            await stored(store, **made, idempotency_key=f"k:{size}")
            task = await apply(store, await stored(store, **made), claim)
            await apply(store, task, ReportProgress(fence=1, progress=Progress(fraction=0.5)))
            await store.renew("w w", {task.task_ref: 1}, after(90))
            await apply(
                store,
                await stored(store, **made),
                claim,
                Settle(fence=1, outcome=Outcome(value="x" * size)),
                at=after(9),
            )
            await stored(store, **made, priority=size % 100, callback_url="https://example.com/é")
            await cancelled(store, **made, idempotency_key=f"f{size}", key_kind=KeyKind.INFLIGHT)
            record = Record(
                kind="webhook", key=f"{operation.encode('ascii', 'replace').decode()} {size}", value="x" * size
            )
            assert await store.put_record(replace(record, due_at=NOW, expires_at=after(9)))
            assert await store.remove_record(record) is True
            assert await store.replace(
                transition(await stored(store, **made), Cancel(), NOW),
                records=(replace(record, due_at=NOW, expires_at=NOW),),
            )


# The server's settings.


@pytest.mark.parametrize(
    ("policy", "limit", "usable"),
    [
        ("allkeys-lru", "0", False),
        ("allkeys-random", "100mb", False),
        ("volatile-lru", "100mb", False),
        ("volatile-ttl", "0", True),
        ("noeviction", "100mb", True),
    ],
)
async def test_a_server_that_would_evict_tasks_is_refused(
    make_redis: MakeRedis, policy: str, limit: str, usable: bool
) -> None:
    with _server("--maxmemory-policy", policy, "--maxmemory", limit) as server:
        store = make_redis(server.url)
        if usable:
            await store.open()
            await stored(store)
            await store.close()
        else:
            with pytest.raises(StoreUnusable) as refusal:
                await store.open()
            assert refusal.value.message == (
                f"The task store {server.url} would evict tasks when its memory is full (maxmemory-policy is {policy}):"
                " set maxmemory-policy to noeviction."
            )


@pytest.mark.parametrize(
    ("appendonly", "options", "level", "said"),
    [
        (False, ("--save", ""), logging.WARNING, "keeps nothing on disk: its restart loses every task"),
        (False, ("--save", "60 1"), logging.WARNING, "writes no append-only file"),
        (True, ("--appendfsync", "everysec"), logging.INFO, "a power cut may take the last second's tasks"),
        (True, ("--appendfsync", "always"), logging.INFO, None),
    ],
)
async def test_what_a_restart_or_a_power_cut_would_lose_is_logged(
    make_redis: MakeRedis,
    caplog: pytest.LogCaptureFixture,
    appendonly: bool,
    options: tuple[str, ...],
    level: int,
    said: str | None,
) -> None:
    caplog.set_level(logging.INFO, logger="raincheck")
    with _server(*options, appendonly=appendonly) as server:
        store = make_redis(server.url)
        await store.open()
        await store.close()
    found = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert len(found) == (said is not None)
    assert all(number == level and said is not None and said in message for number, message in found)


async def test_settings_that_may_not_be_read_are_done_without(
    make_redis: MakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    with _server("--rename-command", "CONFIG", "") as server:
        store = make_redis(server.url)
        await store.open()
        await _busy(store)
        await store.close()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_a_user_needs_no_more_than_is_said(make_redis: MakeRedis, url: str, server: RedisServer) -> None:
    with contextlib.closing(server.client(1)) as client:
        rules = "on >secret resetkeys resetchannels -@all ~t1:* &t1:* +@read +@write +@scripting +@pubsub +@connection"
        client.execute_command("ACL", "SETUSER", "rain", *rules.split(), "+info", "+time")
        store = make_redis(url.replace("redis://", "redis://rain:secret@"), key_prefix=PREFIX)
        await store.open()
        end = store.subscribe(lambda change: None)
        await _busy(store)
        assert await store.purge(after(10**6), 100) == 18
        end()
        client.execute_command("ACL", "SETUSER", "rain", "-evalsha")
        with pytest.raises(Exception, match="does not permit what is needed: grant its user") as refusal:
            await stored(store)
        assert "secret" not in str(refusal.value)
        await store.close()
        client.execute_command("ACL", "DELUSER", "rain")


# Clusters.


async def test_all_keys_of_a_busy_store_are_in_one_slot(store: RedisStore, url: str) -> None:
    await _busy(store)
    found = await keys(url, "")
    assert {key[: len(PREFIX)].decode() for key in found} == {PREFIX}
    kinds = {re.sub(rb"^t1:\{rc\}:(\w+).*", rb"\1", key, flags=re.DOTALL) for key in found}
    assert kinds == {
        *(b"task", b"key", b"list", b"lists", b"due", b"expiring", b"layout"),
        *(b"record", b"records", b"kinds", b"turns"),
    }
    assert len({key_slot(key) for key in found}) == 1


async def test_a_node_of_a_cluster_serves_a_store(make_redis: MakeRedis) -> None:
    with _server("--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        with contextlib.closing(server.client()) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            async with asyncio.timeout(PATIENCE):
                while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO", NEVER_DECODE=True):
                    await asyncio.sleep(0.02)
        store = make_redis(server.url)
        await store.open()
        await _busy(store)
        assert sum((await store.count()).values()) == 36
        assert len(await store.list(TaskQuery(limit=100))) == 36
        assert len(await store.claimable(["report", "é:"], 100)) == 8
        assert len(await store.overdue(after(10**6), 100)) == 18
        assert await store.purge(after(10**6), 100) == 18
        await store.close()


# Keys and their expiry.


async def test_stores_with_different_prefixes_do_not_see_each_other(make_redis: MakeRedis, url: str) -> None:
    first, second = make_redis(url, key_prefix="t1:"), make_redis(url, key_prefix="t1:x:")
    await first.open()
    await second.open()
    heard: list[object] = []
    end = second.subscribe(heard.append)
    task = await stored(first, idempotency_key="k")
    assert await second.get(task.task_ref) is None
    assert list(await second.claimable(["report"], 10)) == []
    assert (await second.insert(new_task(idempotency_key="k"))).created
    assert sum((await second.count()).values()) == 1
    assert task.task_ref not in heard
    end()


async def test_every_key_expires_after_what_was_agreed(store: RedisStore, url: str) -> None:
    week, day, hour = 7 * 86400, 86400, 3600
    task = await stored(store, ttl_seconds=60.0, idempotency_key="k")
    left = await keys(url, PREFIX)
    own = [left[f"{PREFIX}{{rc}}:task:{task.task_ref}".encode()]]
    own += [milliseconds for key, milliseconds in left.items() if b":key:" in key]
    for milliseconds in own:
        assert week + hour + 60 - 60 < milliseconds / 1000 <= week + hour + 60
    await apply(store, task, Cancel())
    left = await keys(url, PREFIX)
    own = [left[f"{PREFIX}{{rc}}:task:{task.task_ref}".encode()]]
    own += [milliseconds for key, milliseconds in left.items() if b":key:" in key]
    for milliseconds in own:
        assert day + 60 - 60 < milliseconds / 1000 <= day + 60
    assert all(each > max(own) for key, each in left.items() if b":task:" not in key and b":key:" not in key)


async def test_an_index_lives_as_long_as_the_longest_of_its_tasks(store: RedisStore, url: str) -> None:
    shuffled = random.Random(3)
    longest = 0
    for _ in range(30):
        days = shuffled.randrange(1, 400)
        longest = max(longest, days)
        await stored(store, deadline_at=after(days * 86400))
        left = await keys(url, PREFIX)
        assert all(ms / 1000 > longest * 86400 for key, ms in left.items() if b":task:" not in key)


async def test_a_retention_beyond_all_measure_is_still_an_expiry(store: RedisStore, url: str) -> None:
    await stored(store, ttl_seconds=1e300)
    done = await cancelled(store, ttl_seconds=10.0**10)
    assert done.expires_at is not None
    assert -1 not in (await keys(url, PREFIX)).values()


async def test_tasks_that_expired_by_themselves_leave_the_indexes_when_they_are_met(
    store: RedisStore, url: str, server: RedisServer
) -> None:
    kept = [await stored(store, created_at=after(1)), await cancelled(store, created_at=after(1))]
    gone = [await stored(store, idempotency_key=f"k{number}") for number in range(20)]
    gone += [await cancelled(store) for _ in range(20)]
    with contextlib.closing(server.client(1)) as client:
        client.delete(*(f"{PREFIX}{{rc}}:task:{task.task_ref}" for task in gone))
    assert [task.task_ref for task in await store.claimable(["report"], 5)] == [kept[0].task_ref]
    assert {task.task_ref for task in await store.list(TaskQuery(limit=10))} == {task.task_ref for task in kept}
    assert len(await store.overdue(after(10**6), 5)) == 1
    assert (await store.insert(new_task(idempotency_key="k0", deadline_at=after(10**7)))).created
    await store.purge(after(10**6), 100)
    assert (await store.count())[TaskStatus.PENDING] == 2
    assert (await store.count())[TaskStatus.CANCELLED] == 0
    with contextlib.closing(server.client(1)) as client:
        assert client.zcard(f"{PREFIX}{{rc}}:due") == 2
        assert client.exists(f"{PREFIX}{{rc}}:expiring") == 0
        assert client.zcard(f"{PREFIX}{{rc}}:list:ada:pending:report") == 2


async def test_a_progress_report_does_not_write_large_parts_again(store: RedisStore, server: RedisServer) -> None:
    task = await stored(store, arguments={"a": "x" * 1_000_000})
    task = await apply(store, task, Claim(worker_id="w", lease_until=after(30)))
    # The connection for reads is there from now on.
    assert len(await store.list(TaskQuery())) == 1
    with contextlib.closing(server.client(1)) as client:
        before = client.info("stats")
        for number in range(20):
            task = await apply(store, task, ReportProgress(fence=1, progress=Progress(fraction=number / 20)))
            assert len(await store.list(TaskQuery())) == 1
        later = client.info("stats")
    for name in ("total_net_input_bytes", "total_net_output_bytes"):
        assert later[name] - before[name] < 50_000
    assert await store.get(task.task_ref) == task


async def test_a_result_of_16_mib_is_stored_and_removed(store: RedisStore, url: str) -> None:
    task = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30)))
    task = await apply(store, task, Settle(fence=1, outcome=Outcome(value="x" * 16 * 1024 * 1024)))
    assert await store.get(task.task_ref) == task
    assert len(await store.list(TaskQuery())) == 1
    assert await store.purge(NOW + timedelta(days=1), 10) == 1
    assert await keys(url, PREFIX) == {}


async def test_any_text_may_be_a_ref(store: RedisStore) -> None:
    refs = ["", " ", "a b c", "x\n+", "\x00", "\ud800", "é" * 1000, "* {y}"]
    for ref in refs:
        await cancelled(store, task_ref=ref, idempotency_key=ref)
    assert [each.task_ref for each in await store.list(TaskQuery())] == sorted(refs, reverse=True)
    assert await store.versions(refs) == dict.fromkeys(refs, 2)
    assert await store.purge(after(60), 100) == len(refs)


# Connections.


async def _connections(server: RedisServer) -> list[dict[str, str]]:
    with contextlib.closing(server.client()) as client:
        found: Any = await asyncio.to_thread(client.client_list)
    return [each for each in found if each["name"] == "raincheck"]


async def test_no_more_connections_than_were_allowed_and_none_is_left(make_redis: MakeRedis) -> None:
    with _server() as server:
        store = make_redis(server.url, pool_size=3)
        await store.open()
        end = store.subscribe(lambda change: None)
        task = await stored(store)
        async with elsewhere(store) as renew:
            await renew("w", {task.task_ref: 1}, after(1))
            await asyncio.gather(*(store.get(task.task_ref) for _ in range(2000)), *(stored(store) for _ in range(500)))
            async with asyncio.timeout(PATIENCE):
                while sum(each["sub"] != "0" for each in await _connections(server)) != 1:
                    await asyncio.sleep(0.01)
            assert len(await _connections(server)) == 3 + 2
        end()
        async with asyncio.timeout(PATIENCE):
            while any(each["sub"] != "0" for each in await _connections(server)):
                await asyncio.sleep(0.01)
        await store.close()
        async with asyncio.timeout(PATIENCE):
            while await _connections(server):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("pool_size", [1, 2])
async def test_any_number_of_callers_share_few_connections(make_redis: MakeRedis, url: str, pool_size: int) -> None:
    store = make_redis(url, key_prefix=PREFIX, pool_size=pool_size)
    await store.open()
    tasks = await asyncio.gather(*(stored(store) for _ in range(300)))
    found = await asyncio.gather(*(store.get(task.task_ref) for task in tasks))
    assert found == tasks


async def test_what_waits_is_sent_together(store: RedisStore, server: RedisServer) -> None:
    with contextlib.closing(server.client(1)) as client:
        before = client.info("stats")["total_reads_processed"]
        await asyncio.gather(*(stored(store) for _ in range(200)))
        assert client.info("stats")["total_reads_processed"] - before < 20


# The package.


def test_scripts_are_files_of_the_package() -> None:
    folder = Path(__file__).parents[2] / "src/raincheck/stores/redis/lua"
    assert {path.stem for path in folder.glob("*.lua")} == {*SCRIPTS, "common", "record", "ranges"}
    for script in SCRIPTS.values():
        assert b"\n--" not in script.text
        assert len(script.sha) == 40


async def test_a_server_that_is_made_a_cache_in_use_and_what_it_evicts_is_told_in_the_log(
    make_redis: MakeRedis, redis_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "_LOOK_SECONDS", 0.0)
    store = make_redis(redis_server.url)
    await store.open()
    await store.time()
    assert not _critical(caplog)
    with contextlib.closing(redis_server.client()) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        for _ in range(2):
            await store.time()
        (told,) = _critical(caplog)
        assert "may evict tasks from now on, and loses them (maxmemory-policy is allkeys-lru)" in told
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)
        for number in range(100):
            client.set(f"filler{number}", "x" * 10_000)
    await store.time()
    assert "has evicted" in _critical(caplog)[1]


def _critical(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
