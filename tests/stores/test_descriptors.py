"""This process runs out of descriptors: calls are refused, retryable, and all goes on once there are some again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from stores.backends import name_of, server_of
from stores.records import claimed, new_task, stored

from raincheck.domain.task import Task
from raincheck.errors import StoreUnavailable
from raincheck.ports.task_store import TaskQuery, TaskStore
from raincheck.stores.sqlite.store import SqliteStore
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer
from support.servers.server import needed


@contextlib.contextmanager
def no_descriptor_left() -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def verbs(store: TaskStore, tasks: list[Task]) -> list[object]:
    return await asyncio.gather(
        *(store.insert(new_task()) for _ in tasks),
        *(store.get(task.task_ref) for task in tasks),
        *(store.replace(claimed(task)) for task in tasks),
        store.list(TaskQuery()),
        store.renew("w", {task.task_ref: 1 for task in tasks}, tasks[0].deadline_at),
        return_exceptions=True,
    )


def _sqlite(folder: Path) -> TaskStore:
    return SqliteStore(folder / "tasks.db")


def _postgres(folder: Path) -> TaskStore:
    from raincheck.stores.postgres.store import PostgresStore

    needed(PostgresServer.missing())
    return PostgresStore(server_of(PostgresServer).url, schema=name_of(folder), timeout_seconds=1.0)


def _redis(folder: Path) -> TaskStore:
    from raincheck.stores.redis.store import RedisStore

    needed(RedisServer.missing())
    return RedisStore(server_of(RedisServer).url, key_prefix=f"{name_of(folder)}:", timeout_seconds=1.0)


@pytest.mark.parametrize(
    "make", [_sqlite, pytest.param(_postgres, marks=pytest.mark.full), pytest.param(_redis, marks=pytest.mark.full)]
)
async def test_a_store_goes_on_after_its_process_was_out_of_descriptors(
    make: Callable[[Path], TaskStore], tmp_path: Path
) -> None:
    store = make(tmp_path)
    await store.open()
    tasks = [await stored(store) for _ in range(5)]
    with no_descriptor_left():
        answers = await verbs(store, tasks)
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    assert [error for error in errors if not isinstance(error, StoreUnavailable)] == []
    again = [await stored(store) for _ in range(5)]
    assert [answer for answer in await verbs(store, again) if isinstance(answer, BaseException)] == []
    await store.close()
