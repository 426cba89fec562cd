"""How long one task of ada waits where bob has sixty before her: `python benchmarks/turns.py [--seconds 3]`.

One process on a SQLite file, five places. Printed: after how long hers started, and what she is told afterwards, when
nobody waits, of how long a task takes.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from raincheck.domain.task import TaskStatus
from raincheck.operations.python.executor import python_operation
from raincheck.polling.hints import Hints
from raincheck.polling.schedule import BackoffLadder
from raincheck.runtime.service import Service, ServiceSettings
from raincheck.stores.sqlite.store import SqliteStore


async def measure(folder: Path, seconds: float, places: int, tasks: int) -> None:
    async def work() -> None:
        await asyncio.sleep(seconds)

    operation = python_operation(work, operation_type="work", description="Work.")
    settings = ServiceSettings(max_concurrency=places, drain_seconds=0)
    service = Service(SqliteStore(folder / "tasks.db"), {"work": operation}, settings)
    await service.start()
    try:
        registry, hints = service.registry, Hints(BackoffLadder(), service.history.known)
        his = [(await registry.submit("work", {}, scope="bob")).task for _ in range(tasks)]
        hers = (await registry.submit("work", {}, scope="ada")).task
        while (task := await registry.get(hers.task_ref, scope="ada")).status is TaskStatus.PENDING:
            await asyncio.sleep(0.01)
        assert task.started_at is not None
        print(f"of {tasks} before it: started after {(task.started_at - task.created_at).total_seconds():.1f} s")
        for each in his:
            await registry.wait(each.task_ref, scope="bob", seconds=10 * seconds * tasks)
        fresh = (await registry.submit("work", {}, scope="ada")).task
        hints.eta(fresh, service.clock())
        print(f"of none before it: eta {hints.eta(fresh, service.clock())} s, runs {seconds:g} s")
    finally:
        await service.stop(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--places", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), given.seconds, given.places, given.tasks))


if __name__ == "__main__":
    main()
