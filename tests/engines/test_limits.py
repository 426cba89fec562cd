"""Limits and priorities with every engine: what a queue brings too early is given up, and started in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from engines.kinds import PROCRASTINATE, Place
from engines.submitting import accepting, settled, submit, until

from raincheck.operations.context import TaskContext
from support.lab import Lab


async def test_no_more_run_at_once_than_allowed_and_no_start_is_lost(lab: Lab, place: Place) -> None:
    now, most = 0, 0

    @lab.operation("work", max_running=2)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        nonlocal now, most
        now += 1
        most = max(now, most)
        await asyncio.sleep(0.05)
        now -= 1

    # What is given up would be found by age after a minute only.
    engine = place.engine(reconcile_seconds=60.0)
    async with accepting(lab, place) as server, lab.service(engine=engine) as worker, lab.service(engine=engine):
        refs = await submit(server, "work", 20)
        await settled(worker, refs, seconds=10)
    assert most == 2


async def test_starts_keep_to_the_rate(lab: Lab, place: Place) -> None:
    starts: list[float] = []

    @lab.operation("work", starts_per_minute=600)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        starts.append(asyncio.get_running_loop().time())

    engine = place.engine(reconcile_seconds=60.0)
    async with accepting(lab, place) as server, lab.service(engine=engine) as worker, lab.service(engine=engine):
        await settled(worker, await submit(server, "work", 12), seconds=10)
    assert len(starts) == 12
    # A start is seen a little after it was allowed.
    assert starts[-1] - starts[0] > 1.1 - 0.2


async def test_a_backlog_starts_by_priority_where_the_queue_has_one(lab: Lab, place: Place) -> None:
    order: list[str] = []

    async def body(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        order.append(context.operation_type)

    for name, priority in (("low", -10), ("plain", 0), ("high", 10)):
        lab.operation(name, priority=priority)(body)
    async with accepting(lab, place) as server:
        refs = [ref for name in ("low", "plain", "high") for ref in await submit(server, name, 3)]
        # Handing in takes a moment.
        await until(lambda: place.kind.server is None or len(place.left()) >= 9)
        async with lab.service(engine=place.engine(), max_concurrency=1) as worker:
            await settled(worker, refs)
    by_priority = ["high"] * 3 + ["plain"] * 3 + ["low"] * 3
    in_turn = ["low"] * 3 + ["plain"] * 3 + ["high"] * 3
    assert order == (by_priority if place.kind.name in ("local", PROCRASTINATE.name) else in_turn)
