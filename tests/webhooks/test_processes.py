"""Webhooks of real processes: killed between a task's end and its delivery, and several on one store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from stores.backends import BACKENDS, Backend, end_servers, server_of
from webhooks.receiver import FINE, SECRET, hang, receiving
from webhooks.test_deliveries import echo, rules, submit

from raincheck.ports.records import RecordQuery
from raincheck.ports.task_store import TaskStore
from raincheck.webhooks.delivery import PENDING
from support.lab import Lab
from support.servers.redis import RedisServer
from support.servers.server import needed
from support.serving import Refused, Workplace, calling
from support.waiting import PATIENCE

SERVED = """
[webhooks]
allow = ["{host}"]
secrets = ["${{SECRET}}"]
timeout_seconds = 0.5

[operations.echo]
kind = "python"
target = "ops:echo"
"""
FUNCTIONS = """
def echo(value: str) -> str:
    return value
"""


async def test_what_a_killed_process_had_not_seen_arrive_is_delivered_by_the_next_one(tmp_path: Path) -> None:
    """By the server's next start on SQLite; by the server beside a killed worker on Redis."""
    needed(RedisServer.missing())
    for name in ("alone", "fleet"):
        (tmp_path / name).mkdir()
    await asyncio.gather(_server_killed(tmp_path / "alone"), _worker_killed(tmp_path / "fleet"))


async def _server_killed(folder: Path) -> None:
    async with receiving(hang, FINE) as receiver:
        place = Workplace(folder, SERVED.format(host=receiver.host), FUNCTIONS)
        async with place.http(env={"SECRET": SECRET}) as server:
            async with calling(server.port) as caller:
                for wrong in (5, "", "https://evil.example.com/"):
                    with pytest.raises(Refused) as refused:
                        await caller.submit("echo", {"value": "v"}, callback_url=wrong)
                    assert (refused.value.code, refused.value.message[:12]) == ("invalid_parameters", "callback_url")
                ticket = await caller.submit("echo", {"value": "v"}, callback_url=f"{receiver.url}?token=hunter2")
                await receiver.got(1)
            await server.kill()
        async with place.http(env={"SECRET": SECRET}) as server:
            await receiver.got(2)
            assert set(receiver.ids) == {f"msg_{ticket['task_ref']}"}
            listing = ("tasks", "webhooks", "list", "--json")
            while (said := await place.raincheck(*listing, env={"SECRET": SECRET}))[1] != "[]\n":
                assert said[0] == 0
        for log in folder.glob("stderr-*.log"):
            assert not {word for word in ("hunter2", SECRET) if word in log.read_text()}


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    end_servers()


SHARED = [backend for backend in BACKENDS if backend.name in ("sqlite", "postgres", "redis")]


@pytest.mark.parametrize("backend", SHARED, ids=lambda backend: backend.name)
async def test_processes_on_one_store_deliver_each_end_once(backend: Backend, tmp_path: Path) -> None:
    needed(backend.missing())
    lab = Lab(tmp_path / "tasks.db")
    lab.operation("echo")(echo)
    async with receiving() as receiver, AsyncExitStack() as stack:
        first, *_ = [
            await stack.enter_async_context(lab.service(store=backend.make(tmp_path), webhooks=rules(receiver)))
            for _ in range(3)
        ]
        refs = [await submit(first, receiver.url) for _ in range(30)]
        await receiver.got(30)
        store = await stack.enter_async_context(opened(backend.make(tmp_path)))
        async with asyncio.timeout(PATIENCE):
            while await store.records(RecordQuery(PENDING)):
                await asyncio.sleep(0.02)
        assert sorted(receiver.ids) == sorted(f"msg_{ref}" for ref in refs)


async def _worker_killed(folder: Path) -> None:
    environment = {
        "SECRET": SECRET,
        "RAINCHECK_STATE__PROVIDER": "redis",
        "RAINCHECK_STATE__URL": server_of(RedisServer).url,
        "RAINCHECK_STATE__KEY_PREFIX": "webhooks:",
    }
    async with receiving(hang, FINE) as receiver:
        place = Workplace(folder, SERVED.format(host=receiver.host), FUNCTIONS)
        async with AsyncExitStack() as stack:
            accepting = environment | {"RAINCHECK_EXECUTION__MAX_CONCURRENCY": "0"}
            server = await stack.enter_async_context(place.http(env=accepting))
            worker = await stack.enter_async_context(place.command("worker", env=environment))
            caller = await stack.enter_async_context(calling(server.port))
            ticket = await caller.submit("echo", {"value": "v"}, callback_url=receiver.url)
            await receiver.got(1, 20)
            await worker.kill()
            await receiver.got(2, 20)
            assert set(receiver.ids) == {f"msg_{ticket['task_ref']}"}


@asynccontextmanager
async def opened(store: TaskStore) -> AsyncGenerator[TaskStore]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()
