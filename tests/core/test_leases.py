"""A worker that lives keeps its leases, whatever it writes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from raincheck import changes
from raincheck.operations.context import TaskContext
from raincheck.store import Listener
from raincheck.stores.sqlite import SqliteStore
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
