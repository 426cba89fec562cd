"""A Redis store over the keys of the release before, as that release wrote them (redis_layout_1.json)."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stores.backends import server_of
from stores.conftest import MakeRedis
from stores.records import apply, claimed, stored
from stores.records import new_task as task_of_today
from stores.redis_keys import keys, leftovers

from raincheck.domain.task import InputRequest, Outcome, Progress, Task, TaskStatus
from raincheck.domain.transitions import AskInput, Claim, Event, ReportProgress, SaveCheckpoint, Settle, transition
from raincheck.errors import StoreUnusable
from raincheck.ports.task_store import Inserted
from support.servers.redis import RedisServer
from support.servers.server import needed

# When they were recorded.
THEN = datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC)
PREFIX = "old:"
LAYOUT = "old:{rc}:layout"


def after(seconds: float) -> datetime:
    return THEN + timedelta(seconds=seconds)


def new_task(**changes: Any) -> Task:
    return task_of_today(**{"created_at": THEN, **changes})


@pytest.fixture
def server() -> RedisServer:
    """The one that all tests share, with three tasks of layout 1 in its database 2."""
    needed(RedisServer.missing())
    server = server_of(RedisServer)
    assert isinstance(server, RedisServer)
    server.flush(2)
    commands = json.loads((Path(__file__).parent / "redis_layout_1.json").read_text())
    with contextlib.closing(server.client(2)) as client:
        for *command, milliseconds in commands:
            client.execute_command(*command)
            client.pexpire(command[1], milliseconds)
    return server


@pytest.fixture
def url(server: RedisServer) -> str:
    return server.database(2)


def _layout(server: RedisServer) -> tuple[bytes, int]:
    with contextlib.closing(server.client(2)) as client:
        return client.get(LAYOUT), client.pttl(LAYOUT)


def _after(task: Task, *events: Event, seconds: float) -> Task:
    for event in events:
        task = transition(task, event, after(seconds))
    return task


def _tasks() -> tuple[Task, Task, Task]:
    claim = Claim(worker_id="w", lease_until=after(30))
    waits = new_task(task_ref="waits", idempotency_key="k")
    runs = new_task(task_ref="runs", arguments={"a": "x" * 1500}, created_at=after(1), retry_when_lost=True)
    question = InputRequest(key="q", method="elicitation/create", params={"message": "?"})
    half = ReportProgress(fence=1, progress=Progress(fraction=0.5, message="half"))
    runs = _after(runs, claim, half, AskInput(fence=1, requests=(question,)), seconds=2)
    done = new_task(task_ref="done", created_at=after(3), scope="bob b", idempotency_key="k")
    return waits, runs, _after(done, claim, Settle(fence=1, outcome=Outcome(value="y" * 1500)), seconds=4)


async def test_tasks_of_the_release_before_go_on(make_redis: MakeRedis, url: str) -> None:
    store = make_redis(url, key_prefix=PREFIX)
    await store.open()
    waits, runs, done = _tasks()
    for task in (waits, runs, done):
        assert await store.get(task.task_ref) == task
    assert [each.task_ref for each in await store.list()] == ["done", "runs", "waits"]
    assert await store.insert(new_task(idempotency_key="k")) == Inserted(waits, created=False)
    urgent = await stored(store, created_at=after(5), priority=1)
    assert list(await store.claimable(["report"], 5)) == [urgent, waits]
    assert list(await store.overdue(after(30), 5)) == [runs]
    saved = await apply(store, runs, SaveCheckpoint(fence=1, checkpoint={"job": "j" * 2000}), at=after(6))
    assert await store.get("runs") == saved
    assert await store.replace(claimed(waits, at=THEN))
    assert await store.purge(after(64), 10) == 1
    assert (await store.count())[TaskStatus.COMPLETED] == 0
    await store.close()
    assert await leftovers(url, PREFIX) == []


async def test_an_upgrade_marks_the_keys_so_that_the_release_before_leaves_them_alone(
    make_redis: MakeRedis, url: str, server: RedisServer
) -> None:
    before = await keys(url, PREFIX)
    await make_redis(url, key_prefix=PREFIX).open()
    layout, left = _layout(server)
    assert layout == b"2"
    assert before[LAYOUT.encode()] - 10_000 < left <= before[LAYOUT.encode()]
    assert (await keys(url, PREFIX)).keys() == before.keys()


async def test_a_layout_that_may_not_be_upgraded_is_refused(
    make_redis: MakeRedis, url: str, server: RedisServer
) -> None:
    with pytest.raises(StoreUnusable) as refusal:
        await make_redis(url, key_prefix=PREFIX, migrate=False).open()
    assert refusal.value.message == (
        f"The task store {url} has layout '1', this raincheck needs layout 2: run \"raincheck store migrate\"."
    )
    assert _layout(server)[0] == b"1"
    await make_redis(url, key_prefix=PREFIX).open()
    await make_redis(url, key_prefix=PREFIX, migrate=False).open()


async def test_a_mark_that_the_release_before_set_later_is_upgraded_by_the_next_write(
    make_redis: MakeRedis, url: str, server: RedisServer
) -> None:
    store = make_redis(url, key_prefix=PREFIX)
    await store.open()
    with contextlib.closing(server.client(2)) as client:
        # As it does in an empty store.
        client.set(LAYOUT, "1", keepttl=True)
    await stored(store)
    assert _layout(server)[0] == b"2"
