"""A Redis store whose answers are lost on the way: what was done is known, and nothing is done twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from stores.conftest import MakeRedis
from stores.records import NOW, after, apply, claimed, new_task, settled, stored

from raincheck.domain.task import Progress, Task
from raincheck.domain.transitions import Cancel, Claim, ReportProgress, transition
from raincheck.errors import StoreError, StoreUnavailable
from raincheck.ports.records import Record
from raincheck.stores.redis.store import RedisStore
from support.proxy import Listener
from support.servers.redis import RedisServer
from support.waiting import PATIENCE


class Answerless(Listener):
    """Forwards everything, unless it is told to lose something.

    Attributes:
        lose: So many of the next answers are lost, each with its connection.
        deaf: The connections up to this number stay open and lead nowhere; new ones are as usual.
    """

    def __init__(self, upstream: int) -> None:
        super().__init__()
        self._upstream = upstream
        self._number = 0
        self.lose = 0
        self.deaf = -1

    def deafen(self) -> None:
        """The present connections lead nowhere from now on."""
        self.deaf = self._number

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._upstream)
        self._number += 1
        try:
            asking = asyncio.create_task(self._pump(reader, back))
            answering = asyncio.create_task(self._pump(there, writer, self._number))
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            for task in (asking, answering):
                task.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)
        finally:
            back.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answering: int = 0) -> None:
        while chunk := await reader.read(1 << 16):
            if answering and self.lose:
                self.lose -= 1
                return
            if 0 < answering <= self.deaf:
                continue
            writer.write(chunk)
            await writer.drain()


@pytest.fixture
async def lossy(redis_server: RedisServer) -> AsyncIterator[Answerless]:
    async with Answerless(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def lossy_store(lossy: Answerless, make_redis: MakeRedis) -> RedisStore:
    store = make_redis(f"redis://127.0.0.1:{lossy.port}/0")
    await store.open()
    return store


@pytest.mark.parametrize("times", [1, 3])
async def test_a_write_whose_answer_was_lost_is_answered_as_if_it_were_not(
    lossy_store: RedisStore, lossy: Answerless, times: int
) -> None:
    heard: list[object] = []
    end = lossy_store.subscribe(lambda change: heard.append(change) if isinstance(change, Task) else None)
    task = new_task(idempotency_key="k")
    lossy.lose = times
    assert await lossy_store.insert(task) == (task, True)
    lossy.lose = times
    assert await lossy_store.replace(claimed(task))
    assert lossy.lose == 0
    assert not await lossy_store.replace(claimed(task, "worker-2"))
    assert heard == [task, claimed(task)]
    assert await lossy_store.get(task.task_ref) == claimed(task)
    assert sum((await lossy_store.count()).values()) == 1
    end()


async def test_a_write_is_known_for_its_own_although_others_wrote_since(
    lossy_store: RedisStore, lossy: Answerless, redis_server: RedisServer, make_redis: MakeRedis
) -> None:
    other = make_redis(redis_server.url)
    await other.open()
    task = await stored(lossy_store)
    told = asyncio.Event()

    async def cancel_at_once() -> None:
        await told.wait()
        found = await other.get(task.task_ref)
        assert found is not None
        assert await other.replace(transition(found, Cancel(), NOW))

    cancelling = asyncio.create_task(cancel_at_once())
    end = other.subscribe(lambda change: told.set() if change == task.task_ref else None)
    async with asyncio.timeout(PATIENCE):
        # So that the message of the claim is heard.
        while not await _subscribers(redis_server):
            await asyncio.sleep(0.01)
    lossy.lose = 1
    claim = asyncio.create_task(lossy_store.replace(claimed(task)))
    await cancelling
    assert await claim
    end()


async def _subscribers(redis_server: RedisServer) -> int:
    with contextlib.closing(redis_server.client()) as client:
        return len(await asyncio.to_thread(client.pubsub_channels))  # pyright: ignore[reportArgumentType]


async def test_an_insert_is_known_for_its_own_however_far_the_task_has_come(lossy_store: RedisStore) -> None:
    inner = cast(Any, lossy_store)
    usual, inner._nonce = inner._nonce, lambda: b"this-one"
    first = await stored(lossy_store)
    inner._nonce = usual
    task = await apply(lossy_store, first, Claim(worker_id="w", lease_until=after(30)))
    for number in range(20):
        task = await apply(lossy_store, task, ReportProgress(fence=1, progress=Progress(fraction=number / 20)))
    inner._nonce = lambda: b"this-one"
    # As the pipeline does where the answer to the first was lost.
    assert await lossy_store.insert(first) == (first, True)
    inner._nonce = usual
    assert await lossy_store.get(task.task_ref) == task
    with pytest.raises(StoreError, match="stored already"):
        await lossy_store.insert(first)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_record_whose_answer_was_lost_is_written_and_removed_once(
    lossy_store: RedisStore, lossy: Answerless, times: int
) -> None:
    record = Record(kind="webhook", key="k", value="first")
    for each in (record, replace(record, version=2, value="second")):
        lossy.lose = times
        assert await lossy_store.put_record(each)
        assert not await lossy_store.put_record(each)
        assert await lossy_store.get_record("webhook", "k") == each
    last = replace(record, version=2)
    lossy.lose = times
    assert await lossy_store.remove_record(last)
    assert lossy.lose == 0
    assert not await lossy_store.remove_record(last)
    assert await lossy_store.get_record("webhook", "k") is None


async def test_a_record_that_was_written_with_a_task_whose_answer_was_lost_is_written_once(
    lossy_store: RedisStore, lossy: Answerless
) -> None:
    task = claimed(await stored(lossy_store))
    assert await lossy_store.replace(task)
    record = Record(kind="webhook", key="k", value=1)
    assert await lossy_store.put_record(record)
    lossy.lose = 2
    assert await lossy_store.replace(settled(task), records=(replace(record, value=2),))
    assert await lossy_store.get_record("webhook", "k") == replace(record, value=2, version=2)


@pytest.mark.parametrize("others", [0, 20])
async def test_a_record_is_known_for_its_own_whatever_others_did_to_it_since(
    lossy_store: RedisStore, others: int
) -> None:
    inner = cast(Any, lossy_store)
    usual = inner._nonce

    async def sent(call: Callable[[], Awaitable[bool]], nonce: bytes = b"this-one") -> bool:
        inner._nonce = lambda: nonce
        try:
            return await call()
        finally:
            inner._nonce = usual

    # Sent again, as the pipeline does where the answer to the first was lost.
    record = Record(kind="permits", key="k", value=0)
    assert await sent(lambda: lossy_store.put_record(record))
    latest = record
    for number in range(others):
        latest = replace(record, version=latest.version + 1, value=number)
        assert await lossy_store.put_record(latest)
    assert await sent(lambda: lossy_store.put_record(record))
    assert await lossy_store.get_record("permits", "k") == latest
    assert await lossy_store.remove_record(latest)
    assert await sent(lambda: lossy_store.put_record(record))
    assert await lossy_store.get_record("permits", "k") is None
    assert await lossy_store.put_record(record)
    assert await sent(lambda: lossy_store.remove_record(record), b"removal")
    assert await lossy_store.put_record(record)
    # Whoever put a new one does not lose it to the old removal.
    assert await sent(lambda: lossy_store.remove_record(record), b"removal")
    assert await lossy_store.get_record("permits", "k") == record


async def test_renewed_leases_whose_answer_was_lost_are_held(lossy_store: RedisStore, lossy: Answerless) -> None:
    task = await apply(lossy_store, await stored(lossy_store), Claim(worker_id="w", lease_until=after(30)))
    for _ in range(2):
        lossy.lose = 1
        assert await lossy_store.renew("w", {task.task_ref: 1}, after(90)) == set()
        assert lossy.lose == 0
    found = await lossy_store.get(task.task_ref)
    assert found is not None
    assert found.lease_until == after(90)


async def test_a_connection_that_leads_nowhere_is_given_up_for_a_new_one(
    lossy: Answerless, make_redis: MakeRedis
) -> None:
    store = make_redis(f"redis://127.0.0.1:{lossy.port}/0", timeout_seconds=1)
    await store.open()
    task = await stored(store)
    assert await store.get(task.task_ref) == task
    lossy.deafen()
    for call in (store.insert(new_task()), store.get(task.task_ref)):
        with pytest.raises(StoreUnavailable, match="did not answer within 1 s"):
            await call
    assert await store.renew("w", {task.task_ref: 1}, after(60)) == {task.task_ref}
    assert (await store.insert(new_task())).created
    assert await store.get(task.task_ref) == task
