"""The local engine on stores that several processes share: what one accepts, another starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest
from stores.backends import BACKENDS, Backend, end_servers

from raincheck.engines.local import LocalEngine
from raincheck.operations.context import TaskContext
from raincheck.ports.task_store import TaskStore
from support.lab import Lab
from support.servers.server import needed
from support.waiting import PATIENCE

PUSHING = [backend for backend in BACKENDS if backend.name in ("postgres", "redis")]


@pytest.fixture(scope="module", autouse=True)
def _stores() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    end_servers()


def _hardly_scanning(
    store: TaskStore, operation_types: Callable[[], Any], *, max_concurrency: int, clock: Callable[[], datetime]
) -> LocalEngine:
    return LocalEngine(store, operation_types, max_concurrency=max_concurrency, scan_seconds=3600)


@pytest.mark.parametrize("backend", PUSHING, ids=lambda backend: backend.name)
async def test_a_push_of_the_store_wakes_a_worker(backend: Backend, lab: Lab) -> None:
    """Nothing else would within this test."""
    needed(backend.missing())

    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> str:
        return "done"

    folder = lab.path.parent
    async with (
        lab.service(store=backend.make(folder), engine=_hardly_scanning) as worker,
        lab.service(store=backend.make(folder), max_concurrency=0) as server,
    ):
        # Its first scan is over: what it finds from now on it was told of.
        async with asyncio.timeout(PATIENCE):
            first = (await server.registry.submit("work", {}, scope="a")).task
            while not (await worker.registry.get(first.task_ref, scope="a")).terminal:
                await asyncio.sleep(0.01)
        for _turn in range(3):
            task = (await server.registry.submit("work", {}, scope="a")).task
            assert (await server.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)).terminal
