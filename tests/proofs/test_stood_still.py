"""A worker that stands still without being dead: nothing of its tasks runs beside their second start."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import sys
from collections.abc import Generator
from contextlib import AsyncExitStack
from pathlib import Path

from support.history import FUNCTIONS, History
from support.serving import Workplace

LEASE = 2.0
KINDS = ("steps", "sleeps", "children", "isolated", "command")
OPERATIONS = (
    FUNCTIONS
    + '''

async def steps(task: TaskContext) -> None:
    """Always due: what the event loop has in its hands when the process is stopped goes on with it."""
    note("start", task)
    while True:
        for _ in range(20):
            await asyncio.sleep(0)
        note("tick", task)


async def sleeps(task: TaskContext) -> None:
    note("start", task)
    while True:
        await asyncio.sleep(0.002)
        note("tick", task)


async def children(task: TaskContext) -> None:
    note("start", task)

    async def child(seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            note("tick", task)

    async with asyncio.TaskGroup() as group:
        group.create_task(child(0.002))
        await asyncio.gather(child(0.003), child(0.005))


def isolated(task: TaskContext) -> None:
    note("start", task)
    while True:
        time.sleep(0.01)
        note("tick", task)
'''
)
COMMAND = """
import json, os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
event = "start"
while True:
    facts = {"event": event, "ref": os.environ["RAINCHECK_TASK_REF"], "operation": "command", "attempt": 0,
             "pid": os.getpid(), "at": time.monotonic()}
    os.write(file, (json.dumps(facts) + "\\n").encode())
    event = "tick"
    time.sleep(0.01)
"""


def place_in(folder: Path) -> Workplace:
    tables = [
        f'[operations.{name}]\nkind = "python"\ntarget = "ops:{name}"\non_worker_lost = "retry"'
        for name in ("steps", "sleeps", "children", "isolated")
    ]
    tables[3] += '\nisolation = "process"'
    script = folder / "command.py"
    script.write_text(COMMAND)
    argv = f'["{sys.executable}", "{script}", "{folder / "history.jsonl"}"]'
    tables.append(f'[operations.command]\nkind = "command"\nargv = {argv}\non_worker_lost = "retry"')
    execution = f"[execution]\nlease_seconds = {LEASE:g}\ndrain_seconds = 0.1\n"
    return Workplace(folder, execution + "\n".join(tables), OPERATIONS)


async def starts(place: Workplace, number: int, seconds: float = 30.0) -> None:
    """Wait until every task was started so often."""
    async with asyncio.timeout(seconds):
        while True:
            runs = History(place.history).runs
            if len(runs) == len(KINDS) and min(map(len, runs.values())) >= number:
                return
            await asyncio.sleep(0.05)


def beside(history: History) -> dict[str, float]:
    """By how many seconds a run was alive after the next start of its task."""
    return {
        f"{runs[0].operation} {ref}": earlier.last - later.started
        for ref, runs in history.runs.items()
        for number, later in enumerate(runs)
        for earlier in runs[:number]
        if earlier.last > later.started
    }


@contextlib.contextmanager
def locked(file: Path) -> Generator[None]:
    """Another program has the file for itself."""
    with contextlib.closing(sqlite3.connect(file, timeout=10, isolation_level=None)) as other:
        other.execute("begin immediate")
        yield


async def test_nothing_runs_beside_the_second_start_of_a_task_whose_worker_was_frozen_alone(tmp_path: Path) -> None:
    """Not even where the store gives no answer when it wakes."""
    place = place_in(tmp_path)
    async with AsyncExitStack() as stack:
        sleeper, other = [await stack.enter_async_context(place.stdio()) for _ in range(2)]
        await other.request("tools/list", {})
        for name in KINDS:
            await sleeper.submit(name)
        await starts(place, 1)
        sleeper.signal(signal.SIGSTOP)
        try:
            await starts(place, 2)
            with locked(place.database):
                sleeper.signal(signal.SIGCONT)
                # Longer than a worker waits for the store's answer.
                await asyncio.sleep(LEASE + 0.5)
        finally:
            sleeper.signal(signal.SIGCONT)
        await asyncio.sleep(0.5)
        found = beside(History(place.history))
        await sleeper.kill()
        await other.kill()
    assert found == {}
