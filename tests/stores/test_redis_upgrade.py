"""Keys of an older layout: upgraded by a made-up step of the next release, once however many processes start."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from stores.backends import server_of
from stores.conftest import MakeRedis
from stores.records import stored

from raincheck.errors import StoreError, StoreUnusable
from raincheck.stores.redis import scripts
from support.servers.redis import RedisServer
from support.servers.server import needed

# To be taken once.
STEP = "redis.call('INCR', root .. 'steps')"
PREFIX = "old:"


@pytest.fixture
def server() -> RedisServer:
    """The one that all tests share; its database 2 is empty."""
    needed(RedisServer.missing())
    server = server_of(RedisServer)
    assert isinstance(server, RedisServer)
    server.flush(2)
    return server


@pytest.fixture
def url(server: RedisServer) -> str:
    return server.database(2)


@pytest.fixture
def next_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its `open` on, a store is as one of a release that has one step more."""
    monkeypatch.setattr(scripts, "STEPS", (STEP,))
    monkeypatch.setattr(scripts, "LAYOUT", 2)


def _stored(server: RedisServer, name: str) -> tuple[bytes | None, int]:
    with contextlib.closing(server.client(2)) as client:
        key = f"{PREFIX}{{rc}}:{name}"
        return client.get(key), client.pttl(key)


@pytest.fixture
async def task_ref(make_redis: MakeRedis, url: str) -> str:
    """A task that this release wrote."""
    with pytest.MonkeyPatch.context() as present:
        present.setattr(scripts, "STEPS", ())
        present.setattr(scripts, "LAYOUT", 1)
        store = make_redis(url, key_prefix=PREFIX)
        await store.open()
        return (await stored(store)).task_ref


@pytest.mark.usefixtures("next_release")
async def test_processes_that_start_at_once_take_a_step_once_and_the_tasks_stay(
    make_redis: MakeRedis, url: str, server: RedisServer, task_ref: str
) -> None:
    before = _stored(server, "layout")
    assert before[0] == b"1"
    stores = [make_redis(url, key_prefix=PREFIX) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    after = _stored(server, "layout")
    assert after[0] == b"2"
    assert before[1] - 10_000 < after[1] <= before[1]
    assert _stored(server, "steps")[0] == b"1"
    for store in stores:
        found = await store.get(task_ref)
        assert found is not None
    await make_redis(url, key_prefix=PREFIX).open()
    assert _stored(server, "steps")[0] == b"1"


@pytest.mark.usefixtures("next_release", "task_ref")
async def test_a_layout_that_may_not_be_upgraded_is_refused(
    make_redis: MakeRedis, url: str, server: RedisServer
) -> None:
    with pytest.raises(StoreUnusable) as refusal:
        await make_redis(url, key_prefix=PREFIX, migrate=False).open()
    assert refusal.value.message == (
        f"The task store {url} has layout '1', this raincheck needs layout 2: run \"raincheck store migrate\"."
    )
    assert _stored(server, "layout")[0] == b"1"
    await make_redis(url, key_prefix=PREFIX).open()
    await make_redis(url, key_prefix=PREFIX, migrate=False).open()


@pytest.mark.usefixtures("next_release", "task_ref")
async def test_a_step_that_fails_half_way_leaves_the_layout_and_runs_again(
    make_redis: MakeRedis, url: str, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "STEPS", (f"{STEP} error('half-way')",))
    with pytest.raises(StoreError, match="failed: user_script"):
        await make_redis(url, key_prefix=PREFIX).open()
    assert [_stored(server, key)[0] for key in ("layout", "steps")] == [b"1", b"1"]
    monkeypatch.setattr(scripts, "STEPS", (STEP,))
    await make_redis(url, key_prefix=PREFIX).open()
    assert [_stored(server, key)[0] for key in ("layout", "steps")] == [b"2", b"2"]


@pytest.mark.usefixtures("task_ref")
async def test_a_running_process_writes_no_more_once_the_keys_are_of_the_next_layout(
    make_redis: MakeRedis, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make_redis(url, key_prefix=PREFIX)
    await running.open()
    with monkeypatch.context() as later:
        later.setattr(scripts, "STEPS", (STEP,))
        later.setattr(scripts, "LAYOUT", 2)
        await make_redis(url, key_prefix=PREFIX).open()
    with pytest.raises(StoreUnusable, match="has layout '2', this raincheck knows layout 1: upgrade raincheck"):
        await stored(running)
