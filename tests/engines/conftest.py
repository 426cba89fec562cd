"""Queues for the tests, each test with one of its own; and nothing of an engine is left after a test."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from engines.kinds import KINDS, QUEUES, Kind, Place, end_servers, server_of

from support.lab import Lab
from support.servers.server import needed


@pytest.fixture(scope="session", autouse=True)
def _servers() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    end_servers()


@pytest.fixture(autouse=True)
async def _nothing_left_running() -> AsyncIterator[None]:  # pyright: ignore[reportUnusedFunction]
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    yield
    assert asyncio.all_tasks() - tasks - {asyncio.current_task()} == set()
    # The event loop's own pool of threads (DNS, `to_thread`) ends with the loop.
    left = [thread.name for thread in threading.enumerate() if thread not in threads]
    assert [name for name in left if not name.startswith("asyncio_")] == []


def _place(kind: Kind) -> Place:
    needed(kind.missing())
    server = None if kind.server is None else server_of(kind.server)
    return Place(kind=kind, server=server, name=f"q{secrets.token_hex(6)}")


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def place(request: pytest.FixtureRequest) -> Place:
    """Each engine in turn."""
    return _place(request.param)


@pytest.fixture(params=QUEUES, ids=lambda kind: kind.name)
def queue(request: pytest.FixtureRequest) -> Place:
    """Each engine that has a queue, in turn."""
    return _place(request.param)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "tasks.db")
