"""Stores for the tests: made, opened, closed, and nothing of them left."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from stores.backends import BACKENDS, Backend, end_servers, name_of, server_of

from raincheck.ports.task_store import TaskStore
from raincheck.stores.sqlite.store import SqliteStore
from support.servers.dynamodb import CREDENTIALS, DynamoDBServer
from support.servers.redis import RedisServer
from support.servers.server import needed

if TYPE_CHECKING:
    from raincheck.stores.redis.store import RedisStore

OpenStore = Callable[[], Awaitable[TaskStore]]


def _open_files(folder: Path) -> list[str]:
    links: list[str] = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue
    return [link for link in links if link.startswith(str(folder))]


@pytest.fixture(scope="session", autouse=True)
def _servers() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    end_servers()


@pytest.fixture(autouse=True)
def _no_leaked_thread_or_file(tmp_path: Path) -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []
    if os.path.isdir("/proc/self/fd"):
        assert _open_files(tmp_path) == []


@pytest.fixture(autouse=True)
async def _no_leaked_task(_no_leaked_thread_or_file: None) -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each store in turn."""
    backend: Backend = request.param
    needed(backend.missing())
    return backend


@pytest.fixture
async def open_store(backend: Backend, tmp_path: Path, _no_leaked_task: None) -> AsyncIterator[OpenStore]:
    """Opens a further store over the same place; all are closed at the end."""
    opened: list[TaskStore] = []

    async def open_one() -> TaskStore:
        store = backend.make(tmp_path)
        opened.append(store)
        await store.open()
        return store

    yield open_one
    for store in opened:
        await store.close()
    if backend.leftovers is not None:
        assert await backend.leftovers(tmp_path) == []


@pytest.fixture
async def store(open_store: OpenStore) -> TaskStore:
    """An open, empty store."""
    return await open_store()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the SQLite tests have their file."""
    return tmp_path / "tasks.db"


@pytest.fixture
async def sqlite(path: Path, _no_leaked_task: None) -> AsyncIterator[SqliteStore]:
    """An open, empty SQLite store."""
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def endpoint() -> str:
    """The DynamoDB that all tests share."""
    needed(DynamoDBServer.missing())
    os.environ.update(CREDENTIALS)
    return server_of(DynamoDBServer).url


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A table of the test's own in it, not yet made."""
    return name_of(tmp_path)


MakeRedis = Callable[..., "RedisStore"]


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the test's own, to be killed, frozen and filled.

    Under its default, everysec, Redis answers before it writes while the last fsync still runs: a killed one could lose
    what it had acknowledged.
    """
    needed(RedisServer.missing())
    server = RedisServer("--appendfsync", "always")
    server.start()
    yield server
    server.close()


@pytest.fixture
async def make_redis(_no_leaked_task: None) -> AsyncIterator[MakeRedis]:
    """Makes Redis stores, not yet opened; all are closed at the end."""
    from raincheck.stores.redis.store import RedisStore

    made: list[RedisStore] = []

    def make(url: str, **settings: Any) -> RedisStore:
        made.append(RedisStore(url, **settings))
        return made[-1]

    yield make
    for store in made:
        await store.close()
