"""The field guide's load on default settings, and a thousand tasks asleep at once."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest

from support.history import FUNCTIONS, TOML, History, figures
from support.serving import Caller, Workplace, calling

pytestmark = pytest.mark.cold

MIB = 1024 * 1024

ONE_OPERATION = """
[operations.work]
kind = "python"
target = "ops:work"
"""


async def timed_submission(caller: Caller, operation: str, seconds: float) -> tuple[str, float]:
    began = time.perf_counter()
    ticket = await caller.submit(operation, {"seconds": seconds})
    return ticket["task_ref"], (time.perf_counter() - began) * 1000


async def test_fifty_slow_tasks_at_once_on_default_settings_all_complete(tmp_path: Path) -> None:
    rng = random.Random(1)
    tasks = [rng.uniform(10, 15) for _ in range(50)]
    place = Workplace(tmp_path, ONE_OPERATION, FUNCTIONS)
    async with place.http() as server, calling(server.port) as caller:
        await caller.connect(50)
        began = time.monotonic()
        accepted = await asyncio.gather(*(timed_submission(caller, "work", seconds) for seconds in tasks))
        statuses = await asyncio.gather(*(caller.settled(ref, seconds=max(tasks) + 5) for ref, _ in accepted))
        known_after = time.monotonic() - began
    history = History(place.history)
    last_end = max(run.ended or 0.0 for runs in history.runs.values() for run in runs) - began
    waits = sorted(ms for _, ms in accepted)
    figures(
        "50 tasks of 10-15 s at once, default settings",
        {
            "completed": sum(status["status"] == "completed" for status in statuses),
            "acknowledgement, median ms": waits[25],
            "acknowledgement, worst ms": waits[-1],
            "longest task, s": max(tasks),
            "last result known, s after the first call": known_after,
            "of which after the last task's end, ms": (known_after - last_end) * 1000,
        },
    )
    assert [status["status"] for status in statuses] == ["completed"] * 50
    assert [status["result"] for status in statuses] == ["worked"] * 50
    assert len({ref for ref, _ in accepted}) == 50
    # All at once: were they queued behind each other, the last would end after more than twenty seconds.
    assert known_after < max(tasks) + 5


async def processing(place: Workplace, count: int) -> None:
    async with asyncio.timeout(40):
        while len(History(place.history).runs) < count:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("function", ["work", "work_in_thread"])
async def test_a_thousand_sleeping_tasks_take_less_than_100_mib(tmp_path: Path, function: str) -> None:
    toml = f"""
[execution]
max_concurrency = 1000
drain_seconds = 0
{ONE_OPERATION.replace("ops:work", f"ops:{function}")}
timeout_seconds = 600
"""
    place = Workplace(tmp_path, toml, FUNCTIONS)
    async with place.http() as server, calling(server.port) as caller:
        await caller.run("work", {"seconds": 0})
        idle = server.rss
        refs: list[str] = []
        for _ in range(20):
            tickets = await asyncio.gather(*(caller.submit("work", {"seconds": 300}) for _ in range(50)))
            refs += [ticket["task_ref"] for ticket in tickets]
        await processing(place, 1001)
        statuses: list[dict[str, Any]] = [await caller.status(ref) for ref in refs]
        busy = server.rss
        assert {status["status"] for status in statuses} == {"processing"}
    figures(
        f"1,000 tasks sleeping at once ({function})",
        {
            "idle server, MiB": idle / MIB,
            "with 1,000 tasks, MiB": busy / MIB,
            "more, MiB": (busy - idle) / MIB,
            "per task, KiB": (busy - idle) / 1024 / 1000,
        },
    )
    assert busy - idle < 100 * MIB


def test_the_history_sees_what_must_not_be(tmp_path: Path) -> None:
    """The proofs rest on it: a check that cannot fail would be none."""
    path = tmp_path / "history.jsonl"

    def line(event: str, attempt: int, pid: int, at: float) -> str:
        return (
            f'{{"event": "{event}", "ref": "r", "operation": "fail", "attempt": {attempt}, "pid": {pid}, "at": {at}}}'
        )

    path.write_text("\n".join([line("start", 1, 1, 1.0), line("start", 2, 2, 2.0), line("end", 2, 2, 3.0)]))
    history = History(path)
    assert history.started_twice("fail") == ["r"]
    assert history.at_once({}) == ["r"]
    assert history.at_once({1: 1.5}) == []
    assert history.finished("r") == 1
    assert TOML.count("ops:work") == 2
