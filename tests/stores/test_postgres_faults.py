"""A PostgreSQL store when its server fails: the true answer or a clear error, in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack

import psycopg
import pytest
from stores.postgres_trouble import SECONDS, SLACK, all_verbs, locked, refused
from stores.records import after, claimed, new_task, settled, stored
from stores.renewals import elsewhere

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import StoreError, StoreUnavailable
from raincheck.ports.records import Record
from raincheck.ports.task_store import Inserted
from raincheck.stores.postgres.store import PostgresStore
from support.servers.postgres import PostgresServer
from support.servers.server import needed
from support.waiting import PATIENCE


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    needed(PostgresServer.missing())
    server = PostgresServer("deadlock_timeout=100ms")
    server.start()
    yield server
    server.close()


@pytest.fixture
def running(server: PostgresServer) -> Iterator[PostgresServer]:
    """The server, with nothing of raincheck's in the database."""
    yield server
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS raincheck CASCADE")


@pytest.fixture
async def store(running: PostgresServer, _no_leaked_task: None) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(running.url, timeout_seconds=SECONDS)
    await store.open()
    yield store
    await store.close()


# The server.


@pytest.mark.parametrize("end", ["stop_at_once", "kill", "stop"])
async def test_nothing_acknowledged_is_lost_when_the_server_goes_and_comes_back_in_mid_load(
    store: PostgresStore, running: PostgresServer, end: str
) -> None:
    acknowledged: dict[str, Task] = {}
    unclear: set[str] = set()
    stopping, enough = asyncio.Event(), asyncio.Event()

    async def write(task: Task, call: Awaitable[bool | Inserted]) -> bool:
        try:
            answer = await call
        except StoreUnavailable:
            unclear.add(task.task_ref)
            return False
        # Nobody else writes these tasks: whatever else is answered is a wrong answer to a write that was sent twice.
        assert answer in (True, (task, True))
        acknowledged[task.task_ref] = task
        if len(acknowledged) % 300 == 299:
            enough.set()
        return True

    async def caller() -> None:
        while not stopping.is_set():
            task = new_task(idempotency_key=None)
            if await write(task, store.insert(task)):
                task = claimed(task)
                if await write(task, store.replace(task)):
                    record = Record(kind="webhook", key=task.task_ref, value=1)
                    await write(settled(task), store.replace(settled(task), records=(record,)))

    callers = [asyncio.create_task(caller()) for _ in range(30)]
    for _ in range(2):
        async with asyncio.timeout(PATIENCE):
            await enough.wait()
        enough.clear()
        await asyncio.to_thread(getattr(running, end))
        await asyncio.to_thread(running.start)
    async with asyncio.timeout(PATIENCE):
        await enough.wait()
    stopping.set()
    await asyncio.gather(*callers)
    versions = await store.versions(list(acknowledged))
    assert versions.keys() == acknowledged.keys()
    wrong = [ref for ref, task in acknowledged.items() if versions[ref] != task.version and ref not in unclear]
    assert wrong == []
    with psycopg.connect(running.url) as connection:
        counted = dict(connection.execute("SELECT status, count(*) FROM raincheck.task GROUP BY status").fetchall())
        ended = "SELECT task_ref FROM raincheck.task WHERE status = 'completed'"
        recorded = "SELECT key FROM raincheck.record WHERE version = 1"
        assert set(connection.execute(ended).fetchall()) == set(connection.execute(recorded).fetchall())
    assert {str(status): number for status, number in (await store.count()).items() if number} == counted


async def test_a_frozen_server_is_an_error_in_time_and_is_used_again_when_it_moves(
    store: PostgresStore, running: PostgresServer
) -> None:
    task = await stored(store)
    async with elsewhere(store) as renew:
        await renew("w", {task.task_ref: 1}, after(30))
        running.freeze()
        try:
            told = await refused(all_verbs(store, task, renew))
            place = f"postgresql://127.0.0.1:{running.port}/postgres"
            assert set(told) == {f"The task store {place} did not answer in time."}
            opening = PostgresStore(running.url, timeout_seconds=SECONDS)
            await refused([opening.open()])
        finally:
            running.thaw()
        again = await stored(store)
        assert await store.get(again.task_ref) == again
        for each in (renew, store.renew):
            assert await each("w", {again.task_ref: 1}, after(30)) == {again.task_ref}


async def test_a_server_that_is_gone_is_an_error_in_time_and_is_used_again_when_it_is_back(
    store: PostgresStore, running: PostgresServer
) -> None:
    task = await stored(store)
    async with elsewhere(store) as renew:
        running.stop_at_once()
        try:
            told = await refused(all_verbs(store, task, renew))
            place = f"postgresql://127.0.0.1:{running.port}/postgres"
            assert set(told) == {f"The task store {place} has no server: the connection was refused."}
        finally:
            running.start()
        await stored(store)
        for each in (renew, store.renew):
            assert await each("w", {task.task_ref: 1}, after(30)) == {task.task_ref}


async def test_a_server_that_refuses_a_new_connection_is_an_error_at_once(running: PostgresServer) -> None:
    with psycopg.connect(running.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE clerk LOGIN SUPERUSER")
        store = PostgresStore(running.url.replace("postgres@", "clerk@"), timeout_seconds=100 * PATIENCE)
        await store.open()
        await stored(store)
        connection.execute("ALTER ROLE clerk NOLOGIN")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'clerk'")
        async with asyncio.timeout(PATIENCE):
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match=r"needs a user with the right LOGIN\.$"):
                    await store.count()
        connection.execute("ALTER ROLE clerk LOGIN")
        await stored(store)
        await store.close()
        connection.execute("DROP SCHEMA raincheck CASCADE")
        connection.execute("DROP ROLE clerk")


async def test_listeners_are_told_to_look_when_the_server_is_back_and_now_and_then(
    store: PostgresStore, running: PostgresServer
) -> None:
    heard: asyncio.Queue[object] = asyncio.Queue()
    end = store.subscribe(heard.put_nowait)
    async with asyncio.timeout(PATIENCE):
        assert await heard.get() is None
        assert await heard.get() is None
    await asyncio.to_thread(running.stop_at_once)
    await asyncio.to_thread(running.start)
    other = PostgresStore(running.url)
    await other.open()
    async with asyncio.timeout(PATIENCE):
        ref = ""
        while ref != (told := await heard.get()):
            # Each look is answered by a new task, until one of them is heard of by its name.
            assert told is None or isinstance(told, str)
            ref = (await stored(other)).task_ref if told is None else ref
    end()
    await other.close()


# Callers.


async def test_a_caller_that_gives_up_on_a_silent_server_is_free_at_once(
    store: PostgresStore, running: PostgresServer
) -> None:
    task = await stored(store)
    running.freeze()
    try:
        *verbs, renewal = all_verbs(store, task)
        renewing = asyncio.ensure_future(renewal)
        calls = [asyncio.ensure_future(call) for call in verbs]
        await asyncio.sleep(0.05)
        started = time.monotonic()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - started < 1
        assert all(call.cancelled() for call in calls)
    finally:
        running.thaw()
    assert await renewing == {task.task_ref}
    assert await store.get(task.task_ref) is not None
    await stored(store)


async def test_what_was_given_up_before_it_was_sent_is_not_written(
    store: PostgresStore, running: PostgresServer
) -> None:
    with locked(running) as until:
        first = asyncio.ensure_future(stored(store))
        await asyncio.to_thread(until, 1)
        unsent = new_task()
        waiting = asyncio.ensure_future(store.insert(unsent))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await first
    await stored(store)
    assert await store.get(unsent.task_ref) is None


async def test_more_callers_than_connections_wait_their_turn(running: PostgresServer) -> None:
    store = PostgresStore(running.url, pool_size=1, timeout_seconds=SECONDS)
    await store.open()
    task = await stored(store)
    await asyncio.gather(*(call for _ in range(20) for call in all_verbs(store, task)))
    with locked(running) as until:
        writing = asyncio.ensure_future(stored(store))
        await asyncio.to_thread(until, 1)
        # The only connection waits with it.
        counting = asyncio.ensure_future(store.count())
        await asyncio.sleep(0)
        assert not counting.done()
    assert (await counting)[TaskStatus.PROCESSING] == 1
    await writing
    await store.close()


async def test_a_lock_that_is_held_too_long_is_an_error_and_nothing_is_written_later(
    store: PostgresStore, running: PostgresServer
) -> None:
    task = await stored(store)
    late = new_task()
    with locked(running):
        told = await refused([store.insert(late), store.replace(claimed(task))])
        assert all("did not answer in time" in each for each in told)
    again = await stored(store)
    assert await store.versions([late.task_ref, task.task_ref, again.task_ref]) == {
        task.task_ref: 1,
        again.task_ref: 1,
    }


async def test_one_bad_write_does_not_fail_those_it_is_sent_with(store: PostgresStore) -> None:
    first = await stored(store)
    good = [new_task() for _ in range(10)]
    secret = "the caller's secret"
    answers = await asyncio.gather(
        *(store.insert(task) for task in good[:5]),
        store.insert(new_task(attempt=2**70, arguments={"a": secret})),
        store.insert(new_task(scope="long" * 5000 + secret.join(map(str, range(3000))))),
        store.insert(new_task(task_ref=first.task_ref, scope=secret)),
        *(store.insert(task) for task in good[5:]),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers[5:8]] == [StoreError] * 3
    assert all(secret not in str(answer) and "\n" not in str(answer) for answer in answers[5:8])
    assert [*answers[:5], *answers[8:]] == [(task, True) for task in good]
    assert (await store.count())[TaskStatus.PENDING] == 11


async def test_what_waits_goes_together(store: PostgresStore, running: PostgresServer) -> None:
    tasks = [await stored(store) for _ in range(3)]
    with psycopg.connect(running.url, autocommit=True) as connection:
        query = "SELECT sum(xact_commit) FROM pg_stat_database WHERE datname = 'postgres'"
        await asyncio.sleep(0)
        with locked(running) as until:
            writes = [asyncio.ensure_future(stored(store)) for _ in range(400)]
            await asyncio.to_thread(until, 1)
            before = connection.execute(query).fetchall()[0][0]
        await asyncio.gather(*writes, *(store.get(task.task_ref) for task in tasks * 100))
        after_all = connection.execute(query).fetchall()[0][0]
    assert after_all - before < 60


# The end.


async def test_closing_writes_what_waits_and_leaves_no_connection(
    store: PostgresStore, running: PostgresServer
) -> None:
    end = store.subscribe(lambda _: None)
    writes = [asyncio.ensure_future(store.insert(new_task())) for _ in range(1500)]
    reads = [asyncio.ensure_future(store.count()) for _ in range(30)]
    async with elsewhere(store) as renew:
        await renew("w", {"x": 1}, after(1))
    await store.close()
    assert all(inserted.created for inserted in await asyncio.gather(*writes))
    await asyncio.gather(*reads)
    end()
    with psycopg.connect(running.url, autocommit=True) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'raincheck'"
        give_up_at = time.monotonic() + 5
        while connection.execute(query).fetchall()[0][0]:
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.01)
    await store.open()
    assert (await store.count())[TaskStatus.PENDING] == 1500


async def test_a_store_is_closed_in_time_while_its_server_is_frozen(running: PostgresServer) -> None:
    store = PostgresStore(running.url, timeout_seconds=SECONDS)
    await store.open()
    task = await stored(store)
    end = store.subscribe(lambda _: None)
    renewing = AsyncExitStack()
    renew = await renewing.enter_async_context(elsewhere(store))
    await renew("w", {task.task_ref: 1}, after(30))
    running.freeze()
    try:
        calls = [asyncio.ensure_future(call) for call in all_verbs(store, task, renew)]
        await asyncio.sleep(0)
        started = time.monotonic()
        await renewing.aclose()
        await store.close()
        assert time.monotonic() - started < SECONDS + SLACK
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
    finally:
        running.thaw()
    end()
