"""The records and the room of a Redis store: what its server keeps of them, and when that goes."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import pytest
from stores.backends import server_of
from stores.conftest import MakeRedis
from stores.records import NOW, after, cancelled, claimed, new_task, settled, stored
from stores.redis_keys import keys, leftovers

from raincheck.domain.task import KeyKind
from raincheck.errors import QueueFull, StoreUnavailable, StoreUnusable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import PendingLimit, TaskQuery
from raincheck.stores.redis.store import RedisStore
from raincheck.timing.clock import utc_now
from support.servers.redis import RedisServer
from support.servers.server import needed

PREFIX = "t1:"
DAY = 86_400_000


def record(key: str = "k", **changes: Any) -> Record:
    members: dict[str, Any] = {"kind": "sketch", "key": key, "value": 1, "expires_at": after(60)}
    return Record(**{**members, **changes})


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


def _key(suffix: str) -> bytes:
    return f"{PREFIX}{{rc}}:{suffix}".encode()


async def test_a_record_outlives_its_moment_by_a_day_and_an_index_its_records(store: RedisStore, url: str) -> None:
    # Redis counts on its own clock, and this test's tasks are of another time.
    soon, later = utc_now() + timedelta(hours=1), utc_now() + timedelta(days=30)
    assert await store.put_record(record("later", expires_at=later, due_at=later))
    assert await store.put_record(record("soon", expires_at=soon, due_at=soon))
    assert await store.put_record(record("past", expires_at=NOW))
    left = await keys(url, PREFIX)
    hour = 3_600_000
    assert DAY + hour - 60_000 < left[_key("record:sketch:soon")] <= DAY + hour
    assert DAY - 60_000 < left[_key("record:sketch:past")] <= DAY
    longest = left[_key("record:sketch:later")]
    assert 31 * DAY - 60_000 < longest <= 31 * DAY
    indexes = ("records:sketch", "records-due:sketch", "records-expiring", "kinds", "layout")
    assert left.keys() == {*map(_key, indexes), *(_key(f"record:sketch:{name}") for name in ("later", "soon", "past"))}
    assert min(left[_key(index)] for index in indexes) > longest


async def test_a_record_that_never_expires_keeps_what_leads_to_it(store: RedisStore, url: str) -> None:
    assert await store.put_record(record("brief", due_at=NOW))
    assert await store.put_record(record("kept", expires_at=None, due_at=NOW))
    years = 99 * 365 * DAY
    left = await keys(url, PREFIX)
    lasting = ("record:sketch:kept", "records:sketch", "records-due:sketch", "kinds", "layout")
    assert {key for key, ms in left.items() if ms > years} == set(map(_key, lasting))
    # It may be told otherwise.
    assert await store.put_record(record("kept", version=2, expires_at=after(9)))
    assert (await keys(url, PREFIX))[_key("record:sketch:kept")] <= DAY
    await store.purge(after(60), 10)
    assert await keys(url, PREFIX) == {}


async def test_records_that_expired_by_themselves_leave_the_indexes_when_they_are_met(
    store: RedisStore, url: str, server: RedisServer
) -> None:
    names = [f"k{number:02}" for number in range(30)]
    for number, name in enumerate(names):
        assert await store.put_record(record(name, due_at=after(number)))
    kept = record("kept", kind="webhook", expires_at=None, due_at=NOW)
    assert await store.put_record(kept)
    with contextlib.closing(server.client(1)) as client:
        client.delete(*(_key(f"record:sketch:{name}") for name in names[:20]))
        assert [each.key for each in await store.records(RecordQuery("sketch", due=after(99), limit=5))] == names[20:25]
        assert client.zcard(_key("records-due:sketch")) == client.zcard(_key("records:sketch")) == 10
        assert client.zcard(_key("records-expiring")) == 10
        client.delete(*(_key(f"record:sketch:{name}") for name in names[20:]))
        assert list(await store.records(RecordQuery("sketch", limit=5))) == []
        assert client.smembers(_key("kinds")) == {b"webhook"}
        assert await store.put_record(record("gone", due_at=NOW))
        client.delete(_key("record:sketch:gone"))
    await store.purge(after(60), 10)
    lasting = ("record:webhook:kept", "records:webhook", "records-due:webhook", "kinds", "layout")
    assert (await keys(url, PREFIX)).keys() == set(map(_key, lasting))
    assert await store.get_record("webhook", "kept") == kept


async def test_a_purge_of_many_records_takes_as_many_as_it_was_told(store: RedisStore) -> None:
    await asyncio.gather(*(store.put_record(record(f"k{number}")) for number in range(450)))
    for number in range(3):
        await cancelled(store, idempotency_key=f"k{number}")
    assert await store.purge(after(60), 250) == 3
    assert len(await store.records(RecordQuery("sketch", limit=1000))) == 200
    assert await store.purge(after(60), 1000) == 0
    assert list(await store.records(RecordQuery("sketch"))) == []


async def test_a_removed_record_is_known_for_two_minutes_and_no_longer(store: RedisStore, url: str) -> None:
    assert await store.put_record(record())
    assert await store.remove_record(record())
    left = await keys(url, PREFIX)
    assert left.keys() == {_key("record:sketch:k")}
    assert 0 < left[_key("record:sketch:k")] <= 120_000
    assert await store.get_record("sketch", "k") is None
    assert not await store.remove_record(record(version=0))
    assert await leftovers(url, PREFIX) == []
    assert await store.put_record(record(value=2))
    assert await store.get_record("sketch", "k") == record(value=2)


async def test_a_full_server_refuses_new_records_and_permits_what_makes_room(
    redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    store = make_redis(redis_server.url)
    await store.open()
    task = claimed(await stored(store))
    assert await store.replace(task)
    assert await store.put_record(record("old"))
    assert await store.put_record(record("older"))
    with contextlib.closing(redis_server.client()) as client:
        client.config_set("maxmemory", 1)
        for call in (
            store.put_record(record("new", due_at=NOW)),
            store.put_record(record("old", version=2)),
            store.replace(settled(task), records=(record("with it", kind="webhook"),)),
        ):
            with pytest.raises(StoreUnavailable, match="is full: it has used its maxmemory"):
                await call
        assert [each.key for each in await store.records(RecordQuery("sketch"))] == ["old", "older"]
        assert await store.get_record("webhook", "with it") is None
        assert await store.get(task.task_ref) == task
        assert await store.remove_record(record("old"))
        await store.purge(after(60), 10)
        assert list(await store.records(RecordQuery("sketch"))) == []
        client.config_set("maxmemory", 0)
    assert await store.replace(settled(task), records=(record("with it", kind="webhook"),))


async def test_records_of_a_newer_layout_are_left_alone(store: RedisStore, server: RedisServer) -> None:
    assert await store.put_record(record())
    with contextlib.closing(server.client(1)) as client:
        client.set(_key("layout"), "3", keepttl=True)
        for call in (
            store.put_record(record("new")),
            store.put_record(record(version=2)),
            store.remove_record(record()),
        ):
            with pytest.raises(StoreUnusable, match="has layout '3', this raincheck knows layout 1"):
                await call
    assert await store.get_record("sketch", "k") == record()


async def test_a_value_that_is_no_json_leaves_no_trace(store: RedisStore, url: str) -> None:
    task = await stored(store)
    for call in (store.put_record(record(value=NOW)), store.replace(claimed(task), records=(record(value={1, 2}),))):
        with pytest.raises(TypeError):
            await call
    assert await store.get(task.task_ref) == task
    assert not any(b":record" in key for key in await keys(url, PREFIX))


# Room and priorities.


async def _reads(server: RedisServer, call: Any) -> int:
    """How many commands the server ran for it."""
    with contextlib.closing(server.client(1)) as client:
        before = client.info("commandstats")
        with contextlib.suppress(QueueFull):
            await call
        later = client.info("commandstats")
    return sum(each["calls"] - before.get(name, {"calls": 0})["calls"] for name, each in later.items())


async def test_room_and_priorities_cost_no_more_with_many_tasks(store: RedisStore, server: RedisServer) -> None:
    async def costs() -> list[int]:
        pending_limit = PendingLimit(total=3, per_scope=3)
        return [
            await _reads(server, store.insert(new_task(), pending_limit=pending_limit)),
            await _reads(server, store.claimable(["report"], 4)),
        ]

    for priority in (0, 0, 9):
        await stored(store, priority=priority)
    few = await costs()
    await asyncio.gather(*(stored(store, priority=number % 2 * 9) for number in range(1000)))
    many = await costs()
    assert max(more - less for more, less in zip(many, few, strict=True)) <= 5


async def test_an_operation_of_many_priorities_is_listed_and_counted_as_one(store: RedisStore) -> None:
    tasks = [await stored(store, priority=number * 50 - 100, created_at=after(number)) for number in range(5)]
    done = await cancelled(store, priority=7, operation_type="report!7", created_at=after(9))
    found = await store.list(TaskQuery(operation_type="report"))
    assert [each.task_ref for each in found] == [task.task_ref for task in reversed(tasks)]
    assert [each.task_ref for each in await store.list(TaskQuery(operation_type="report!7"))] == [done.task_ref]
    assert sum((await store.count()).values()) == 6
    with pytest.raises(QueueFull):
        await store.insert(new_task(), pending_limit=PendingLimit(per_scope=5))
    assert list(await store.claimable(["report"], 9)) == list(reversed(tasks))


async def test_a_task_of_a_priority_that_expired_by_itself_leaves_its_lists(
    store: RedisStore, url: str, server: RedisServer
) -> None:
    task = await stored(store, priority=5)
    with contextlib.closing(server.client(1)) as client:
        client.delete(_key(f"task:{task.task_ref}"))
    assert list(await store.overdue(after(10**5), 5)) == []
    assert await keys(url, PREFIX) == {}
    assert (await store.insert(new_task(), pending_limit=PendingLimit(1, 1))).created


async def test_a_key_of_a_call_under_way_goes_with_the_task_that_has_it(store: RedisStore, url: str) -> None:
    key: dict[str, Any] = {"idempotency_key": "f", "key_kind": KeyKind.INFLIGHT}
    first = await cancelled(store, **key)
    second = await cancelled(store, **key, created_at=after(1))
    holders = [each for each in await keys(url, PREFIX) if b":key:" in each]
    assert len(holders) == 1
    # Of the first, nothing but the task itself goes; then the last one takes the key along.
    assert await store.purge(first.expires_at or NOW, 10) == 1
    assert [each for each in await keys(url, PREFIX) if b":key:" in each] == holders
    assert await store.purge(second.expires_at or NOW, 10) == 1
    assert await keys(url, PREFIX) == {}
