"""The Redis store's own pipeline beside redis-py's: `python -m benchmarks.redis_pipelines` prints a table.

Both carry the same scripts of the same store: only what sends and reads them differs. With redis-py's, what waits goes
as one `redis.asyncio` pipeline, and what comes in meanwhile waits for the answers to that one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

from benchmarks.store import address, new_task
from raincheck.domain.task import Task
from raincheck.stores.redis import commands, store
from raincheck.stores.redis.commands import Write
from raincheck.stores.redis.pipeline import Pipeline
from raincheck.stores.redis.store import RedisStore

CALLERS = (1, 50, 200)
CALLS = 4000
ROUNDS = 5

Figures = dict[int, tuple[float, float, float]]
"""By the number of callers: inserts a second, and of a `get` the median and the 99th percentile in milliseconds."""


class RedisPyPipeline(Pipeline):
    """The calls of a store by pipelines of redis-py's; commands are words, which redis-py encodes."""

    async def _run(self) -> None:
        client = self._address.client(1)
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while batch := self._batch():
                    written = [call for call in batch if isinstance(call, Write) and call.task_ref is not None]
                    last = written[-1] if written else None
                    news = self._news([cast("bytes", call.task_ref) for call in written])
                    pipe = client.pipeline(transaction=False)
                    for call in batch:
                        pipe.execute_command(*cast(Any, call.encoded(self._clock, news if call is last else b"")))
                    self._sent.extend(batch)
                    for answer in await pipe.execute(raise_on_error=False):
                        self._settle(self._sent.popleft(), answer)
                self._rest_if_idle()
        finally:
            await client.aclose()


def _words(words: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(words)


@contextlib.contextmanager
def _by_redis_py() -> Any:
    """Stores that are used in the block carry their calls by redis-py's pipelines."""
    modules: Any = (commands, store)
    ours = [module.encode_command for module in modules]
    store.__dict__["Pipeline"] = RedisPyPipeline
    for module in modules:
        module.encode_command = _words
    try:
        yield
    finally:
        store.__dict__["Pipeline"] = Pipeline
        for module, encode in zip(modules, ours, strict=True):
            module.encode_command = encode


async def _figures(url: str) -> Figures:
    figures: Figures = {}
    redis_store = RedisStore(url, key_prefix="bench:")
    await redis_store.open()
    for callers in CALLERS:
        tasks = [new_task(settled=False) for _ in range(CALLS if callers > 1 else CALLS // 8)]
        started = time.perf_counter()
        await _by_callers(callers, tasks, redis_store.insert)
        inserted = len(tasks) / (time.perf_counter() - started)
        taken = await _by_callers(callers, tasks, lambda task: redis_store.get(task.task_ref))
        figures[callers] = inserted, statistics.median(taken), statistics.quantiles(taken, n=100)[98]
    await redis_store.close()
    return figures


async def _by_callers(callers: int, tasks: list[Task], verb: Callable[[Task], Awaitable[object]]) -> list[float]:
    """Have so many callers share the tasks; what each call took, in milliseconds."""
    left, taken = iter(tasks), list[float]()

    async def caller() -> None:
        for task in left:
            started = time.perf_counter()
            await verb(task)
            taken.append((time.perf_counter() - started) * 1000)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return taken


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis_pipelines", description=__doc__)
    parser.add_argument("--url", default="", help="the server; without, a private one is started")
    rounds: dict[str, list[Figures]] = {"ours": [], "redis-py": []}
    with address("redis", parser.parse_args().url) as url:
        for _ in range(ROUNDS):
            rounds["ours"].append(asyncio.run(_figures(url)))
            with _by_redis_py():
                rounds["redis-py"].append(asyncio.run(_figures(url)))
    print("| pipeline | callers | inserts/s | get p50 ms | get p99 ms |\n| --- | ---: | ---: | ---: | ---: |")
    for callers in CALLERS:
        for name, each in rounds.items():
            inserted, half, most = (
                statistics.median(column) for column in zip(*(one[callers] for one in each), strict=True)
            )
            print(f"| {name} | {callers} | {inserted:,.0f} | {half:.2f} | {most:.2f} |")


if __name__ == "__main__":
    main()
