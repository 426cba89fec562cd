"""What a store's verbs cost with 10³ to 10⁶ stored tasks: `python -m benchmarks.store --store NAME` prints a table.

The tasks are put in through the store itself, so its place is what a server would have written: mostly settled tasks,
as in a store that keeps them for their retention. A store on the network gets a private server, which waits for its
disk, unless `--url` names one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from raincheck.domain.task import Outcome, Task, TaskStatus, new_task_ref
from raincheck.ports.task_store import TaskQuery, TaskStore
from raincheck.timing.clock import utc_now

if TYPE_CHECKING:
    from support.servers.server import Server

SIZES = (1_000, 10_000, 100_000, 1_000_000)
BATCH = 2_000
SAMPLES = 200


def _memory(_: Path, __: str) -> TaskStore:
    from raincheck.stores.memory.store import MemoryStore

    return MemoryStore()


def _sqlite(folder: Path, _: str) -> TaskStore:
    from raincheck.stores.sqlite.store import SqliteStore

    return SqliteStore(folder / "tasks.db")


def _postgres(_: Path, url: str) -> TaskStore:
    from raincheck.stores.postgres.store import PostgresStore

    return PostgresStore(url, schema="bench")


def _redis(_: Path, url: str) -> TaskStore:
    from raincheck.stores.redis.store import RedisStore

    return RedisStore(url, key_prefix="bench:")


def _dynamodb(_: Path, url: str) -> TaskStore:
    from raincheck.stores.dynamodb.store import DynamoDBStore

    return DynamoDBStore("bench", endpoint=url)


def _postgres_server() -> Server:
    from support.servers.postgres import PostgresServer

    return PostgresServer(fsync=True)


def _redis_server() -> Server:
    from support.servers.redis import RedisServer

    return RedisServer()


def _dynamodb_server() -> Server:
    from support.servers.dynamodb import CREDENTIALS, DynamoDBServer

    os.environ.update(CREDENTIALS)
    return DynamoDBServer()


MAKERS: Mapping[str, Callable[[Path, str], TaskStore]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "postgres": _postgres,
    "redis": _redis,
    "dynamodb": _dynamodb,
}
"""Each store by its provider's name, given a folder and the address of a server."""

SERVERS: Mapping[str, Callable[[], Server]] = {
    "postgres": _postgres_server,
    "redis": _redis_server,
    "dynamodb": _dynamodb_server,
}
"""The private server of each store that needs one, not yet started."""


@contextmanager
def address(name: str, url: str) -> Generator[str]:
    """The address of that store's server: the given one, else that of a private server, which ends with the block."""
    if url or name not in SERVERS:
        yield url
        return
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    server = SERVERS[name]()
    try:
        server.start()
        yield server.url
    finally:
        server.close()


def new_task(*, settled: bool) -> Task:
    now = utc_now()
    return Task(
        task_ref=new_task_ref(),
        scope="local",
        operation_type="noop",
        arguments={"number": 1},
        created_at=now,
        updated_at=now,
        deadline_at=now + timedelta(hours=1),
        ttl_seconds=86400.0,
        status=TaskStatus.COMPLETED if settled else TaskStatus.PENDING,
        settled_at=now if settled else None,
        expires_at=now + timedelta(days=1) if settled else None,
        outcome=Outcome(value="done") if settled else None,
    )


async def _fill(store: TaskStore, wanted: int, stored: int) -> str:
    """Add settled tasks until there are `wanted`; a task_ref from among them."""
    ref = ""
    while stored < wanted:
        batch = [new_task(settled=True) for _ in range(min(BATCH, wanted - stored))]
        await asyncio.gather(*(store.insert(task) for task in batch))
        stored += len(batch)
        ref = batch[0].task_ref
    return ref


async def _micros(verb: Callable[[], Awaitable[object]]) -> float:
    """The median of one call after another, in microseconds."""
    taken: list[float] = []
    for _ in range(SAMPLES):
        started = time.perf_counter()
        await verb()
        taken.append((time.perf_counter() - started) * 1e6)
    return statistics.median(taken)


async def _per_second(verb: Callable[[], Awaitable[object]]) -> float:
    """Calls per second, 50 at a time."""
    started = time.perf_counter()
    for _ in range(20):
        await asyncio.gather(*(verb() for _ in range(50)))
    return 1000 / (time.perf_counter() - started)


async def _measure(store: TaskStore, ref: str) -> list[float]:
    new: list[Task] = []

    async def insert() -> None:
        new.append(new_task(settled=False))
        await store.insert(new[-1])

    async def settle_new() -> None:
        """Leave nothing pending behind: the sizes are those of a store that keeps settled tasks."""
        now = utc_now()
        for start in range(0, len(new), BATCH):
            await asyncio.gather(
                *(
                    store.replace(
                        replace(
                            task,
                            status=TaskStatus.COMPLETED,
                            version=2,
                            settled_at=now,
                            expires_at=now + timedelta(days=1),
                            outcome=Outcome(value="done"),
                        )
                    )
                    for task in new[start : start + BATCH]
                )
            )

    now = utc_now()
    found = [
        await _micros(insert),
        await _per_second(insert),
        await _micros(lambda: store.get(ref)),
        await _per_second(lambda: store.get(ref)),
        await _micros(lambda: store.claimable(["noop"], 10)),
        await _micros(lambda: store.overdue(now, 100)),
        await _micros(lambda: store.purge(now, 100)),
        await _micros(lambda: store.list(TaskQuery(scope="local", limit=50))),
        await _micros(store.count),
    ]
    await settle_new()
    return found


async def _run(name: str, url: str, largest: int) -> None:
    heads = ("tasks", "insert µs", "inserts/s at 50", "get µs", "gets/s at 50", "claimable", "overdue", "purge", "list")
    print("| " + " | ".join([*heads, "count"]) + " |\n|" + " ---: |" * (len(heads) + 1))
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder, address(name, url) as server:
        store = MAKERS[name](Path(folder), server)
        await store.open()
        try:
            stored = sum((await store.count()).values())
            for size in SIZES:
                if size > largest:
                    break
                print(f"filling up to {size:,}", file=sys.stderr, flush=True)
                ref = await _fill(store, size, stored)
                found = await _measure(store, ref)
                stored = sum((await store.count()).values())
                print("| " + " | ".join([f"{size:,}", *(f"{value:,.0f}" for value in found)]) + " |", flush=True)
        finally:
            await store.close()


def main() -> None:
    """Measure up to the largest size asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("--store", choices=sorted(MAKERS), default="sqlite", help="which store (default sqlite)")
    parser.add_argument("--url", default="", help="a server's address; its tasks stay there")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="the most tasks (default 1,000,000)")
    arguments = parser.parse_args()
    asyncio.run(_run(arguments.store, arguments.url, arguments.largest))


if __name__ == "__main__":
    main()
