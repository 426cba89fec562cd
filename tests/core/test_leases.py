"""A worker that lives keeps its leases, whatever it writes meanwhile."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import StoreUnavailable
from raincheck.operations.command.executor import command_operation
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Policy
from raincheck.operations.python.executor import python_operation
from raincheck.ports.records import Record
from raincheck.ports.task_store import Capabilities, Listener
from raincheck.runtime import runner
from raincheck.stores.sqlite.store import SqliteStore
from raincheck.tasks import watch
from raincheck.timing.clock import monotonic
from support.lab import Lab
from support.waiting import PATIENCE


async def test_progress_does_not_take_back_what_the_heartbeat_renewed(lab: Lab) -> None:
    @lab.operation("steps")
    async def steps(arguments: Mapping[str, Any], context: TaskContext) -> str:
        for step in range(30):
            await context.progress(step / 30)
            await asyncio.sleep(0.1)
        return "done"

    async with lab.service(lease_seconds=1.0) as service:
        task = (await service.registry.submit("steps", {}, scope="local")).task
        ended = await service.registry.wait(task.task_ref, scope="local", seconds=PATIENCE)
        assert ended.outcome is not None
        assert ended.outcome.error is None
        assert ended.attempt == 1


async def test_nobody_listens_to_the_store_once_nothing_is_watched(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LINGER_SECONDS", 0.05)
    subscriptions: list[bool] = []
    subscribe = SqliteStore.subscribe

    def counted(store: SqliteStore, listener: Listener) -> Callable[[], None]:
        subscriptions.append(True)
        end = subscribe(store, listener)

        def unsubscribe() -> None:
            subscriptions.append(False)
            end()

        return unsubscribe

    monkeypatch.setattr(SqliteStore, "subscribe", counted)

    @lab.operation("quick")
    async def quick(arguments: Mapping[str, Any], context: TaskContext) -> str:
        return "done"

    async with lab.service() as service:
        assert subscriptions == []
        task = (await service.registry.submit("quick", {}, scope="local")).task
        assert (await service.registry.wait(task.task_ref, scope="local", seconds=PATIENCE)).terminal
        async with asyncio.timeout(PATIENCE):
            while subscriptions != [True, False]:
                await asyncio.sleep(0.01)


class CutOff(SqliteStore):
    """A store that a worker may be cut off from, as one on the network; `cut` does it."""

    cut = False

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, remote=True)

    async def renew(
        self,
        worker_id: str,
        leases: Mapping[str, int],
        lease_until: datetime,
        *,
        lease_seconds: float | None = None,
    ) -> set[str]:
        self._reach()
        return await super().renew(worker_id, leases, lease_until, lease_seconds=lease_seconds)

    async def versions(self, task_refs: Collection[str]) -> Mapping[str, int]:
        self._reach()
        return await super().versions(task_refs)

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        records: Sequence[Record] = (),
    ) -> bool:
        self._reach()
        return await super().replace(task, seen_lease=seen_lease, lease_seconds=lease_seconds, records=records)

    def _reach(self) -> None:
        if self.cut:
            raise StoreUnavailable("The store cannot be reached.")


async def test_a_worker_that_is_cut_off_stops_in_time_what_another_one_may_start(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on with what nobody else will ever start."""
    starts: list[str] = []
    ended = asyncio.Event()
    lived: list[tuple[int, float]] = []

    @lab.operation("retry", on_worker_lost="retry")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> str:
        if context.fence > 1:
            lived.append((2, monotonic()))
            await asyncio.sleep(0.3)
            return "again"
        starts.append("retry")
        try:
            while True:
                lived.append((1, monotonic()))
                await asyncio.sleep(0.02)
        finally:
            ended.set()

    @lab.operation("fail")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> str:
        starts.append("fail")
        await ended.wait()
        return "finished"

    async with lab.service(store=CutOff(lab.path)) as worker, asyncio.timeout(PATIENCE):
        refs = [(await worker.registry.submit(name, {}, scope="a")).task.task_ref for name in ("retry", "fail")]
        while len(starts) < 2:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(CutOff, "cut", True)
        async with lab.service() as other:
            retried = await other.registry.wait(refs[0], scope="a", seconds=PATIENCE)
            monkeypatch.setattr(CutOff, "cut", False)
            failed = await other.registry.wait(refs[1], scope="a", seconds=PATIENCE)
    assert retried.outcome is not None
    assert (retried.outcome.value, retried.attempt) == ("again", 2)
    assert ended.is_set()
    assert (failed.attempt, failed.terminal) == (1, True)
    assert max(at for run, at in lived if run == 1) < min(at for run, at in lived if run == 2)


def test_a_hung_event_loop_does_not_hold_its_leases_for_ever(lab: Lab) -> None:
    hanging, hang_over = threading.Event(), threading.Event()
    starts: list[int] = []

    @lab.operation("hangs", on_worker_lost="retry")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> str:
        starts.append(context.attempt)
        if context.attempt == 1:
            hanging.set()
            hang_over.wait(20)
        return "done"

    async def hung() -> TaskStatus:
        async with lab.service(hang_seconds=1.0) as service:
            task = (await service.registry.submit("hangs", {}, scope="a")).task
            return (await service.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)).status

    async def takes_over() -> Task:
        async with lab.service() as service:
            async with asyncio.timeout(PATIENCE):
                while not (found := await service.registry.list(scope="a", statuses=[TaskStatus.COMPLETED])):
                    await asyncio.sleep(0.05)
            return await service.registry.get(found[0].task_ref, scope="a")

    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(asyncio.run, hung())
        try:
            assert hanging.wait(5)
            task = asyncio.run(takes_over())
        finally:
            hang_over.set()
        assert worker.result(10) is TaskStatus.COMPLETED
    assert (task.attempt, starts) == (2, [1, 2])


TICKS = """
import os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
while True:
    os.write(file, b"%d %f\\n" % (os.getpid(), time.monotonic()))
    time.sleep(0.01)
"""


def test_a_command_of_a_hung_event_loop_ends_before_it_starts_again(lab: Lab, tmp_path: Path) -> None:
    hanging, hang_over, file = threading.Event(), threading.Event(), tmp_path / "ticks"
    argv = [sys.executable, "-c", TICKS, str(file)]
    policy = Policy(on_worker_lost="retry")
    lab.operations["ticks"] = command_operation("ticks", argv=argv, parameters={}, description="", policy=policy)

    @lab.operation("hangs")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> None:
        hanging.set()
        hang_over.wait(20)

    def alive() -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            pid, at = line.split()
            found.setdefault(int(pid), []).append(float(at))
        return found

    async def started(number: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(alive()) < number:
                await asyncio.sleep(0.02)

    async def hung() -> None:
        async with lab.service(hang_seconds=1.0) as service:
            await service.registry.submit("ticks", {}, scope="a")
            await started(1)
            await service.registry.submit("hangs", {}, scope="a")
            while not hang_over.is_set():
                await asyncio.sleep(0.02)

    async def takes_over() -> None:
        async with lab.service():
            await started(2)

    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(asyncio.run, hung())
        try:
            assert hanging.wait(10)
            asyncio.run(takes_over())
        finally:
            hang_over.set()
        worker.result(20)
    first, second = list(alive().values())[:2]
    assert first[-1] < second[0]


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_thread_s_task_is_given_back_when_the_thread_has_returned_or_not_at_all(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, *, stubborn: bool
) -> None:
    if stubborn:
        monkeypatch.setattr(runner, "_STUBBORN_SECONDS", 0.3)
    at_work: list[int] = []
    beside: list[int] = []
    go_on = threading.Event()

    def works(task: TaskContext) -> int:
        beside.extend(at_work)
        at_work.append(task.attempt)
        while task.attempt == 1 and not go_on.wait(0.01):
            pass
        time.sleep(0.2)
        at_work.remove(task.attempt)
        return task.attempt

    lab.operations["works"] = python_operation(works, policy=Policy(on_worker_lost="retry"))
    async with lab.service(max_concurrency=0) as front, asyncio.timeout(PATIENCE):
        async with lab.service(lease_seconds=2.0):
            task = (await front.registry.submit("works", {}, scope="a")).task
            while not at_work:
                await asyncio.sleep(0.01)
            if not stubborn:
                asyncio.get_running_loop().call_later(0.5, go_on.set)
        # Given back, or left to its lease, which is over later than the thread.
        stored = await front.registry.get(task.task_ref, scope="a")
        assert stored.status is (TaskStatus.PROCESSING if stubborn else TaskStatus.PENDING)
        go_on.set()
        async with lab.service():
            ended = await front.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)
    assert (ended.attempt, beside) == (2, [])


async def test_an_attempt_after_a_timeout_does_not_work_beside_the_thread_of_the_first(lab: Lab) -> None:
    at_work: list[float] = []
    beside: list[float] = []

    def works() -> str:
        beside.extend(at_work)
        at_work.append(time.monotonic())
        time.sleep(1.0 if len(beside) + len(at_work) == 1 else 0.0)
        at_work.pop()
        return "done"

    policy = Policy(timeout_seconds=0.2, retry_attempts=1)
    lab.operations["works"] = python_operation(works, policy=policy)
    async with lab.service() as service:
        task = (await service.registry.submit("works", {}, scope="a")).task
        assert (await service.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)).terminal
    assert beside == []
