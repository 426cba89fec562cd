"""A worker that lives keeps its leases, whatever it writes meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from raincheck import changes
from raincheck.elapsed import elapsed
from raincheck.errors import StoreUnavailable
from raincheck.notes import Note
from raincheck.operations.context import TaskContext
from raincheck.store import Capabilities, Listener
from raincheck.stores.sqlite import SqliteStore
from raincheck.task import Task, TaskStatus
from support.lab import Lab


async def test_progress_does_not_take_back_what_the_heartbeat_renewed(lab: Lab) -> None:
    @lab.operation("steps")
    async def steps(arguments: Mapping[str, Any], context: TaskContext) -> str:
        for step in range(30):
            await context.progress(step / 30)
            await asyncio.sleep(0.1)
        return "done"

    async with lab.service(lease_seconds=1.0) as service:
        task = (await service.registry.submit("steps", {}, scope="local")).task
        ended = await service.registry.wait(task.task_ref, scope="local", seconds=5)
        assert ended.outcome is not None
        assert ended.outcome.error is None
        assert ended.attempt == 1


async def test_nobody_listens_to_the_store_once_nothing_is_watched(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_LINGER_SECONDS", 0.05)
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
        assert (await service.registry.wait(task.task_ref, scope="local", seconds=5)).terminal
        async with asyncio.timeout(5):
            while subscriptions != [True, False]:
                await asyncio.sleep(0.01)


class CutOff(SqliteStore):
    """A store that a worker may be cut off from, as one on the network; `cut` does it."""

    cut = False

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, remote=True)

    def renew(
        self,
        worker_id: str,
        leases: Mapping[str, int],
        lease_until: datetime,
        *,
        lease_seconds: float | None = None,
    ) -> set[str]:
        self._reach()
        return super().renew(worker_id, leases, lease_until, lease_seconds=lease_seconds)

    async def versions(self, task_refs: Collection[str]) -> Mapping[str, int]:
        self._reach()
        return await super().versions(task_refs)

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        note: Note | None = None,
    ) -> bool:
        self._reach()
        return await super().replace(task, seen_lease=seen_lease, lease_seconds=lease_seconds, note=note)

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
            lived.append((2, elapsed()))
            await asyncio.sleep(0.3)
            return "again"
        starts.append("retry")
        try:
            while True:
                lived.append((1, elapsed()))
                await asyncio.sleep(0.02)
        finally:
            ended.set()

    @lab.operation("fail")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> str:
        starts.append("fail")
        await ended.wait()
        return "finished"

    async with lab.service(store=CutOff(lab.path)) as worker, asyncio.timeout(20):
        refs = [(await worker.registry.submit(name, {}, scope="a")).task.task_ref for name in ("retry", "fail")]
        while len(starts) < 2:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(CutOff, "cut", True)
        async with lab.service() as other:
            retried = await other.registry.wait(refs[0], scope="a", seconds=5)
            monkeypatch.setattr(CutOff, "cut", False)
            failed = await other.registry.wait(refs[1], scope="a", seconds=5)
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
            return (await service.registry.wait(task.task_ref, scope="a", seconds=10)).status

    async def takes_over() -> Task:
        async with lab.service() as service:
            async with asyncio.timeout(10):
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
