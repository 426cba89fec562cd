"""Watches over tasks, in a service that has stopped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raincheck.errors import StoreUnavailable
from support.lab import Lab
from support.waiting import PATIENCE


async def test_a_watch_that_begins_after_the_stop_waits_for_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "tasks.db")

    @lab.operation("wait")
    async def wait(arguments: Any, context: Any) -> None:
        raise AssertionError("nobody works here")

    async with lab.service(max_concurrency=0) as service:
        registry, changes = service.registry, service._changes  # pyright: ignore[reportPrivateUsage]
        task = (await registry.submit("wait", {}, scope="local")).task
        # What `stop` does, but for the store, which is closed a moment later.
        await changes.stop()
        async with asyncio.timeout(PATIENCE):
            with changes.watch(task.task_ref) as watch:
                assert await watch.next_change(None) is None
            for call in (
                registry.wait(task.task_ref, scope="local", seconds=60),
                registry.wait_for_change(await registry.get(task.task_ref, scope="local"), scope="local", seconds=60),
            ):
                with pytest.raises(StoreUnavailable, match="stopping"):
                    await call


async def test_of_the_tasks_whose_news_nobody_takes_only_a_few_are_kept_whole(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "tasks.db")

    @lab.operation("wait")
    async def wait(arguments: Any, context: Any) -> None:
        raise AssertionError("nobody works here")

    async with lab.service(max_concurrency=0) as service:
        registry, changes = service.registry, service._changes  # pyright: ignore[reportPrivateUsage]
        tasks = [(await registry.submit("wait", {}, scope="local")).task for _ in range(40)]
        refs = [task.task_ref for task in tasks]
        with changes.feed(refs) as feed:
            for task in tasks:
                feed.put(task)
            news = [await feed.next() for _ in refs]
        assert [each if isinstance(each, str) else each.task_ref for each in news] == refs
        assert 0 < sum(not isinstance(each, str) for each in news) < 20
        # Followed, each is there all the same, as it is then.
        following = registry.follow(refs, scope="local")
        assert [(await anext(following)).task_ref for _ in refs] == refs
        await registry.cancel(refs[-1], scope="local")
        async with asyncio.timeout(PATIENCE):
            assert (await anext(following)).status == "cancelled"
        await following.aclose()
