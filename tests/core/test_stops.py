"""A service that stops, or whose start or stop fails halfway: nothing of it is left on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

from raincheck.errors import StoreError
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Operation
from raincheck.runtime.service import Service
from raincheck.stores.sqlite.store import SqliteStore
from support.lab import BodyExecutor, Lab
from support.waiting import PATIENCE


class Silent(SqliteStore):
    """Takes its time to say what time it is, as a server behind a broken network does."""

    async def time(self) -> datetime | None:
        await asyncio.Event().wait()
        return None


class Clinging(BodyExecutor):
    """Does not let go of what it holds."""

    async def aclose(self) -> None:
        raise OSError("cannot let go")


async def nothing(arguments: Mapping[str, Any], context: TaskContext) -> Any:
    return None


def marks_on_the_loop() -> list[str]:
    loop = asyncio.get_running_loop()
    marks = ["a task factory"] * (loop.get_task_factory() is not None) + ["a guard"] * ("_run_once" in vars(loop))
    return marks + sorted(task.get_name() for task in asyncio.all_tasks(loop) if "raincheck" in task.get_name())


async def test_who_stops_a_service_once_more_waits_for_the_stop_under_way_and_nobody_breaks_it_off(lab: Lab) -> None:
    started, told, cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @lab.operation("slow_to_stop")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            told.set()
            await cleaned.wait()

    async with lab.service() as service, asyncio.timeout(PATIENCE):
        await service.registry.submit("slow_to_stop", {}, scope="a")
        await started.wait()
        at_the_end_of_input = asyncio.create_task(service.stop())
        await told.wait()
        at_a_signal = asyncio.create_task(service.stop())
        at_the_end_of_input.cancel()
        await asyncio.wait({at_a_signal}, timeout=0.2)
        assert not at_a_signal.done()
        cleaned.set()
        await at_a_signal
        assert marks_on_the_loop() == []
        with pytest.raises(StoreError):
            await service.registry.submit("slow_to_stop", {}, scope="a")


async def test_a_start_that_is_broken_off_leaves_nothing_behind(lab: Lab) -> None:
    store = Silent(lab.path)
    service = Service(store, lab.operations)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await service.start()
    assert marks_on_the_loop() == []
    with pytest.raises(StoreError):
        await store.get("t")


async def test_a_part_that_cannot_stop_keeps_none_of_the_others(lab: Lab) -> None:
    executor = Clinging(nothing)
    lab.operations["cling"] = Operation(operation_type="cling", description="cling", executor=executor)
    store = SqliteStore(lab.path)
    service = Service(store, lab.operations)
    await service.start()
    with pytest.raises(OSError, match="cannot let go"):
        await service.stop()
    assert marks_on_the_loop() == []
    with pytest.raises(StoreError):
        await store.get("t")
