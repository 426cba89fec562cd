"""A worker that lives keeps its leases, whatever it writes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from raincheck.operations.context import TaskContext
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
