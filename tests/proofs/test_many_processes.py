"""Several processes on one SQLite file: they submit, run, die and stand still, and the promises hold."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from support.history import FUNCTIONS, TOML, History, figures
from support.serving import Refused, StdioServer, Workplace, calling
from support.waiting import PATIENCE

PROCESSES = 10
TASKS_EACH = 30
SHORT_LEASE = """
[execution]
lease_seconds = 1
"""
FEW_SLOTS = SHORT_LEASE + "max_concurrency = 4\n"


async def submit_share(server: StdioServer, number: int, tickets: dict[str, str]) -> None:
    rng = random.Random(number)
    for serial in range(TASKS_EACH):
        operation = ("fail", "retry")[serial % 2]
        ticket = await server.submit(operation, {"seconds": round(rng.uniform(0, 0.5), 3)})
        tickets[ticket["task_ref"]] = operation
        await asyncio.sleep(rng.uniform(0, 0.15))


async def in_the_midst(history: Path, server: StdioServer) -> None:
    """Until it runs tasks of both kinds, or has had its time to: each kind is to be among the lost."""
    for _ in range(50):
        running = (
            [run for runs in History(history).runs.values() for run in runs if run.ended is None]
            if history.exists()
            else []
        )
        if {run.operation for run in running if run.pid == server.pid} == {"fail", "retry"}:
            return
        await asyncio.sleep(0.02)


async def ten_servers(place: Workplace, stack: AsyncExitStack) -> list[StdioServer]:
    servers = [await stack.enter_async_context(place.stdio()) for _ in range(PROCESSES)]
    # Answering is being ready: they begin together.
    await asyncio.wait_for(asyncio.gather(*(server.request("tools/list", {}) for server in servers)), 60)
    return servers


async def test_ten_processes_on_one_file_run_each_task_once(tmp_path: Path) -> None:
    place = Workplace(tmp_path, FEW_SLOTS + TOML, FUNCTIONS)
    tickets: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        servers = await ten_servers(place, stack)
        began = time.monotonic()
        await asyncio.gather(*(submit_share(server, number, tickets) for number, server in enumerate(servers)))
        # Whoever is asked answers for all.
        asked = await asyncio.gather(
            *(servers[number % PROCESSES].settled(ref, 40) for number, ref in enumerate(tickets))
        )
        took = time.monotonic() - began
    history = History(place.history)
    elsewhere = {run.pid for runs in history.runs.values() for run in runs}
    figures(
        f"{PROCESSES} processes on one file, {PROCESSES * TASKS_EACH} tasks",
        {
            "seconds": took,
            "tickets": len(tickets),
            "completed": sum(status["status"] == "completed" for status in asked),
            "processes that ran tasks": len(elsewhere),
            "started twice": len(history.started_twice("fail")) + len(history.started_twice("retry")),
            "run twice at once": len(history.at_once({})),
        },
    )
    assert len(tickets) == PROCESSES * TASKS_EACH
    assert [status["status"] for status in asked] == ["completed"] * len(asked)
    assert all(len(history.runs[ref]) == 1 for ref in tickets)
    assert len(elsewhere) == PROCESSES


# The victims are to die in the midst of work: when that is, is tuned to cold starts.
@pytest.mark.cold
async def test_ten_processes_of_which_four_are_killed_keep_the_promises(tmp_path: Path) -> None:
    place = Workplace(tmp_path, FEW_SLOTS + TOML, FUNCTIONS)
    tickets: dict[str, str] = {}
    deaths: dict[int, float] = {}

    async def share_of(server: StdioServer, number: int) -> None:
        try:
            await submit_share(server, number, tickets)
        except OSError:
            assert server.pid in deaths

    async with AsyncExitStack() as stack:
        servers = await ten_servers(place, stack)
        shares = [asyncio.create_task(share_of(server, number)) for number, server in enumerate(servers)]
        rng = random.Random(4)
        for victim in rng.sample(servers, 4):
            await asyncio.sleep(rng.uniform(0.2, 0.6))
            await in_the_midst(place.history, victim)
            deaths[victim.pid] = float("inf")
            await victim.kill()
            deaths[victim.pid] = time.monotonic()
        await asyncio.gather(*shares)
        living = [server for server in servers if server.pid not in deaths]
        asked = await asyncio.gather(
            *(living[number % len(living)].settled(ref, 40) for number, ref in enumerate(tickets))
        )
    final = dict(zip(tickets, asked, strict=True))
    history = History(place.history)
    lost = [final[ref] for ref in tickets if final[ref]["status"] == "failed"]
    figures(
        "10 processes on one file, 4 of them killed (-9)",
        {
            "tickets": len(tickets),
            "completed": sum(status["status"] == "completed" for status in asked),
            "fail: failed with worker_lost": len(lost),
            "fail: started twice": len(history.started_twice("fail")),
            "retry: ran again": len(history.started_twice("retry")),
            "run twice at once": len(history.at_once(deaths)),
        },
    )
    assert all(status["terminal"] for status in asked)
    assert history.started_twice("fail") == []
    assert history.at_once(deaths) == []
    assert {each["error"]["code"] for each in lost} == {"worker_lost"}
    assert {each["operation_type"] for each in lost} == {"fail"}
    assert all(history.finished(ref) for ref, each in final.items() if each["status"] == "completed")
    assert history.started_twice("retry") != []


async def test_twenty_callers_racing_with_one_key_get_one_task(tmp_path: Path) -> None:
    rounds = 10
    place = Workplace(tmp_path, SHORT_LEASE + TOML, FUNCTIONS)
    async with place.http() as one, place.http() as other, calling(one.port) as first, calling(other.port) as second:
        await asyncio.gather(first.connect(10), second.connect(10))
        for number in range(rounds):
            key = {"idempotency_key": f"key {number}"}
            tickets: list[dict[str, Any]] = await asyncio.gather(
                *((first, second)[caller % 2].submit("fail", {"seconds": 0.05}, **key) for caller in range(20))
            )
            assert len({ticket["task_ref"] for ticket in tickets}) == 1
            assert sum(not ticket["deduplicated"] for ticket in tickets) == 1
            assert (await first.settled(tickets[0]["task_ref"]))["status"] == "completed"
            with pytest.raises(Refused) as conflict:
                await second.submit("fail", {"seconds": 0.06}, **key)
            assert conflict.value.code == "idempotency_conflict"
    history = History(place.history)
    figures(
        "20 callers race with one key, over two servers on one file",
        {"keys": rounds, "tasks": len(history.runs), "runs": sum(map(len, history.runs.values()))},
    )
    assert len(history.runs) == rounds
    assert history.started_twice("fail") == []


async def runs_of(place: Workplace, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while sum(map(len, History(place.history).runs.values())) < count:
            await asyncio.sleep(0.02)


async def test_a_process_that_stood_still_beyond_its_lease_writes_nothing_and_stops(tmp_path: Path) -> None:
    place = Workplace(tmp_path, SHORT_LEASE + TOML, FUNCTIONS)
    async with place.stdio() as sleeper:
        retried = (await sleeper.submit("retry", {"seconds": 4.0}))["task_ref"]
        failed = (await sleeper.submit("fail", {"seconds": 4.0}))["task_ref"]
        await runs_of(place, 2)
        sleeper.signal(signal.SIGSTOP)
        try:
            async with place.stdio() as other:
                lost = await other.settled(failed)
                await runs_of(place, 3)
                sleeper.signal(signal.SIGCONT)
                # It answers, so it lives again; what it knows better is not heard.
                assert await sleeper.status(failed) == lost
                again = await other.settled(retried)
                assert await sleeper.status(retried) == again
                alone = await sleeper.run("retry", {"seconds": 0.0})
        finally:
            sleeper.signal(signal.SIGCONT)
        history = History(place.history)
    runs = history.runs[retried]
    assert lost["error"]["code"] == "worker_lost"
    assert (again["status"], alone["status"]) == ("completed", "completed")
    assert [run.attempt for run in runs] == [1, 2]
    assert len({run.pid for run in runs}) == 2
    # Their own ends would have come before the second run's.
    assert runs[0].ended is None, "the first run was not stopped when its process woke up"
    assert history.runs[failed][0].ended is None


async def test_a_machine_that_slept_longer_than_a_lease_loses_no_task(tmp_path: Path) -> None:
    place = Workplace(tmp_path, SHORT_LEASE + TOML, FUNCTIONS)
    async with place.stdio() as only:
        refs = [(await only.submit(name, {"seconds": 1.5}))["task_ref"] for name in ("fail", "retry")]
        await runs_of(place, 2)
        leases_end = time.monotonic() + 2.0
        only.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(leases_end - time.monotonic())
        finally:
            only.signal(signal.SIGCONT)
        assert [(await only.settled(ref))["status"] for ref in refs] == ["completed", "completed"]
    assert [len(History(place.history).runs[ref]) for ref in refs] == [1, 1]
