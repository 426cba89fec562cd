"""A PostgreSQL store when the way to its server fails: the true answer or a clear error, in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import psycopg
import pytest
from stores.postgres_trouble import SECONDS, SLACK, Forgetful, all_verbs, by, locked, refused
from stores.records import after, claimed, new_task, settled, stored
from stores.renewals import elsewhere

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import QueueFull, StoreUnavailable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import Inserted, PendingLimit
from raincheck.stores.postgres.store import PostgresStore
from support.proxy import TcpProxy
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


@pytest.fixture
async def way(running: PostgresServer, _no_leaked_task: None) -> AsyncIterator[TcpProxy]:
    """A way to the server that things can be lost on."""
    async with TcpProxy(running.port) as proxy:
        yield proxy


@pytest.fixture
async def far(way: TcpProxy, running: PostgresServer) -> AsyncIterator[PostgresStore]:
    """A store at the other end of it, with time for what the tests do meanwhile."""
    store = PostgresStore(by(way, running), timeout_seconds=10)
    await store.open()
    yield store
    await store.close()


async def test_a_commit_whose_answer_is_lost_is_told_as_it_was(
    far: PostgresStore, way: TcpProxy, running: PostgresServer
) -> None:
    task = await stored(far)
    fresh, keyed = new_task(), new_task(idempotency_key="k")
    heard: list[object] = []
    end = far.subscribe(heard.append)
    with locked(running) as until:
        inserts = [asyncio.ensure_future(far.insert(each)) for each in (fresh, keyed)]
        claim = asyncio.ensure_future(far.replace(claimed(task)))
        await asyncio.to_thread(until, 2)
        # The server goes on with what it has, and commits it once the lock is gone: nobody hears its answer.
        way.reset()
        await asyncio.to_thread(until, 4)
    assert await asyncio.gather(*inserts) == [(fresh, True), (keyed, True)]
    assert await claim
    told = [each for each in heard if isinstance(each, Task)]
    assert told in ([fresh, keyed, claimed(task)], [claimed(task), fresh, keyed])
    end()
    assert await far.count() == dict.fromkeys(TaskStatus, 0) | {TaskStatus.PENDING: 2, TaskStatus.PROCESSING: 1}


async def test_room_and_records_whose_answers_are_lost_are_told_as_they_were(
    far: PostgresStore, way: TcpProxy, running: PostgresServer
) -> None:
    task = claimed(new_task())
    await far.insert(new_task(task_ref=task.task_ref))
    assert await far.replace(task)
    record = Record(kind="webhook", key="k", value="of the task")
    only, second = new_task(), new_task()
    with locked(running) as until:
        insert = asyncio.ensure_future(far.insert(only, pending_limit=PendingLimit(1, 1)))
        settle = asyncio.ensure_future(far.replace(settled(task), records=(record,)))
        await asyncio.to_thread(until, 2)
        way.reset()
        await asyncio.to_thread(until, 4)
    assert await insert == (only, True)
    assert await settle
    assert await far.get_record("webhook", "k") == record
    with pytest.raises(QueueFull):
        await far.insert(second, pending_limit=PendingLimit(1, 1))
    assert await far.versions([only.task_ref, second.task_ref]) == {only.task_ref: 1}


async def test_writes_of_records_whose_answers_are_lost_are_told_as_they_were_or_not_guessed_at(
    far: PostgresStore, store: PostgresStore, way: TcpProxy, running: PostgresServer
) -> None:
    records = [Record(kind="sketch", key=f"k{number}", value=number) for number in range(3)]
    assert all(await asyncio.gather(*map(far.put_record, records)))
    changed = replace(records[0], version=2, value="changed")
    with locked(running, "SELECT FROM raincheck.record FOR UPDATE") as until:
        stale = replace(records[1], version=3)
        calls = far.put_record(changed), far.put_record(stale), far.remove_record(records[2])
        put, refused_put, remove = (asyncio.ensure_future(call) for call in calls)
        await asyncio.to_thread(until, 1)
        way.reset()
        await asyncio.to_thread(until, 2)
    assert await put
    assert not await refused_put
    # It is gone; who removed it, nobody can tell.
    with pytest.raises(StoreUnavailable, match="the record was changed by others since"):
        await remove
    assert list(await store.records(RecordQuery("sketch"))) == [changed, records[1]]


async def test_a_process_that_is_cut_off_between_count_and_insert_keeps_nobody_out(
    store: PostgresStore, running: PostgresServer
) -> None:
    async with Forgetful(running.port) as way:
        far = PostgresStore(by(way, running), timeout_seconds=SECONDS)
        await far.open()
        with locked(running, "LOCK TABLE raincheck.task_count IN ACCESS EXCLUSIVE MODE") as until:
            lost = asyncio.ensure_future(far.insert(new_task(), pending_limit=PendingLimit(1, 1)))
            await asyncio.to_thread(until, 1)
            # It has the lock; the server will never hear from this connection again.
            way.forget()
        only = new_task()
        answers = await asyncio.gather(
            lost, store.insert(only, pending_limit=PendingLimit(1, 1)), return_exceptions=True
        )
        assert sum(isinstance(answer, Inserted) for answer in answers) == 1
        assert sum(isinstance(answer, QueueFull) for answer in answers) == 1
        assert (await store.count())[TaskStatus.PENDING] == 1
        await far.close()


async def test_of_rivals_whose_answers_are_lost_one_wins(
    far: PostgresStore, way: TcpProxy, running: PostgresServer
) -> None:
    task = await stored(far)
    rivals = [PostgresStore(by(way, running), timeout_seconds=10) for _ in range(3)]
    for rival in rivals:
        await rival.open()
    with locked(running) as until:
        claims = [
            asyncio.ensure_future(rival.replace(claimed(task, f"worker-{number}")))
            for number, rival in enumerate(rivals)
        ]
        keys = [asyncio.ensure_future(rival.insert(new_task(idempotency_key="k"))) for rival in rivals]
        await asyncio.to_thread(until, 6)
        way.reset()
        await asyncio.to_thread(until, 12)
    won = await asyncio.gather(*claims)
    assert won.count(True) == 1
    found = await far.get(task.task_ref)
    assert found is not None
    assert found.worker_id == f"worker-{won.index(True)}"
    answers = await asyncio.gather(*keys)
    assert sum(answer.created for answer in answers) == 1
    assert len({answer.task.task_ref for answer in answers}) == 1
    for rival in rivals:
        await rival.close()


async def test_what_others_changed_since_the_answer_was_lost_is_not_guessed_at(
    far: PostgresStore, store: PostgresStore, way: TcpProxy, running: PostgresServer
) -> None:
    task = await stored(store)
    with locked(running) as until:
        claim = asyncio.ensure_future(far.replace(claimed(task)))
        await asyncio.to_thread(until, 1)
        way.cut()
    # The server has written the claim by now or soon will; the other store goes on from there.
    async with asyncio.timeout(PATIENCE):
        while not await store.replace(settled(claimed(task))):
            await asyncio.sleep(0.01)
    way.heal()
    with pytest.raises(StoreUnavailable, match="was changed by others since"):
        await claim


async def test_a_black_hole_is_an_error_in_time_and_is_survived(way: TcpProxy, running: PostgresServer) -> None:
    far = PostgresStore(by(way, running), timeout_seconds=SECONDS)
    await far.open()
    task = await stored(far)
    await far.renew("w", {task.task_ref: 1}, after(30))
    way.black_hole()
    told = await refused(all_verbs(far, task))
    assert set(told) == {f"The task store postgresql://127.0.0.1:{way.port}/postgres did not answer in time."}
    way.heal()
    again = await stored(far)
    assert await far.get(again.task_ref) == again
    await far.close()


async def test_connections_that_died_in_silence_are_replaced_within_one_call(running: PostgresServer) -> None:
    async with Forgetful(running.port) as way:
        far = PostgresStore(by(way, running), timeout_seconds=SECONDS)
        await far.open()
        task = await stored(far)
        await asyncio.gather(*(far.count() for _ in range(5)))
        async with elsewhere(far) as renew:
            await renew("w", {task.task_ref: 1}, after(30))
            way.forget()
            async with asyncio.timeout(SECONDS + SLACK):
                again, lost = await asyncio.gather(stored(far), renew("w", {task.task_ref: 1}, after(30)))
        assert lost == {task.task_ref}
        assert await far.versions([task.task_ref, again.task_ref]) == {task.task_ref: 1, again.task_ref: 1}
        await far.close()
