"""The suite's own tools do what they say: the proxy loses, the clock jumps, the report counts."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from chaos import clocks
from chaos.checker import Findings, Takeover
from chaos.clocks import Clock
from chaos.faults import Done
from chaos.ground import GROUNDS
from chaos.report import table, verdict_line, violations
from chaos.running import Size, Verdict, plan_for
from chaos.site import LEASE

from support.history import History
from support.proxy import TcpProxy
from support.servers.server import needed

Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo() -> AsyncGenerator[TcpProxy]:
    """A proxy before a server that sends back each line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as server,
        TcpProxy(server.sockets[0].getsockname()[1]) as proxy,
    ):
        yield proxy


async def said(pipe: Pipe, line: bytes = b"hello\n") -> bytes:
    pipe[1].write(line)
    return await asyncio.wait_for(pipe[0].readline(), 5)


async def test_a_black_hole_passes_on_what_was_sent_when_it_heals() -> None:
    async with echo() as proxy:
        pipe = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await said(pipe) == b"hello\n"
        proxy.black_hole()
        pipe[1].write(b"late\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pipe[0].readline(), 0.2)
        proxy.heal()
        assert await asyncio.wait_for(pipe[0].readline(), 5) == b"late\n"
        pipe[1].close()


async def test_a_cut_resets_every_connection_and_each_new_one_until_it_heals() -> None:
    async with echo() as proxy:
        pipe = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await said(pipe) == b"hello\n"
        proxy.cut()
        with pytest.raises(ConnectionError):
            await said(pipe)
        fresh = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionError):
            await said(fresh)
        proxy.heal()
        fresh = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await said(fresh) == b"hello\n"
        fresh[1].close()


CLOCK = """
import sys, time
from datetime import datetime, UTC
for line in sys.stdin:
    began = time.monotonic()
    time.sleep(0.05)
    print(time.time(), datetime.now(UTC).timestamp(), time.monotonic() - began, flush=True)
"""


async def test_a_clock_jumps_in_a_running_process_and_sleeps_stay_as_long(tmp_path: Path) -> None:
    needed(clocks.missing())
    clock = Clock(tmp_path / "clock")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLOCK), stdin=pipe, stdout=pipe, env={**os.environ, **clock.environment()}
    )
    assert process.stdin is not None
    assert process.stdout is not None
    seen: list[tuple[float, float, float]] = []
    try:
        for shift in (0, 3600, -3600, 0):
            clock.shift(shift)
            process.stdin.write(b"now\n")
            first, second, slept = map(float, (await asyncio.wait_for(process.stdout.readline(), 5)).split())
            seen.append((first, second, slept))
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 5)
    assert [round((first - seen[0][0]) / 100) * 100 for first, _, _ in seen] == [0, 3600, -3600, 0]
    assert all(abs(first - second) < 1 for first, second, _ in seen)
    assert all(0.05 <= slept < 5 for _, _, slept in seen)


def verdict(*seconds: float) -> Verdict:
    plan = plan_for(GROUNDS["sqlite + local"], 4, Size(tasks=10, faults=2, killers=0, seconds=5))
    takeovers = [Takeover(ref="a", died=0.0, seconds=each, store_was_away=False) for each in seconds]
    return Verdict(
        ground="sqlite + local",
        version="SQLite",
        plan=plan,
        seconds=5.0,
        tickets=10,
        tasks=10,
        resolved=10,
        findings=Findings(takeovers=takeovers),
        counts=Counter(),
        faults=Counter({"kill": 2}),
        missing="",
        done=[Done(fault=fault, began=0.0, ended=0.0) for fault in plan.faults],
        processes=3,
    )


def test_a_run_in_which_all_is_well_says_so() -> None:
    assert violations(verdict(LEASE)) == []
    assert verdict_line([verdict(LEASE)]) == "10 tickets, 2 faults, seed 4: every promise held"
    assert "| takeover, mean                     |         1.00 × |" in table([verdict(LEASE)])


def test_what_was_not_as_planned_is_a_violation() -> None:
    fine = verdict(LEASE)
    assert violations(verdict(LEASE, 3 * LEASE)) == ["takeover: 2.00 leases in the mean, above 1.5"]
    assert violations(verdict(LEASE, 3 * LEASE), timed=False) == []
    assert violations(replace(fine, done=fine.done[1:])) == ["faults: 1 of 2 were made"]
    assert violations(replace(fine, resolved=9)) == ["resolved: 9 of 10 tickets"]
    fine.findings.violations["lost"].append("a-task")
    assert violations(fine) == ["lost: a-task"]
    assert verdict_line([fine]).endswith("1 VIOLATIONS")


def test_a_line_of_the_history_that_is_being_written_is_left_for_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    fact = {"event": "start", "ref": "a", "operation": "work", "attempt": 1, "fence": 1, "pid": 7, "at": 1.0}
    whole = json.dumps(fact) + "\n"
    path.write_text(whole + whole[:56])
    assert [run.started for run in History(path).runs["a"]] == [1.0]
    path.write_text(whole[:56])
    assert not History(path).runs
