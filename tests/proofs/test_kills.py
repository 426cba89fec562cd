"""The server is killed with `kill -9` again and again, in the middle of submissions and runs: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from support.history import FUNCTIONS, TOML, History, figures
from support.serving import HttpServer, Refused, Workplace, calling

LONG = os.environ.get("RAINCHECK_PROOFS") == "long"
ROUNDS = 5 if LONG else 1
KILLS = 20
TASKS = 500
CALLERS = 8
LEASE = """
[execution]
lease_seconds = 1
"""


class Siege:
    """A server that is killed and started again on one port, callers that do not mind, and what they saw."""

    def __init__(self, place: Workplace, seed: int) -> None:
        self.place = place
        self.rng = random.Random(seed)
        self.port = 0
        self.deaths: dict[int, float] = {}
        self.tickets: dict[str, str] = {}
        self.keys: dict[str, set[str]] = {}
        self.calls_under_way = 0
        self.called = asyncio.Event()
        self.broken_calls = 0
        self.refused_calls = 0
        self.first_seen_end: dict[str, dict[str, Any]] = {}
        self.all_submitted = asyncio.Event()
        self.problems: list[str] = []

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(self.place.http())
            self.port = server.port
            callers = [asyncio.create_task(self.submit_all(number)) for number in range(CALLERS)]
            prober = asyncio.create_task(self.probe())
            try:
                for _ in range(KILLS):
                    server = await self.kill(server, stack)
                await asyncio.wait_for(asyncio.gather(*callers), 40)
                self.all_submitted.set()
                await asyncio.wait_for(prober, 40)
            finally:
                for task in (*callers, prober):
                    task.cancel()
                await asyncio.gather(*callers, prober, return_exceptions=True)
            # And once more, now that all is settled: the truth is the file's, not a process's.
            server = await self.kill(server, stack)
            self.final = await self.ask_all()

    async def kill(self, server: HttpServer, stack: AsyncExitStack) -> HttpServer:
        await asyncio.sleep(self.rng.uniform(0.1, 1.4))
        if self.rng.random() < 0.5 and not self.calls_under_way:
            # Half of them fall into a call; where none is made any more, at some moment.
            self.called.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.called.wait(), 0.5)
            await asyncio.sleep(self.rng.uniform(0, 0.004))
        await server.kill()
        self.deaths[server.pid] = time.monotonic()
        return await stack.enter_async_context(self.place.http(port=self.port))

    async def submit_all(self, number: int) -> None:
        """One caller's share; where a call breaks, it is made again with the same key, or (without one) given up."""
        rng = random.Random(f"{number} {self.rng.random()}")
        for serial in range(number, TASKS, CALLERS):
            await asyncio.sleep(rng.uniform(0, 0.4))
            operation = ("fail", "retry")[serial % 2]
            key = f"piece {serial}" if serial % 3 else None
            parameters = {"seconds": round(rng.uniform(0, 0.6), 3)}
            ticket = None
            while ticket is None:
                ticket = await self.attempt(operation, parameters, key)
            self.tickets[ticket] = operation
            if key is not None:
                self.keys.setdefault(key, set()).add(ticket)

    async def attempt(self, operation: str, parameters: dict[str, Any], key: str | None) -> str | None:
        self.calls_under_way += 1
        self.called.set()
        try:
            async with calling(self.port) as caller:
                named = {} if key is None else {"idempotency_key": key}
                return (await caller.submit(operation, parameters, **named))["task_ref"]
        except ConnectionRefusedError:
            self.refused_calls += 1
        except OSError:
            self.broken_calls += 1
        finally:
            self.calls_under_way -= 1
        await asyncio.sleep(0.05)
        return None

    async def probe(self) -> None:
        """Look at every ticket until it has ended, and keep what was seen first."""
        while True:
            done = self.all_submitted.is_set()
            unsettled = [ref for ref in self.tickets if ref not in self.first_seen_end]
            if done and not unsettled:
                return
            try:
                async with calling(self.port) as caller:
                    for ref in unsettled:
                        status = await caller.status(ref)
                        if status["terminal"]:
                            self.first_seen_end[ref] = status
            except Refused as refused:
                self.problems.append(f"a ticket does not resolve: {refused}")
                return
            except OSError:
                pass
            await asyncio.sleep(0.1)

    async def ask_all(self) -> dict[str, dict[str, Any]]:
        async with calling(self.port) as caller:
            return {ref: await caller.status(ref) for ref in self.tickets}


@pytest.mark.timeout(300 * ROUNDS)
@pytest.mark.parametrize("seed", range(1, ROUNDS + 1))
async def test_twenty_kills_during_five_hundred_submissions_lose_nothing(tmp_path: Path, seed: int) -> None:
    place = Workplace(tmp_path, LEASE + TOML, FUNCTIONS)
    siege = Siege(place, seed)
    began = time.monotonic()
    await siege.run()
    history = History(place.history)
    final = siege.final
    by_operation = {name: [final[ref] for ref, of in siege.tickets.items() if of == name] for name in ("fail", "retry")}

    def count(operation: str, status: str) -> int:
        return sum(each["status"] == status for each in by_operation[operation])

    changed = [ref for ref, seen in siege.first_seen_end.items() if final[ref] != seen]
    unfinished = [ref for ref, each in final.items() if each["status"] == "completed" and not history.finished(ref)]
    wrong_errors = [
        each["error"] for each in final.values() if each["error"] and each["error"]["code"] != "worker_lost"
    ]
    too_soon = [
        each["error"]
        for each in by_operation["retry"]
        if each["status"] == "failed" and each["error"]["details"] != {"attempts": 3}
    ]
    doubled = {key: refs for key, refs in siege.keys.items() if len(refs) > 1}
    figures(
        f"{KILLS} kills (-9) during {TASKS} submissions, seed {seed}",
        {
            "seconds": time.monotonic() - began,
            "tickets handed out": len(siege.tickets),
            "tickets that resolve": len(final),
            "calls broken off by a kill": siege.broken_calls,
            "calls while the server was down": siege.refused_calls,
            "fail: completed": count("fail", "completed"),
            "fail: failed with worker_lost": count("fail", "failed"),
            "fail: started twice": len(history.started_twice("fail")),
            "retry: completed": count("retry", "completed"),
            "retry: of which after a lost worker": len(history.started_twice("retry")),
            "retry: given up after three starts": count("retry", "failed"),
            "not settled": sum(not each["terminal"] for each in final.values()),
            "changed after their end": len(changed),
            "run twice at once": len(history.at_once(siege.deaths)),
            "completed without having run to the end": len(unfinished),
            "keys with two tasks": len(doubled),
        },
    )
    assert siege.problems == []
    assert len(final) == TASKS
    assert siege.broken_calls > 0, "no kill fell into a call: the proof proves nothing"
    assert all(each["terminal"] for each in final.values())
    assert changed == []
    assert history.started_twice("fail") == []
    assert history.at_once(siege.deaths) == []
    assert unfinished == []
    assert wrong_errors == []
    assert too_soon == []
    assert doubled == {}
    # The kills did fall into runs, and those that may run again did.
    assert count("fail", "failed") > 0
    assert history.started_twice("retry") != []
