"""`dedupe = "inflight"`: an agent that loops without a key gets one task, not many."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from raincheck.domain.task import TaskStatus
from raincheck.errors import IdempotencyConflict
from raincheck.operations.context import TaskContext
from support.lab import Lab
from support.waiting import PATIENCE


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "tasks.db")


class Reports:
    """An operation that runs until it is let go."""

    def __init__(self, lab: Lab) -> None:
        self.release = asyncio.Event()
        self.keys: list[str] = []

        @lab.operation("report", dedupe="inflight")
        async def _(arguments: Mapping[str, Any], context: TaskContext) -> str:
            self.keys.append(context.idempotency_key)
            await self.release.wait()
            return "over"


async def test_equal_calls_share_the_task_that_is_under_way(lab: Lab) -> None:
    reports = Reports(lab)
    async with lab.service() as service, asyncio.timeout(PATIENCE):
        submit = service.registry.submit
        first = await submit("report", {"a": 1, "b": 2}, scope="ada")
        assert not first.deduplicated
        again = await asyncio.gather(*(submit("report", {"b": 2, "a": 1}, scope="ada") for _ in range(10)))
        assert {(each.task.task_ref, each.deduplicated) for each in again} == {(first.task.task_ref, True)}
        others = [
            await submit("report", {"a": 1, "b": 3}, scope="ada"),
            await submit("report", {"a": 1, "b": 2}, scope="bob"),
            await submit("report", {"a": 1, "b": 2}, scope="ada", idempotency_key="mine"),
        ]
        assert not any(other.deduplicated for other in others)
        reports.release.set()
        ended = await service.registry.wait(first.task.task_ref, scope="ada", seconds=PATIENCE)
        assert ended.status is TaskStatus.COMPLETED
        anew = await submit("report", {"a": 1, "b": 2}, scope="ada")
        assert not anew.deduplicated
        # The result of the first one is still there for who has its ticket.
        assert (await service.registry.get(first.task.task_ref, scope="ada")).outcome == ended.outcome


async def test_calls_that_race_on_two_servers_make_one_task(lab: Lab) -> None:
    reports = Reports(lab)
    async with lab.service() as one, lab.service() as other, asyncio.timeout(PATIENCE):
        calls = [each.registry.submit("report", {"n": 1}, scope="ada") for each in (one, other) * 8]
        made = await asyncio.gather(*calls)
        assert sum(not each.deduplicated for each in made) == 1
        assert len({each.task.task_ref for each in made}) == 1
        reports.release.set()
        await one.registry.wait(made[0].task.task_ref, scope="ada", seconds=PATIENCE)
    assert len(reports.keys) == 1


async def test_what_the_operation_hands_on_is_no_key_that_two_tasks_share(lab: Lab) -> None:
    reports = Reports(lab)
    reports.release.set()
    async with lab.service() as service, asyncio.timeout(PATIENCE):
        refs: list[str] = []
        for _ in range(2):
            task = (await service.registry.submit("report", {}, scope="ada")).task
            refs.append(task.task_ref)
            await service.registry.wait(task.task_ref, scope="ada", seconds=PATIENCE)
    assert reports.keys == refs
    assert len(set(refs)) == 2


async def test_without_it_equal_calls_are_tasks_of_their_own_and_keys_conflict_as_before(lab: Lab) -> None:
    @lab.operation("quick")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> int:
        return 1

    async with lab.service() as service, asyncio.timeout(PATIENCE):
        submit = service.registry.submit
        assert not (await submit("quick", {"a": 1}, scope="ada")).deduplicated
        assert not (await submit("quick", {"a": 1}, scope="ada")).deduplicated
        await submit("quick", {"a": 1}, scope="ada", idempotency_key="k")
        with pytest.raises(IdempotencyConflict):
            await submit("quick", {"a": 2}, scope="ada", idempotency_key="k")
