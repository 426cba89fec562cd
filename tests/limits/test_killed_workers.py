"""Real workers that are killed while they hold permits: none is lost, and no limit is ever exceeded."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.history import FUNCTIONS, History
from support.serving import Workplace, calling
from support.waiting import PATIENCE

SETTINGS = """
[execution]
lease_seconds = 1
drain_seconds = 0

[operations.work]
kind = "python"
target = "ops:work"
"""
LIMITS = {"operation": "max_running = 2\n", "scope": "[limits]\nmax_running_per_scope = 2\n"}
READY = re.compile(r"^raincheck: worker ", re.MULTILINE)


async def eventually(look: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)
    return found


def most_at_once(history: History, killed_at: float) -> int:
    """How many ran at once at most; what a killed process ran, it ran until then."""
    changes: list[tuple[float, int]] = []
    for run in (run for runs in history.runs.values() for run in runs):
        ended = run.ended if run.ended is not None else killed_at
        changes += [(run.started, 1), (ended, -1)]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("of", LIMITS)
async def test_the_permits_of_a_killed_worker_are_used_by_the_others_and_no_start_is_lost(
    tmp_path: Path, of: str
) -> None:
    place = Workplace(tmp_path, SETTINGS + LIMITS[of], FUNCTIONS)
    accepting = place.http(env={"RAINCHECK_EXECUTION__MAX_CONCURRENCY": "0"})
    async with accepting as server, calling(server.port) as caller, place.command("worker") as doomed:
        await eventually(lambda: READY.search(doomed.log), "a worker that is ready")
        held = [await caller.submit("work", {"seconds": 60}) for _ in range(2)]
        await eventually(lambda: len(History(place.history).runs) == 2, "two starts")
        async with place.command("worker") as heir:
            await eventually(lambda: READY.search(heir.log), "another worker that is ready")
            waiting = [await caller.submit("work", {"seconds": 0.2}) for _ in range(6)]
            # Longer than it takes the heir to look for them.
            await asyncio.sleep(1.2)
            assert len(History(place.history).runs) == 2
            killed_at = time.monotonic()
            await doomed.kill()
            ends = [await caller.settled(each["task_ref"]) for each in waiting]
            assert {end["status"] for end in ends} == {"completed"}
            lost = [await caller.settled(each["task_ref"]) for each in held]
            assert {end["error"]["code"] for end in lost} == {"worker_lost"}
            history = History(place.history)
            assert {run.pid for ticket in waiting for run in history.runs[ticket["task_ref"]]} == {heir.pid}
            assert most_at_once(history, killed_at) == 2
            assert history.started_twice("work") == []
