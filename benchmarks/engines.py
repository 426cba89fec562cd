"""What the queues' engines cost beside the queues themselves: `python -m benchmarks.engines` prints a table.

Every contestant takes the same number of no-op tasks from the same number of callers, on the same server, with as many
places; raw ones do what the queue's own users do. All within one process, so that the figures are those of one core.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from raincheck.engines.local import local_engine
from raincheck.ports.engine import EngineFactory
from raincheck.ports.task_store import TaskStore
from raincheck.runtime.service import Service
from raincheck.stores.sqlite.store import SqliteStore

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.lab import Lab
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer

CALLERS = 50
PLACES = 50
LATENCIES = 40
SECONDS = 120.0


class Sight:
    """What the tasks' own code saw."""

    def __init__(self) -> None:
        self.started = 0
        self.last_start = 0.0

    def note(self) -> None:
        self.started += 1
        self.last_start = time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Running:
    """A contestant that is ready.

    Attributes:
        submit: Take one task; durable when it returns.
        settled: How many tasks have come to their end.
    """

    submit: Callable[[], Awaitable[None]]
    settled: Callable[[], Awaitable[int]]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One row of the table; `raw` names the row that it is compared with."""

    name: str
    make: Callable[[Sight], Any]
    raw: str = ""


@asynccontextmanager
async def raincheck(sight: Sight, store: Callable[[], TaskStore], engine: EngineFactory) -> AsyncGenerator[Running]:
    """A server that only accepts (but with the local engine), and a worker."""
    with tempfile.TemporaryDirectory(prefix="bench-engines-") as folder:
        lab = Lab(Path(folder) / "unused.db")

        @lab.operation("noop")
        async def _(arguments: Mapping[str, Any], context: Any) -> Any:
            sight.note()

        settings: dict[str, Any] = {"engine": engine, "lease_seconds": 15.0}
        async with AsyncExitStack() as stack:
            worker = await stack.enter_async_context(lab.service(store=store(), max_concurrency=PLACES, **settings))
            server: Service = worker
            if engine is not local_engine:
                server = await stack.enter_async_context(lab.service(store=store(), max_concurrency=0, **settings))

            async def submit() -> None:
                await server.registry.submit("noop", {}, scope="bench")

            async def settled() -> int:
                counts = await worker._store.count()  # pyright: ignore[reportPrivateUsage]
                return sum(count for status, count in counts.items() if status.terminal)

            yield Running(submit=submit, settled=settled)


@asynccontextmanager
async def raw_docket(sight: Sight, url: str) -> AsyncGenerator[Running]:
    from docket import Docket, Worker

    ended = 0

    async def noop(ref: str) -> None:
        nonlocal ended
        sight.note()
        ended += 1

    async with Docket("raw", f"{url}?max_connections={PLACES + CALLERS + 20}") as docket:
        docket.register(noop)
        check = timedelta(milliseconds=20)
        async with Worker(docket, concurrency=PLACES, minimum_check_interval=check) as worker:
            running = asyncio.create_task(worker.run_forever())

            async def submit() -> None:
                await docket.add(noop)("a task's id")

            async def settled() -> int:
                return ended

            try:
                yield Running(submit=submit, settled=settled)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def raw_procrastinate(sight: Sight, url: str) -> AsyncGenerator[Running]:
    from procrastinate import App, PsycopgConnector

    ended = 0
    app = App(connector=PsycopgConnector(conninfo=url, min_size=4, max_size=20))

    @app.task(name="noop", queue="raw")
    async def noop(ref: str) -> None:
        nonlocal ended
        sight.note()
        ended += 1

    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            app.run_worker_async(
                queues=["raw"], concurrency=PLACES, install_signal_handlers=False, delete_jobs="successful"
            )
        )

        async def submit() -> None:
            await noop.defer_async(ref="a task's id")

        async def settled() -> int:
            return ended

        try:
            yield Running(submit=submit, settled=settled)
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)


def contestants(redis: RedisServer, postgres: PostgresServer, folder: Path) -> list[Contestant]:
    """All that take part, each raw queue before what is compared with it."""
    from raincheck.engines.docket.engine import docket_engine
    from raincheck.engines.procrastinate.engine import job_statement, procrastinate_engine
    from raincheck.stores.postgres.store import PostgresStore
    from raincheck.stores.redis.store import RedisStore

    docket = docket_engine(redis.database(1), name="bench", reconcile_seconds=5)
    jobs = procrastinate_engine(postgres.url, name="bench", reconcile_seconds=5, jobs_come_with_tasks=True)

    def redis_store() -> TaskStore:
        return RedisStore(redis.database(0), key_prefix="bench:")

    def postgres_store() -> TaskStore:
        return PostgresStore(postgres.url, companion=job_statement("bench"))

    def postgres_alone() -> TaskStore:
        return PostgresStore(postgres.url, schema="alone")

    def redis_alone() -> TaskStore:
        return RedisStore(redis.database(3), key_prefix="alone:")

    def sqlite() -> TaskStore:
        return SqliteStore(folder / "tasks.db")

    return [
        Contestant(name="docket, raw", make=lambda sight: raw_docket(sight, redis.database(2))),
        Contestant(name="redis + docket", make=lambda sight: raincheck(sight, redis_store, docket), raw="docket, raw"),
        Contestant(name="procrastinate, raw", make=lambda sight: raw_procrastinate(sight, postgres.url)),
        Contestant(
            name="postgres + procrastinate",
            make=lambda sight: raincheck(sight, postgres_store, jobs),
            raw="procrastinate, raw",
        ),
        Contestant(name="redis + local", make=lambda sight: raincheck(sight, redis_alone, local_engine)),
        Contestant(name="postgres + local", make=lambda sight: raincheck(sight, postgres_alone, local_engine)),
        Contestant(name="sqlite + local", make=lambda sight: raincheck(sight, sqlite, local_engine)),
    ]


async def _settle(running: Running, wanted: int) -> None:
    async with asyncio.timeout(SECONDS):
        while await running.settled() < wanted:
            await asyncio.sleep(0.005)


async def _per_second(running: Running, tasks: int) -> float:
    """From the first submission to the last end."""
    before = await running.settled()
    left = iter(range(tasks))

    async def caller() -> None:
        for _ in left:
            await running.submit()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    await _settle(running, before + tasks)
    return tasks / (time.perf_counter() - began)


async def _latencies(running: Running, sight: Sight) -> list[float]:
    """From an acknowledged submission to the start in an idle worker, in milliseconds."""
    taken: list[float] = []
    for _ in range(LATENCIES):
        settled = await running.settled()
        await running.submit()
        accepted = time.perf_counter()
        await _settle(running, settled + 1)
        taken.append(max(0.0, sight.last_start - accepted) * 1000)
        await asyncio.sleep(0.02)
    return taken


async def _measure(rounds: int, tasks: int, only: str) -> None:
    redis, postgres = RedisServer(), PostgresServer(fsync=True)
    rates: dict[str, list[float]] = {}
    delays: dict[str, list[float]] = {}
    try:
        redis.start()
        postgres.start()
        with tempfile.TemporaryDirectory(prefix="bench-engines-") as folder:
            taking_part = [each for each in contestants(redis, postgres, Path(folder)) if only in each.name]
            for number in range(rounds):
                for each in taking_part:
                    print(f"round {number + 1} of {rounds}: {each.name}", file=sys.stderr, flush=True)
                    sight = Sight()
                    async with each.make(sight) as running:
                        await _per_second(running, 50)
                        rates.setdefault(each.name, []).append(await _per_second(running, tasks))
                        delays.setdefault(each.name, []).extend(await _latencies(running, sight))
    finally:
        redis.close()
        postgres.close()
    _table(taking_part, rates, delays)


def _table(taking_part: list[Contestant], rates: dict[str, list[float]], delays: dict[str, list[float]]) -> None:
    print("| | tasks/s | of raw | to an idle worker, ms (median) |\n| --- | ---: | ---: | ---: |")
    for each in taking_part:
        rate, delay = median(rates[each.name]), median(delays[each.name])
        # Each round's own ratio: the machine may be busier in one than in another.
        ratios = [ours / raw for ours, raw in zip(rates[each.name], rates[each.raw], strict=True)] if each.raw else []
        ratio = f"{median(ratios):.2f}" if ratios else ""
        print(f"| {each.name} | {rate:,.0f} | {ratio} | {delay:.1f} |")


def main() -> None:
    """Measure as often as asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=2000, help="no-op tasks of a round")
    parser.add_argument("--only", help="contestants whose name has this in it")
    arguments = parser.parse_args()
    for name in ("docket", "procrastinate", "psycopg.pool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    asyncio.run(_measure(arguments.rounds, arguments.tasks, arguments.only or ""))


if __name__ == "__main__":
    main()
