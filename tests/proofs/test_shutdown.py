"""A server that is told to stop: what runs is drained or given back, no process is left, and it ends promptly."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import pytest

from support.history import FUNCTIONS as HISTORY_FUNCTIONS
from support.history import TOML, History
from support.serving import Process, StdioServer, Workplace
from support.waiting import PATIENCE

FUNCTIONS = (
    HISTORY_FUNCTIONS
    + '''

async def stubborn(task: TaskContext) -> None:
    """Ignore every order to stop."""
    note("start", task)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note("told", task)


def slow_thread(task: TaskContext) -> None:
    """A thread that nobody can stop."""
    note("start", task)
    time.sleep(60)


def brief_thread(task: TaskContext) -> None:
    """A thread that nobody can stop for a while."""
    note("start", task)
    time.sleep(3)
'''
)
SETTINGS = """
[execution]
lease_seconds = 1
drain_seconds = {drain}
"""
CHILDREN = f"""
[operations.command]
kind = "command"
argv = ["sh", "-c", "sleep 61 & exec sleep 62"]

[operations.deaf]
kind = "command"
argv = ["{sys.executable}", "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(63)"]

[operations.isolated]
kind = "python"
target = "ops:slow_thread"
isolation = "process"
"""
WAYS = ("SIGTERM", "SIGINT", "closed stdin")


def tell_to_stop(server: Process, way: str) -> None:
    if way == "closed stdin":
        assert isinstance(server, StdioServer)
        server.close_stdin()
    else:
        server.signal(signal.Signals[way])


async def started(place: Workplace, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while sum(map(len, History(place.history).runs.values())) < count:
            await asyncio.sleep(0.02)


# Of each signal and transport one; the tests of an idle server have them all.
SOME_WAYS = [("stdio", "SIGTERM"), ("stdio", "closed stdin"), ("streamable-http", "SIGINT")]


def ways() -> list[tuple[str, str]]:
    return [("stdio", way) for way in WAYS] + [("streamable-http", way) for way in WAYS[:2]]


@pytest.mark.parametrize(("transport", "way"), SOME_WAYS)
async def test_what_ends_in_time_is_drained_and_the_rest_is_given_back(
    tmp_path: Path, transport: str, way: str
) -> None:
    place = Workplace(tmp_path, SETTINGS.format(drain=1.5) + TOML, FUNCTIONS)
    async with place.served(transport) as (server, caller):
        brief = (await caller.submit("fail", {"seconds": 0.8}))["task_ref"]
        again = (await caller.submit("retry", {"seconds": 3.0}))["task_ref"]
        once = (await caller.submit("fail", {"seconds": 30.0}))["task_ref"]
        await started(place, 3)
        tell_to_stop(server, way)
        assert await server.exited(12) == 0
        assert server.left_behind() == []
        assert "Traceback" not in server.log
        assert History(place.history).finished(brief) == 1
    async with place.served(transport) as (_, caller):
        assert (await caller.status(brief))["status"] == "completed"
        lost = await caller.status(once)
        assert lost["error"]["code"] == "worker_lost"
        assert (await caller.settled(again, 15))["status"] == "completed"
    history = History(place.history)
    assert [len(history.runs[ref]) for ref in (brief, once, again)] == [1, 1, 2]


@pytest.mark.parametrize(("transport", "way"), SOME_WAYS)
async def test_no_child_process_is_left_behind(tmp_path: Path, transport: str, way: str) -> None:
    place = Workplace(tmp_path, SETTINGS.format(drain=0.2) + CHILDREN, FUNCTIONS)
    async with place.served(transport) as (server, caller):
        for operation in ("command", "deaf", "isolated"):
            await caller.submit(operation)
        await started(place, 1)
        async with asyncio.timeout(PATIENCE):
            while sum(any(f"sleep {n}" in each for each in server.left_behind()) for n in (61, 62)) < 2:
                await asyncio.sleep(0.05)
            while not any("SIG_IGN" in each for each in server.left_behind()):
                await asyncio.sleep(0.05)
        tell_to_stop(server, way)
        assert await server.exited(20) == 0
        async with asyncio.timeout(PATIENCE):
            while server.left_behind():
                await asyncio.sleep(0.05)
        assert "Traceback" not in server.log


async def test_no_child_process_outlives_a_server_that_was_killed(tmp_path: Path) -> None:
    place = Workplace(tmp_path, SETTINGS.format(drain=0.2) + CHILDREN, FUNCTIONS)
    async with place.stdio() as server:
        for operation in ("command", "deaf", "isolated"):
            await server.submit(operation)
        await started(place, 1)
        async with asyncio.timeout(PATIENCE):
            while not all(any(what in each for each in server.left_behind()) for what in ("sleep 62", "SIG_IGN")):
                await asyncio.sleep(0.05)
        await server.kill()
        async with asyncio.timeout(PATIENCE):
            while server.left_behind():
                await asyncio.sleep(0.05)


async def test_operations_that_will_not_stop_do_not_keep_the_server(tmp_path: Path) -> None:
    toml = """
[operations.stubborn]
kind = "python"
target = "ops:stubborn"
[operations.slow_thread]
kind = "python"
target = "ops:slow_thread"
"""
    place = Workplace(tmp_path, SETTINGS.format(drain=0.2) + toml, FUNCTIONS)
    async with place.stdio() as server:
        refs = [(await server.submit(name))["task_ref"] for name in ("stubborn", "slow_thread")]
        await started(place, 2)
        tell_to_stop(server, "SIGTERM")
        assert await server.exited(25) == 0
        assert server.left_behind() == []
    async with place.stdio() as server:
        for ref in refs:
            assert (await server.settled(ref))["error"]["code"] == "worker_lost"


async def test_a_signal_during_the_stop_at_the_end_of_stdin_does_not_cut_it_short(tmp_path: Path) -> None:
    toml = '[operations.brief_thread]\nkind = "python"\ntarget = "ops:brief_thread"\n'
    place = Workplace(tmp_path, SETTINGS.format(drain=0.2) + toml, FUNCTIONS)
    async with place.stdio() as server:
        ref = (await server.submit("brief_thread"))["task_ref"]
        await started(place, 1)
        waiting = asyncio.create_task(server.status(ref, wait_seconds=20))
        await asyncio.sleep(0.2)
        server.close_stdin()
        async with asyncio.timeout(PATIENCE):
            while "answered as things stand" not in server.log:
                await asyncio.sleep(0.02)
        server.signal(signal.SIGTERM)
        assert await server.exited(25) == 0
        assert (await waiting)["task_ref"] == ref
        assert "stopped" in server.log.splitlines()[-1]


@pytest.mark.parametrize(("transport", "way"), ways())
async def test_an_idle_server_and_one_whose_callers_wait_stop_at_once(tmp_path: Path, transport: str, way: str) -> None:
    place = Workplace(tmp_path, SETTINGS.format(drain=0.2) + TOML, FUNCTIONS)
    async with place.served(transport) as (server, caller):
        ref = (await caller.submit("retry", {"seconds": 60.0}))["task_ref"]
        waiting = asyncio.create_task(caller.status(ref, wait_seconds=20))
        await started(place, 1)
        began = time.monotonic()
        tell_to_stop(server, way)
        assert await server.exited(8) == 0
        print(f"{transport}, {way}: stopped after {time.monotonic() - began:.2f} s")
        await asyncio.wait({waiting}, timeout=5)
        assert waiting.done()
        waiting.exception()
        assert "Traceback" not in server.log
    async with place.served(transport) as (server, caller):
        await caller.request("tools/list", {})
        tell_to_stop(server, way)
        assert await server.exited(8) == 0
        assert "Traceback" not in server.log


async def test_a_client_that_dies_while_it_waits_ends_its_server_cleanly(tmp_path: Path) -> None:
    place = Workplace(tmp_path, SETTINGS.format(drain=0.2) + TOML, FUNCTIONS)
    async with place.stdio() as server:
        ref = (await server.submit("retry", {"seconds": 1.0}))["task_ref"]
        waiting = asyncio.create_task(server.status(ref, wait_seconds=20))
        await started(place, 1)
        server.hang_up()
        assert await server.exited(8) == 0
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert "Traceback" not in server.log
