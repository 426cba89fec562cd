"""What the SQLite store's verbs cost with 10³ to 10⁶ stored tasks: `python -m benchmarks.store` prints a table.

The tasks are put in through the store itself, so the file is what a server would have written: mostly settled tasks, as
in a store that keeps them for their retention.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from raincheck.stores.sqlite import SqliteStore
from raincheck.task import Outcome, Task, TaskStatus, new_task_ref, utc_now

SIZES = (1_000, 10_000, 100_000, 1_000_000)
BATCH = 2_000
SAMPLES = 200


def _task(*, settled: bool) -> Task:
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


async def _fill(store: SqliteStore, wanted: int, stored: int) -> str:
    """Add settled tasks until there are `wanted`; a task_ref from among them."""
    ref = ""
    while stored < wanted:
        batch = [_task(settled=True) for _ in range(min(BATCH, wanted - stored))]
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


async def _measure(store: SqliteStore, ref: str) -> list[float]:
    new: list[Task] = []

    async def insert() -> None:
        new.append(_task(settled=False))
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
        await _micros(lambda: store.list(scope="local", limit=50)),
        await _micros(store.count),
    ]
    await settle_new()
    return found


async def _run(largest: int) -> None:
    heads = ("tasks", "insert µs", "inserts/s at 50", "get µs", "gets/s at 50", "claimable", "overdue", "purge", "list")
    print("| " + " | ".join([*heads, "count"]) + " |\n|" + " ---: |" * (len(heads) + 1))
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder:
        store = SqliteStore(Path(folder) / "tasks.db")
        await store.open()
        try:
            stored = 0
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
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="the most tasks (default 1,000,000)")
    asyncio.run(_run(parser.parse_args().largest))


if __name__ == "__main__":
    main()
