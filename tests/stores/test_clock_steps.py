"""The store's clock is set while workers live: no lease ends, whoever has read it already and whoever has not."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from chaos import clocks
from chaos.clocks import Clock
from stores.backends import name_of

from raincheck.domain.task import Task, TaskStatus
from raincheck.operations.context import TaskContext
from raincheck.ports.task_store import TaskStore
from raincheck.runtime.service import Service
from raincheck.timing import clock as store_clocks
from support.lab import Lab
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer
from support.servers.server import Server, needed

LEASE_SECONDS = 1.0
SERVERS = [PostgresServer, RedisServer]


@pytest.fixture
def stepping(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Clock]]:
    """A server and its clock, which can be set."""
    kind: type[Server] = request.param
    needed(clocks.missing() or getattr(kind, "missing")())  # noqa: B009  each kind has its own
    with tempfile.TemporaryDirectory(prefix="raincheck-stepping-") as folder:
        Path(folder).chmod(0o755)
        clock = Clock(Path(folder) / "clock")
        server = kind()
        server.environment |= clock.environment()
        try:
            server.start()
            yield server, clock
        finally:
            server.close()


def store_on(server: Server, tmp_path: Path) -> TaskStore:
    if isinstance(server, PostgresServer):
        from raincheck.stores.postgres.store import PostgresStore

        return PostgresStore(server.url, schema=name_of(tmp_path), pool_size=4)
    from raincheck.stores.redis.store import RedisStore

    return RedisStore(server.url)


@pytest.mark.parametrize("stepping", SERVERS, indirect=True, ids=lambda kind: kind.__name__)
async def test_tasks_of_living_workers_outlive_steps_of_the_stores_clock(
    stepping: tuple[Server, Clock], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, clock = stepping
    lab, starts, go = Lab(tmp_path), list[str](), asyncio.Event()

    async def work(arguments: Mapping[str, Any], context: TaskContext) -> str:
        starts.append(context.task_ref)
        while not go.is_set():
            await context.progress(0.5)
            await asyncio.sleep(0.1)
        return "done"

    lab.operation("retry", on_worker_lost="retry")(work)
    lab.operation("fail")(work)
    async with AsyncExitStack() as stack, asyncio.timeout(60):

        async def join(*reads: float, **settings: Any) -> Service:
            """One more process, which reads the store's clock so often."""
            monkeypatch.setattr(store_clocks, "_SYNC_SECONDS", reads)
            store = store_on(server, tmp_path)
            service = lab.service(store=store, lease_seconds=LEASE_SECONDS, **settings)
            return await stack.enter_async_context(service)

        never, often = await join(600.0), await join(0.1, max_concurrency=0)
        refs = [(await never.registry.submit(name, {}, scope="a")).task.task_ref for name in ("retry", "fail") * 3]
        while len(starts) < len(refs):
            await asyncio.sleep(0.01)
        for step in (90, 0):
            clock.shift(step)
            # One that starts after the step knows nothing of it; nor does one that reads no more.
            await join(600.0, max_concurrency=0)
            # And what is claimed by who has not yet read the clock.
            refs.append((await often.registry.submit("fail", {}, scope="a")).task.task_ref)
            await asyncio.sleep(2.5 * LEASE_SECONDS)
            assert {(await ended(never, ref, 0)).status for ref in refs} == {TaskStatus.PROCESSING}
        go.set()
        tasks = [await ended(often, ref, 10) for ref in refs]
    assert [(task.status, task.attempt) for task in tasks] == [(TaskStatus.COMPLETED, 1)] * len(refs)
    assert sorted(starts) == sorted(refs)


async def ended(service: Service, ref: str, seconds: float) -> Task:
    return await service.registry.wait(ref, scope="a", seconds=seconds)
