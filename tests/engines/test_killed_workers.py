"""Worker processes end by `kill -9`: what they had goes to others, and their queue keeps nothing of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from engines.children import declare
from engines.kinds import Place, query
from engines.submitting import settled, submit, until

from raincheck.domain.task import TaskStatus
from support.history import figures
from support.lab import Lab

TESTS = Path(__file__).parent.parent
CHILD = Path(__file__).with_name("children.py")
LEASE = 1.0
_WORKERS = "SELECT count(*) FROM raincheck_queue.procrastinate_workers"

# docket brings a job again that was not renewed for so long; it renews four times as often.
REDELIVERY, LATE_REDELIVERY = 6.0, 12.0

Spawn = Callable[..., Awaitable["Child"]]


class Child:
    """A worker process."""

    def __init__(self, arguments: list[str]) -> None:
        search = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": search},
        )

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        """In order."""
        self.process.communicate()
        assert self.process.returncode == 0


@pytest.fixture
def history(lab: Lab, tmp_path: Path) -> Path:
    path = tmp_path / "history"
    declare(lab, path)
    return path


@pytest.fixture
async def spawn(lab: Lab, queue: Place, history: Path) -> AsyncIterator[Spawn]:
    """Starts a worker process on the queue; all are killed at the end."""
    children: list[Child] = []
    address = queue.server.database(1) if queue.kind.name == "docket" else queue.server.url

    async def start(redelivery: float = REDELIVERY) -> Child:
        child = Child([queue.kind.name, address, queue.name, str(lab.path), str(history), str(redelivery)])
        children.append(child)
        await asyncio.to_thread(child.ready)
        return child

    yield start
    for child in children:
        await asyncio.to_thread(child.kill)


def starts(history: Path) -> dict[str, list[int]]:
    """The processes that started each task, in order."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for line in history.read_text().splitlines():
        fact = json.loads(line)
        if fact["event"] == "start":
            found[fact["ref"]].append(fact["pid"])
    return found


async def test_what_a_killed_worker_had_is_taken_over(lab: Lab, queue: Place, history: Path, spawn: Spawn) -> None:
    async with lab.service(engine=queue.engine(), max_concurrency=0, lease_seconds=LEASE) as server:
        doomed = await spawn(LATE_REDELIVERY)
        # However long the other one takes to come up, the first start is not at its end by then.
        again = await submit(server, "retry", 2, seconds=60)
        once = await submit(server, "fail", 2, seconds=60)
        await until(lambda: len(starts(history)) == 4, 20)
        # These wait behind them: the places are taken.
        others = await submit(server, "retry", 6, seconds=0.01)
        other = await spawn(LATE_REDELIVERY)
        await asyncio.to_thread(doomed.kill)
        killed = time.monotonic()
        # Not by the queue's own second delivery, which comes later.
        await until(lambda: all(len(starts(history)[ref]) == 2 for ref in again), 3 / 4 * LATE_REDELIVERY)
        takeover = time.monotonic() - killed
        done = await settled(server, [*again, *others])
        assert {task.status for task in done} == {TaskStatus.COMPLETED}
        lost = [task.outcome.error.code for task in await settled(server, once) if task.outcome and task.outcome.error]
        assert lost == ["worker_lost"] * 2
        cleared = time.monotonic()
        await until(lambda: not queue.left(), 40)
        cleared = time.monotonic() - cleared
        if queue.kind.name == "procrastinate":
            await until(
                lambda: len(query(queue.server, "SELECT 1 FROM raincheck_queue.procrastinate_workers")) == 1, 20
            )
        await asyncio.to_thread(other.stop)
    assert all(len(starts(history)[ref]) == 1 for ref in [*once, *others])
    figures(
        f"A worker killed with four tasks, {queue.kind.name}, lease {LEASE:g} s",
        {"until its tasks ran elsewhere, s": takeover, "until the queue held nothing of it, s": cleared},
    )


async def test_a_task_that_kills_its_workers_is_given_up(lab: Lab, queue: Place, history: Path, spawn: Spawn) -> None:
    async with lab.service(engine=queue.engine(), max_concurrency=0, lease_seconds=LEASE) as server:
        ref = (await submit(server, "deadly"))[0]
        for _ in range(3):
            victim = await spawn()
            await asyncio.to_thread(victim.process.wait, 20)
        task = (await settled(server, [ref]))[0]
        survivor = await spawn()
        others = await settled(server, await submit(server, "fail", 3, seconds=0.01))
        assert {other.status for other in others} == {TaskStatus.COMPLETED}
        await until(lambda: not queue.left(), 40)
        await asyncio.to_thread(survivor.stop)
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert task.outcome.error.code == "worker_lost"
    assert len(starts(history)[ref]) == 3


async def test_tasks_run_once_each_in_the_midst_of_killed_workers(
    lab: Lab, queue: Place, history: Path, spawn: Spawn
) -> None:
    async with lab.service(engine=queue.engine(), max_concurrency=0, lease_seconds=LEASE) as server:
        children = [await spawn(), await spawn()]
        refs = await submit(server, "fail", 100, seconds=0.02)
        for _ in range(3):
            # Four places each of the killed may have claimed and not begun: those tasks never start.
            wanted = min(100 - 12, len(starts(history)) + 10)
            await until(lambda wanted=wanted: len(starts(history)) >= wanted, 60)
            await asyncio.to_thread(children.pop(0).kill)
            children.append(await spawn())
        done = await settled(server, refs, 60)
        statuses = Counter(task.status for task in done)
        await until(lambda: not queue.left(), 40)
        for child in children:
            await asyncio.to_thread(child.stop)
    assert set(statuses) <= {TaskStatus.COMPLETED, TaskStatus.FAILED}
    # Each of the killed had at most its four places.
    assert statuses[TaskStatus.FAILED] <= 12
    assert all(len(pids) == 1 for pids in starts(history).values())
