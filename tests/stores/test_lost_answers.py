"""A store on the network does what it was asked, and its answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from stores.backends import name_of, server_of
from stores.records import claimed, new_task

from raincheck.blob_stores.files import FileBlobs
from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import StoreUnavailable
from raincheck.operations.context import TaskContext
from raincheck.ports.task_store import TaskQuery, TaskStore
from raincheck.runtime.service import Service
from support.lab import Lab
from support.proxy import TcpProxy
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer
from support.servers.server import Server, needed
from support.waiting import PATIENCE

# What the store may take, and what a lost answer takes to be given up.
SECONDS = 1.0


class Place:
    """A store, the way to it, and a service that goes that way."""

    def __init__(self, kind: type[Server], folder: Path, proxy: TcpProxy, stack: AsyncExitStack) -> None:
        self.proxy = proxy
        self.lab = Lab(folder)
        self.started: list[str] = []
        self._kind = kind
        self._stack = stack

        @self.lab.operation("work", max_inline_bytes=1024)
        async def _(arguments: Mapping[str, Any], context: TaskContext) -> str:
            self.started.append(context.task_ref)
            return "x" * 5000

    async def store(self, *, direct: bool = False) -> TaskStore:
        store = self._made(server_of(self._kind).url, direct=direct)
        await store.open()
        self._stack.push_async_callback(store.close)
        return store

    async def service(self, **settings: Any) -> Service:
        store = self._made(server_of(self._kind).url, direct=False)
        blobs = FileBlobs(self.lab.path / "results")
        service = await self._stack.enter_async_context(
            self.lab.service(store=store, blobs=blobs, lease_seconds=30.0, **settings)
        )
        # Its connections are there then: one that is made later loads scripts, in which every status is named.
        await store.count()
        return service

    def _made(self, url: str, *, direct: bool) -> TaskStore:
        if not direct:
            url = url.replace(str(server_of(self._kind).port), str(self.proxy.port))
        seconds = 5.0 if direct else SECONDS
        if self._kind is PostgresServer:
            from raincheck.stores.postgres.store import PostgresStore

            return PostgresStore(url, schema=name_of(self.lab.path), timeout_seconds=seconds)
        from raincheck.stores.redis.store import RedisStore

        return RedisStore(url, key_prefix=f"{name_of(self.lab.path)}:", timeout_seconds=seconds)

    def lose_answers(self, status: str) -> None:
        """From the next write of a task in that status on."""
        self.proxy.lose_answers_from((f'"status":"{status}"' if self._kind is PostgresServer else status).encode())

    async def lost(self) -> None:
        """Wait until an answer was."""
        async with asyncio.timeout(PATIENCE):
            while not self.proxy.loses_answers:
                await asyncio.sleep(0.01)


@pytest.fixture(params=[PostgresServer, RedisServer], ids=["postgres", "redis"])
async def place(request: pytest.FixtureRequest, tmp_path: Path, _no_leaked_task: None) -> AsyncIterator[Place]:
    """Each kind of server in turn."""
    needed(request.param.missing())
    async with TcpProxy(server_of(request.param).port) as proxy, AsyncExitStack() as stack:
        yield Place(request.param, tmp_path, proxy, stack)
        proxy.heal()


async def settled(service: Service, ref: str) -> Task:
    return await service.registry.wait(ref, scope="a", seconds=PATIENCE)


async def test_a_write_whose_answer_is_lost_says_that_it_may_be_done_and_one_that_was_not_sent_that_it_is_not(
    place: Place,
) -> None:
    store, direct, task = await place.store(), await place.store(direct=True), new_task()
    for status, write, written in (
        ("pending", lambda: store.insert(task), task),
        ("processing", lambda: store.replace(claimed(task)), claimed(task)),
    ):
        place.lose_answers(status)
        with pytest.raises(StoreUnavailable) as refusal:
            await write()
        assert refusal.value.maybe_done
        assert await direct.get(task.task_ref) == written
        place.proxy.heal()
        # On a new connection.
        assert (await store.insert(new_task())).created
        assert await store.get(task.task_ref) == written
    place.proxy.cut()
    for _ in range(2):
        # The first one finds that its connection is lost.
        with pytest.raises(StoreUnavailable) as refusal:
            await store.insert(new_task())
    assert not refusal.value.maybe_done


async def test_a_call_without_a_key_whose_answer_is_lost_is_cancelled_when_the_store_is_back(place: Place) -> None:
    service = await place.service(max_concurrency=0)
    place.lose_answers("pending")
    with pytest.raises(StoreUnavailable, match=r"may have been accepted all the same; .* Call again, best with"):
        await service.registry.submit("work", {}, scope="a")
    place.proxy.heal()
    async with asyncio.timeout(PATIENCE):
        while not (found := await (await place.store(direct=True)).list(TaskQuery(statuses=[TaskStatus.CANCELLED]))):
            await asyncio.sleep(0.1)
    assert len(found) == 1


async def test_a_call_with_a_key_whose_answer_is_lost_is_found_by_its_key_and_done_once(place: Place) -> None:
    service = await place.service()
    place.lose_answers("pending")
    with pytest.raises(StoreUnavailable, match="call again with the same idempotency_key"):
        await service.registry.submit("work", {}, scope="a", idempotency_key="k")
    place.proxy.heal()
    again = await service.registry.submit("work", {}, scope="a", idempotency_key="k")
    assert again.deduplicated
    assert (await settled(service, again.task.task_ref)).status is TaskStatus.COMPLETED
    assert place.started == [again.task.task_ref]


@pytest.mark.parametrize("status", ["processing", "completed"])
async def test_a_task_whose_claim_or_end_was_written_unheard_runs_once_and_keeps_its_result(
    place: Place, status: str
) -> None:
    service = await place.service()
    place.lose_answers(status)
    ref = (await service.registry.submit("work", {}, scope="a")).task.task_ref
    await place.lost()
    await asyncio.sleep(2 * SECONDS)
    place.proxy.heal()
    task = await settled(service, ref)
    assert (task.status, task.attempt, place.started) == (TaskStatus.COMPLETED, 1, [ref])
    # The worker has seen to its end by then, and removed nothing.
    async with asyncio.timeout(PATIENCE):
        while service.running:
            await asyncio.sleep(0.02)
    assert await service.results.of(task).read() == b"x" * 5000


async def test_a_cancel_whose_answer_is_lost_may_be_repeated(place: Place) -> None:
    service = await place.service(max_concurrency=0)
    ref = (await service.registry.submit("work", {}, scope="a")).task.task_ref
    place.lose_answers("cancelled")
    with pytest.raises(StoreUnavailable, match="may have been done all the same: the call may be repeated"):
        await service.registry.cancel(ref, scope="a")
    place.proxy.heal()
    assert (await service.registry.cancel(ref, scope="a")).status is TaskStatus.CANCELLED
