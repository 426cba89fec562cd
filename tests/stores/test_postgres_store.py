"""What is PostgreSQL's own in its store: text, large payloads, companions, the server's clock, and poolers."""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores.records import after, apply, claimed, new_task, settled, stored

from raincheck.domain.task import InputRequest, Progress, Task, TaskStatus
from raincheck.domain.transitions import AskInput, Claim, ProvideInput, ReportProgress, SaveCheckpoint, transition
from raincheck.errors import QueueFull, StoreError, StoreUnusable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import Cursor, PendingLimit, TaskQuery
from raincheck.stores.postgres.rows import storable, text_from
from raincheck.stores.postgres.store import PostgresStore
from support.servers.postgres import PgBouncer, PostgresServer
from support.servers.server import needed
from support.waiting import PATIENCE


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    needed(PostgresServer.missing())
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    """The server's address, with nothing of raincheck's in the database."""
    yield server.url
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS raincheck CASCADE")
        connection.execute("DROP TABLE IF EXISTS job")


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url)
    await store.open()
    yield store
    await store.close()


# Text.

_SPECIAL = "a\x00\x01\x02\ud7ff\ud800\udabc\udfff\ue000\ue001g0\U0001f600"
texts = st.lists(st.sampled_from(_SPECIAL) | st.characters(), max_size=6).map("".join)


@given(texts, texts)
def test_every_text_can_be_stored_and_keeps_its_order(one: str, other: str) -> None:
    stored_one, stored_other = storable(one), storable(other)
    assert text_from(stored_one) == one
    assert "\x00" not in stored_one
    assert (one < other) == (stored_one.encode() < stored_other.encode())
    assert (one == other) == (stored_one == stored_other)


async def test_strange_refs_are_listed_in_the_order_of_their_code_points(store: PostgresStore) -> None:
    refs = [
        "",
        "\x00",
        "\x01",
        "\x02",
        "a",
        "a\x00",
        "a\x01",
        "é",
        "\ud7ff",
        "\ud800",
        "\udfff",
        "\ue000",
        "\U0001f600",
    ]
    for ref in reversed(refs):
        await stored(store, task_ref=ref)
    assert [task.task_ref for task in await store.claimable(["report"], 50)] == refs
    assert [task.task_ref for task in await store.list(TaskQuery())] == refs[::-1]
    place = Cursor(after(0), "\ud800")
    assert [task.task_ref for task in await store.list(TaskQuery(after=place))] == refs[:9][::-1]
    assert await store.renew("w", {"\ud800": 1}, after(9)) == {"\ud800"}


async def test_listeners_elsewhere_hear_of_strange_and_of_many_refs(store: PostgresStore, url: str) -> None:
    other = PostgresStore(url, poll_interval=60)
    await other.open()
    heard: asyncio.Queue[object] = asyncio.Queue()
    end = other.subscribe(heard.put_nowait)
    async with asyncio.timeout(PATIENCE):
        assert await heard.get() is None
        await stored(store, task_ref="a b \x00")
        assert await heard.get() is None
        tasks = await asyncio.gather(*(stored(store) for _ in range(1000)))
        refs = [await heard.get() for _ in tasks]
    assert sorted(map(str, refs)) == sorted(task.task_ref for task in tasks)
    # Its own changes it hears as tasks, and not again: also when everybody else has been told.
    elsewhere: asyncio.Queue[object] = asyncio.Queue()
    end_elsewhere = store.subscribe(elsewhere.put_nowait)
    async with asyncio.timeout(PATIENCE):
        assert await elsewhere.get() is None
        own = await stored(other)
        while await elsewhere.get() != own.task_ref:
            pass
        last = await stored(store)
        assert await heard.get() == own
        assert await heard.get() == last.task_ref
    end()
    end_elsewhere()
    await other.close()


# What goes together.


async def test_rivals_that_go_together_take_nothing_from_each_other(store: PostgresStore) -> None:
    task = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(10)))
    assert await store.renew("w", {task.task_ref: 1}, after(40)) == set()
    done = settled(task)
    stale = [store.replace(done, seen_lease=task.lease_until) for _ in range(2)]
    assert await asyncio.gather(*stale, store.replace(done), store.replace(done)) == [False, False, True, False]
    assert await store.get(task.task_ref) == done


async def test_versions_that_go_together_are_written_one_after_the_other(store: PostgresStore) -> None:
    task = await stored(store)
    versions = [claimed(task)]
    for number in range(5):
        versions.append(
            transition(versions[-1], ReportProgress(fence=1, progress=Progress(fraction=number / 5)), after(1))
        )
    assert await asyncio.gather(*map(store.replace, versions)) == [True] * 6
    assert await store.get(task.task_ref) == versions[-1]


async def test_records_of_one_place_that_go_together_are_written_one_after_the_other(store: PostgresStore) -> None:
    tasks = [claimed(await stored(store)) for _ in range(3)]
    assert all(await asyncio.gather(*map(store.replace, tasks)))
    record = Record(kind="webhook", key="k", value="of all")
    further = [ReportProgress(fence=1, progress=Progress(fraction=0.5))] * 3
    halves = [transition(task, event, after(1)) for task, event in zip(tasks, further, strict=True)]
    calls = [call for half in halves for call in (store.replace(half, records=(record,)), store.replace(settled(half)))]
    assert await asyncio.gather(*calls) == [True] * 6
    assert await store.get_record("webhook", "k") == replace(record, version=3)
    assert (await store.count())[TaskStatus.COMPLETED] == 3


async def test_writes_of_one_record_that_go_together_are_as_if_one_came_after_the_other(store: PostgresStore) -> None:
    first = Record(kind="sketch", key="k", value=1)
    second, third = replace(first, version=2, value=2), replace(first, version=3, value=3)
    calls = store.put_record(first), store.put_record(second), store.put_record(second), store.remove_record(second)
    assert await asyncio.gather(*calls) == [True, True, False, True]
    assert await asyncio.gather(store.put_record(third), store.put_record(first), store.put_record(first)) == [
        False,
        True,
        False,
    ]
    assert await store.get_record("sketch", "k") == first


async def test_calls_of_one_key_that_go_together_need_room_for_one(store: PostgresStore) -> None:
    tasks = [new_task(idempotency_key="k") for _ in range(3)]
    answers = await asyncio.gather(*(store.insert(task, pending_limit=PendingLimit(1, 1)) for task in tasks))
    assert answers == [(tasks[0], True), (tasks[0], False), (tasks[0], False)]
    others = [new_task(idempotency_key="other", scope=scope) for scope in ("ada", "bob", "eve")]
    rooms = [PendingLimit(total=3, per_scope=1), PendingLimit(total=2), PendingLimit(total=2)]
    calls = (store.insert(task, pending_limit=pending_limit) for task, pending_limit in zip(others, rooms, strict=True))
    refused, written, too_many = await asyncio.gather(*calls, return_exceptions=True)
    assert written == (others[1], True)
    limits = [error.details["limit"] for error in (refused, too_many) if isinstance(error, QueueFull)]
    assert limits == ["of_scope", "in_all"]


async def test_room_is_counted_right_whatever_the_isolation_of_the_database_is(store: PostgresStore, url: str) -> None:
    strict = f"{url}?options=-c%20default_transaction_isolation%3Dserializable"
    stores = [PostgresStore(strict) for _ in range(3)]
    for each in stores:
        await each.open()
    calls = [stores[number % 3].insert(new_task(), pending_limit=PendingLimit(total=5)) for number in range(15)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, QueueFull) for answer in answers) == 10
    assert (await store.count())[TaskStatus.PENDING] == 5
    for each in stores:
        await each.close()


async def test_a_purge_forgets_no_more_records_than_it_may(store: PostgresStore) -> None:
    records = [Record(kind="sketch", key=f"k{number:03}", value=1, expires_at=after(number)) for number in range(450)]
    assert all(await asyncio.gather(*map(store.put_record, records)))
    assert await store.purge(after(1000), 3) == 0
    assert (await store.records(RecordQuery("sketch", limit=1)))[0] == records[3]
    await store.purge(after(440), 1000)
    assert list(await store.records(RecordQuery("sketch"))) == records[441:]


# What is written.


def _written(url: str) -> int:
    with psycopg.connect(url) as connection:
        return int(connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchall()[0][0])


async def test_large_payloads_are_written_once_whatever_else_changes(store: PostgresStore, url: str) -> None:
    # Random, so that it cannot be compressed.
    large = "".join(random.Random(7).choices(string.ascii_letters, k=400_000))
    task = await apply(store, await stored(store, arguments={"a": large}), Claim(worker_id="w", lease_until=after(9)))
    question = InputRequest(key="a", method="elicitation/create", params={"message": large})
    task = await apply(store, task, AskInput(fence=1, requests=(question,)))
    task = await apply(store, task, ProvideInput(responses={"a": {"action": "accept"}}))
    task = await apply(store, task, SaveCheckpoint(fence=1, checkpoint=large))
    before = _written(url)
    for number in range(10):
        task = await apply(store, task, ReportProgress(fence=1, progress=Progress(fraction=number / 10)))
    assert _written(url) - before < 300_000
    assert await store.get(task.task_ref) == task


async def test_the_clock_is_the_servers(store: PostgresStore) -> None:
    before = datetime.now(UTC)
    there = await store.time()
    assert before <= there <= datetime.now(UTC)
    assert there.utcoffset() == UTC.utcoffset(None)


# Companions.


def _job(task: Task) -> tuple[str, Sequence[Any]]:
    return "INSERT INTO job VALUES (%s, %s)", (task.task_ref, 1 if task.scope == "ada" else 0)


def _jobs(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT ref FROM job ORDER BY ref").fetchall()]


@pytest.fixture
async def queued(url: str) -> AsyncIterator[PostgresStore]:
    """A store that writes a job beside each task."""
    store = PostgresStore(url, companion=_job)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE job (ref text, number integer CHECK (number > 0))")
    await store.open()
    yield store
    await store.close()


async def test_a_companion_goes_with_each_task_that_was_made_and_with_no_other(queued: PostgresStore, url: str) -> None:
    tasks = [new_task(idempotency_key=f"k{number % 7}") for number in range(40)]
    answers = await asyncio.gather(*(queued.insert(task) for task in tasks))
    made = [answer.task.task_ref for answer in answers if answer.created]
    assert len(made) == 7
    assert _jobs(url) == sorted(made)
    assert not (await queued.insert(new_task(idempotency_key="k3"))).created
    await queued.replace(claimed(answers[0].task))
    assert _jobs(url) == sorted(made)


async def test_a_companion_goes_with_a_task_that_there_is_room_for(queued: PostgresStore, url: str) -> None:
    tasks = [new_task() for _ in range(5)]
    calls = (queued.insert(task, pending_limit=PendingLimit(total=3)) for task in tasks)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(answer, QueueFull) for answer in answers] == [False] * 3 + [True] * 2
    assert _jobs(url) == sorted(task.task_ref for task in tasks[:3])
    with pytest.raises(StoreError):
        await queued.insert(new_task(scope="bob"), pending_limit=PendingLimit(total=9))
    assert (await queued.count())[TaskStatus.PENDING] == 3


async def test_a_task_whose_companion_is_refused_is_not_there_and_the_others_are(
    queued: PostgresStore, url: str
) -> None:
    good, bad = [new_task() for _ in range(5)], new_task(scope="bob")
    answers = await asyncio.gather(*map(queued.insert, [*good[:3], bad, *good[3:]]), return_exceptions=True)
    assert answers[:3] + answers[4:] == [(task, True) for task in good]
    assert isinstance(answers[3], Exception)
    assert await queued.get(bad.task_ref) is None
    assert _jobs(url) == sorted(task.task_ref for task in good)
    assert (await queued.count())[TaskStatus.PENDING] == 5


async def test_a_companion_whose_table_is_missing_is_a_clear_error_and_no_task_is_there(
    queued: PostgresStore, url: str
) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE job")
    task = new_task()
    with pytest.raises(StoreUnusable, match='does not have what it must have: relation "job" does not exist'):
        await queued.insert(task)
    assert await queued.get(task.task_ref) is None


# A pooler between.


@pytest.fixture
def pooled(server: PostgresServer, url: str) -> Iterator[str]:
    """The server's address by way of PgBouncer."""
    if PgBouncer.program() is None:
        pytest.skip("not installed: PgBouncer (Debian: pgbouncer)")
    pooler = PgBouncer(server)
    pooler.start()
    yield pooler.url
    pooler.close()


async def test_through_a_pooler_everything_is_answered_right_and_listeners_look(pooled: str) -> None:
    stores = [PostgresStore(pooled, pool_size=6, poll_interval=0.05) for _ in range(2)]
    for each in stores:
        await each.open()
    changed = asyncio.Event()
    end = stores[1].subscribe(lambda change: changed.set() if change is None else None)

    async def life(number: int) -> Task:
        store, other = stores[number % 2], stores[(number + 1) % 2]
        task = new_task()
        assert (await store.insert(task, pending_limit=PendingLimit(100, 100) if number % 3 else None)).created
        assert not await other.replace(settled(claimed(task)))
        assert await other.replace(claimed(task))
        assert await store.renew("worker-1", {task.task_ref: 1}, after(90)) == set()
        record = Record(kind="webhook", key=task.task_ref, value=1)
        assert await store.replace(settled(claimed(task)), records=(record,))
        assert await other.put_record(replace(record, version=2))
        assert await other.get(task.task_ref) == settled(claimed(task))
        return task

    tasks = await asyncio.gather(*(life(number) for number in range(60)))
    assert (await stores[0].count())[TaskStatus.COMPLETED] == 60
    assert len(await stores[1].list(TaskQuery(limit=100))) == 60
    assert await stores[0].versions([task.task_ref for task in tasks]) == {task.task_ref: 3 for task in tasks}
    changed.clear()
    async with asyncio.timeout(PATIENCE):
        await changed.wait()
    end()
    for each in stores:
        await each.close()
