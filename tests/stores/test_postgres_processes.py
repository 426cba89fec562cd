"""Several processes on one PostgreSQL, and processes that are killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import replace

import psycopg
import pytest
from stores.processes import Child, child
from stores.records import cancelled, new_task, stored

from raincheck.domain.task import KeyKind, TaskStatus
from raincheck.ports.task_store import PendingLimit
from raincheck.stores.postgres.store import PostgresStore
from support.servers.postgres import PostgresServer
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


@pytest.fixture
async def store(url: str, _no_leaked_task: None) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url)
    await store.open()
    yield store
    await store.close()


def _facts(url: str) -> tuple[dict[str, int], dict[str, int]]:
    """The tasks by status counted, and as the counters have it."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        counted = connection.execute("SELECT status, count(*) FROM raincheck.task GROUP BY status").fetchall()
        names = "pending", "processing", "input_required", "completed", "failed", "cancelled"
        sums = connection.execute(
            "SELECT sum(pending), sum(processing), sum(input_required), sum(completed), sum(failed), sum(cancelled) "
            "FROM raincheck.task_count"
        ).fetchall()[0]
        return dict(counted), {name: int(number) for name, number in zip(names, sums, strict=True) if number}


def _all(stack: ExitStack, verb: str, url: str, number: int) -> list[Child]:
    names = [f"process-{index}" for index in range(number)]
    return [stack.enter_context(child(verb, url, name, program="postgres_children.py")) for name in names]


async def test_ten_processes_make_one_schema_at_once(url: str) -> None:
    with ExitStack() as stack:
        children = _all(stack, "create", url, 10)
        for each in children:
            each.go()
        refs = [each.rest()[0] for each in children]
    store = PostgresStore(url)
    await store.open()
    assert len(set(refs)) == 10
    assert await store.versions(refs) == dict.fromkeys(refs, 1)
    await store.close()
    assert _facts(url) == ({"pending": 10}, {"pending": 10})


async def test_no_two_of_ten_processes_claim_one_task_or_share_a_key_twice(store: PostgresStore, url: str) -> None:
    ended = await cancelled(store, idempotency_key="f", key_kind=KeyKind.INFLIGHT)
    with ExitStack() as stack:
        children = _all(stack, "compete", url, 10)
        for each in children:
            each.go()
        answers = [json.loads(each.rest()[0]) for each in children]
    won = [ref for answer in answers for ref in answer["won"]]
    assert sum(answer["created"] for answer in answers) == 10 + 10 * 20 + 1
    assert len(won) == len(set(won)) == 211
    assert (await store.count())[TaskStatus.PROCESSING] == 211
    assert _facts(url) == ({"processing": 211, "cancelled": 1}, {"processing": 211, "cancelled": 1})
    assert await store.get(ended.task_ref) == replace(ended, idempotency_key=None)
    for index, answer in enumerate(answers):
        for ref in answer["won"]:
            task = await store.get(ref)
            assert task is not None
            assert (task.worker_id, task.version) == (f"process-{index}", 2)


@pytest.mark.parametrize("lines", [1, 200, 900])
async def test_every_acknowledged_task_survives_kill_9_of_its_writer(
    store: PostgresStore, url: str, lines: int
) -> None:
    with child("insert_for_ever", url, program="postgres_children.py") as writing:
        refs = [writing.line() for _ in range(lines)]
        refs += writing.kill()
    assert len(refs) >= lines
    assert len(await store.versions(refs)) == len(refs)
    # The key, the row, the counter and the room that the dead one held are free again.
    await stored(store)
    assert (await store.insert(new_task(), pending_limit=PendingLimit(10**6, 10**6))).created
    with psycopg.connect(url) as connection:
        ended = "SELECT task_ref FROM raincheck.task WHERE status = 'completed'"
        for kind in ("webhook", "upstream"):
            recorded = f"SELECT key FROM raincheck.record WHERE version = 1 AND kind = '{kind}'"
            assert set(connection.execute(ended).fetchall()) == set(connection.execute(recorded.encode()).fetchall())
    counted, kept = _facts(url)
    assert counted == kept
    assert sum(counted.values()) >= len(refs) + 1


async def test_four_processes_that_fill_one_store_stop_at_its_limits(store: PostgresStore, url: str) -> None:
    with ExitStack() as stack:
        scopes = ["ada", "ada", "bob", "bob"]
        children = [stack.enter_context(child("fill", url, scope, program="postgres_children.py")) for scope in scopes]
        for each in children:
            each.go()
        of_ada, also_of_ada, *of_bob = (int(each.rest()[0]) for each in children)
    assert of_ada + also_of_ada <= 25
    assert sum(of_bob) <= 25
    assert of_ada + also_of_ada + sum(of_bob) == 40
    assert _facts(url) == ({"pending": 40}, {"pending": 40})


async def test_listeners_hear_of_another_process(store: PostgresStore, url: str) -> None:
    heard: asyncio.Queue[object] = asyncio.Queue()
    end = store.subscribe(heard.put_nowait)
    with child("insert_one", url, program="postgres_children.py") as other:
        async with asyncio.timeout(PATIENCE):
            assert await heard.get() is None
        other.go()
        ref = other.rest()[0]
        async with asyncio.timeout(PATIENCE):
            while await heard.get() != ref:
                pass
    end()
