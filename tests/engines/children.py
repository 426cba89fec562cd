"""The worker processes of the engine tests: `python children.py ENGINE ADDRESS QUEUE DATABASE HISTORY REDELIVERY`.

A child says `ready` when it works, and stops in order when its stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raincheck.operations.context import TaskContext
from raincheck.ports.engine import EngineFactory
from support.lab import Lab

__all__ = ["declare"]

_PLACES = 4


def declare(lab: Lab, history: Path) -> None:
    """The operations that these processes have: the parent submits what the children run."""
    file = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(event: str, context: TaskContext) -> None:
        facts = {"event": event, "ref": context.task_ref, "attempt": context.attempt, "pid": os.getpid()}
        os.write(file, (json.dumps(facts) + "\n").encode())

    async def work(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        note("start", context)
        await asyncio.sleep(arguments["seconds"] if context.attempt == 1 else 0.1)
        note("end", context)
        return context.attempt

    async def deadly(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        note("start", context)
        os.kill(os.getpid(), signal.SIGKILL)

    lab.operation("retry", on_worker_lost="retry")(work)
    lab.operation("fail", on_worker_lost="fail")(work)
    lab.operation("deadly", on_worker_lost="retry", max_attempts=3)(deadly)


def _engine(kind: str, address: str, name: str, redelivery_seconds: float) -> EngineFactory:
    # A queue brings again what a dead worker had, long before the store is searched for it.
    if kind == "docket":
        from raincheck.engines.docket.engine import docket_engine

        return docket_engine(address, name=name, reconcile_seconds=60.0, redelivery_seconds=redelivery_seconds)
    from raincheck.engines.procrastinate.engine import procrastinate_engine

    return procrastinate_engine(address, name=name, reconcile_seconds=60.0, stalled_seconds=2.0)


async def main(kind: str, address: str, name: str, database: str, history: str, redelivery: str) -> None:
    lab = Lab(Path(database))
    declare(lab, Path(history))
    engine = _engine(kind, address, name, float(redelivery))
    async with lab.service(engine=engine, max_concurrency=_PLACES, drain_seconds=5.0):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
