"""Replicas: several services on one store, in one process, and nothing of them left after a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stores.backends import BACKENDS, Backend, end_servers

from raincheck.ports.task_store import TaskStore
from raincheck.runtime.service import Service
from raincheck.timing.clock import utc_now
from support.lab import Lab
from support.servers.server import needed

SHARED = [backend for backend in BACKENDS if backend.name in ("sqlite", "postgres", "redis")]


@dataclass
class Clock:
    """The time, and what a test adds to it."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@dataclass
class Gauge:
    """How many bodies run now, how many ever did at once, and how many began."""

    now: int = 0
    most: int = 0
    starts: int = 0

    def __enter__(self) -> Gauge:
        self.now += 1
        self.starts += 1
        self.most = max(self.most, self.now)
        return self

    def __exit__(self, *_: object) -> None:
        self.now -= 1


class Replicas:
    """Starts services that share one place."""

    def __init__(self, lab: Lab, make: Callable[[], TaskStore], stack: AsyncExitStack) -> None:
        self.lab = lab
        self._make = make
        self._stack = stack

    async def start(self, **settings: Any) -> Service:
        """One more replica, stopped at the end of the test."""
        return await self._stack.enter_async_context(self.lab.service(store=self._make(), **settings))


@pytest.fixture(scope="session", autouse=True)
def _servers() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    end_servers()


@pytest.fixture(autouse=True)
async def _nothing_left_running() -> AsyncIterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("raincheck")]
    assert left == []


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "tasks.db")


@pytest.fixture(params=SHARED, ids=lambda backend: backend.name)
async def replicas(request: pytest.FixtureRequest, tmp_path: Path, lab: Lab) -> AsyncIterator[Replicas]:
    """Replicas on each store that several processes can share."""
    backend: Backend = request.param
    needed(backend.missing())
    async with AsyncExitStack() as stack:
        yield Replicas(lab, lambda: backend.make(tmp_path), stack)
