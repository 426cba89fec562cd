"""A server on stdio is killed with `kill -9`, and another one on the same file goes on with its tasks at once."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from support.history import FUNCTIONS, History, figures
from support.serving import StdioServer, Workplace
from support.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the lease decides")

LEASE_SECONDS = 15.0
"""The default."""
AT_ONCE_SECONDS = 7.0
"""A sweep comes about every second; the rest is for a busy machine, and less than a lease has left at the least."""
TOML = """
[operations.fail]
kind = "python"
target = "ops:half"
on_worker_lost = "fail"

[operations.retry]
kind = "python"
target = "ops:half"
on_worker_lost = "retry"
"""
HALF = (
    FUNCTIONS
    + '''

async def half(task: TaskContext) -> str:
    """Come half the way and stay there; the second time, say nothing of it."""
    note("start", task)
    if task.attempt == 1:
        await task.progress(0.5, "half")
    await asyncio.sleep(60)
'''
)
KEYS = ("retry", "fail")


async def half_done(server: StdioServer) -> dict[str, str]:
    """A task of each kind that the server says to be half done."""
    refs = {name: (await server.submit(name))["task_ref"] for name in KEYS}
    for ref in refs.values():
        async with asyncio.timeout(PATIENCE):
            while (await server.status(ref))["progress"] is None:
                await asyncio.sleep(0.02)
    return refs


async def second_start(place: Workplace, ref: str, seconds: float = 20.0) -> float:
    """When the task was started for the second time, on the monotonic clock."""
    async with asyncio.timeout(seconds):
        while len(runs := History(place.history).runs[ref]) < 2:
            await asyncio.sleep(0.02)
    assert [run.attempt for run in runs] == [1, 2]
    return runs[1].started


def check_failed(status: Mapping[str, Any]) -> None:
    assert (status["status"], status["error"]["code"]) == ("failed", "worker_lost")


@pytest.mark.parametrize("before", [True, False], ids=["beside it", "after it"])
async def test_another_server_takes_over_at_once(tmp_path: Path, *, before: bool) -> None:
    place = Workplace(tmp_path, TOML, HALF)
    async with place.stdio() as first:
        refs = await half_done(first)
        if not before:
            await first.kill()
        async with place.stdio() as second:
            await second.request("tools/list", {})
            dead = time.monotonic()
            if before:
                assert (await second.status(refs["retry"]))["progress"] == {"fraction": 0.5, "message": "half"}
                await first.kill()
                dead = time.monotonic()
            shown = {name: await second.status(ref) for name, ref in refs.items()}
            assert shown["retry"]["progress"] is None
            assert shown["retry"]["status"] in ("pending", "processing")
            assert shown["fail"]["status"] == "failed" or shown["fail"]["progress"] is None
            check_failed(await second.settled(refs["fail"], LEASE_SECONDS * 2))
            told = time.monotonic() - dead
            again = max(0.0, await second_start(place, refs["retry"]) - dead)
            working = await second.status(refs["retry"])
            assert (working["status"], working["progress"]) == ("processing", None)
    figures(
        f"kill -9 of a server on stdio, another one {'beside' if before else 'after'} it",
        {"seconds until work is under way again": again, "seconds until worker_lost is told": told},
    )
    assert max(again, told) < AT_ONCE_SECONDS
    assert History(place.history).started_twice("fail") == []


async def test_a_stopped_server_keeps_its_tasks_for_its_lease(tmp_path: Path) -> None:
    lease = 6.0
    place = Workplace(tmp_path, f"[execution]\nlease_seconds = {lease}\n{TOML}", HALF)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(place.stdio())
        refs = await half_done(first)
        second = await stack.enter_async_context(place.stdio())
        await second.request("tools/list", {})
        stopped = time.monotonic()
        first.signal(signal.SIGSTOP)
        # Renewed every third of its length, it had two thirds left at the least.
        again = await second_start(place, refs["retry"]) - stopped
        check_failed(await second.settled(refs["fail"]))
        figures("SIGSTOP of a server on stdio", {"lease": lease, "seconds until its tasks are taken": again})
        assert again > lease / 2
        await first.kill()


STUBBORN = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
until = time.monotonic() + 30
while time.monotonic() < until:
    os.write(file, (json.dumps([os.getpid(), time.monotonic()]) + "\\n").encode())
    time.sleep(0.01)
"""


def ticks(file: Path) -> dict[int, list[float]]:
    """When each process was alive."""
    found: dict[int, list[float]] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        pid, at = json.loads(line)
        found.setdefault(pid, []).append(at)
    return found


async def test_a_command_starts_again_only_when_the_guardian_has_ended_the_first_one(tmp_path: Path) -> None:
    # A short lease makes for quick sweeps; it is over later than the reaper is done.
    place = Workplace(
        tmp_path,
        f"""
        [execution]
        lease_seconds = 4

        [operations.stubborn]
        kind = "command"
        argv = ["{sys.executable}", "stubborn.py", "ticks"]
        cwd = "."
        on_worker_lost = "retry"
        """,
    )
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    file = tmp_path / "ticks"
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(place.stdio())
        ref = (await first.submit("stubborn"))["task_ref"]
        async with asyncio.timeout(60):
            while not ticks(file):
                await asyncio.sleep(0.02)
        second = await stack.enter_async_context(place.stdio())
        await second.request("tools/list", {})
        await first.kill()
        dead = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            while len(ticks(file)) < 2:
                await asyncio.sleep(0.02)
        assert (await second.status(ref))["status"] == "processing"
    (one, other) = ticks(file).values()
    figures(
        "kill -9 of a server whose command ignores SIGTERM",
        {"seconds until it is ended": one[-1] - dead, "seconds until it runs again": other[0] - dead},
    )
    assert one[-1] > dead, "it was to outlive its server for a while"
    assert other[0] > one[-1]
    assert other[0] - dead < AT_ONCE_SECONDS
