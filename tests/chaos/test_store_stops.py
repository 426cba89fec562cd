"""The store's server stops in mid-load: callers are told so in time, no ticket is lost, and all goes on by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from chaos.fleet import Node, Role
from chaos.ground import GROUNDS
from chaos.site import Site, standing

from support.history import figures
from support.servers.server import needed
from support.serving import Caller, HttpCaller, Refused, calling

ROLES: dict[str, Role] = {"server": "server", "front": "front"}
SUBMITTERS = 4
AWAY_SECONDS = 7.0
ANSWER_SECONDS = 5.0
MARGIN = 1.5
BACK_SECONDS = 10.0

STOPS: list[tuple[str, str]] = [
    ("sqlite + local", "store frozen"),
    ("postgres + local", "store frozen"),
    ("postgres + local", "store killed"),
    ("postgres + procrastinate", "store killed"),
    ("redis + docket", "store frozen"),
    ("redis + docket", "store killed"),
    ("dynamodb + local", "store frozen"),
]


class Submitter:
    """Submits one task after the other until it is told to stop; keeps every ticket and every refusal."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.tickets: list[str] = []
        self.refusals: list[tuple[float, Refused]] = []
        self.longest = 0.0
        self.last_ticket = 0.0

    async def submit_for_ever(self) -> None:
        while True:
            began = time.monotonic()
            try:
                ticket = await self._caller.submit("retry", {"seconds": 0.05})
                self.tickets.append(ticket["task_ref"])
                self.last_ticket = time.monotonic()
            except Refused as refused:
                self.refusals.append((began, refused))
            self.longest = max(self.longest, time.monotonic() - began)
            await asyncio.sleep(0.05)


async def answer_to(call: Callable[[], Awaitable[dict[str, Any]]]) -> tuple[dict[str, Any] | None, float]:
    """The error that a call is answered with, None where it has none; and after how many seconds."""
    began = time.monotonic()
    try:
        await call()
    except Refused as refused:
        return refused.error, time.monotonic() - began
    return None, time.monotonic() - began


def calls_of(caller: HttpCaller, ref: str) -> dict[str, Callable[[], Awaitable[dict[str, Any]]]]:
    """A call of every handle tool that needs the store."""
    return {
        "submit": lambda: caller.submit("retry", {"seconds": 0.0}),
        "resolve": lambda: caller.status(ref),
        "hold": lambda: caller.status(ref, 1.0),
        "cancel": lambda: caller.call("cancel_background_task", {"task_ref": ref}),
        "provide": lambda: caller.call("provide_task_input", {"task_ref": ref, "responses": {}}),
    }


@asynccontextmanager
async def under_load(site: Site, stack: AsyncExitStack) -> AsyncGenerator[list[Submitter]]:
    servers = site.fleet.servers
    submitters = [
        Submitter(await stack.enter_async_context(calling(servers[number % len(servers)].port)))
        for number in range(SUBMITTERS)
    ]
    tasks = [asyncio.create_task(submitter.submit_for_ever()) for submitter in submitters]
    try:
        await tickets(submitters, 5)
        yield submitters
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            assert isinstance(end, asyncio.CancelledError), end


async def tickets(submitters: list[Submitter], more: int) -> None:
    """Wait until each has got so many more."""
    wanted = [len(submitter.tickets) + more for submitter in submitters]
    async with asyncio.timeout(BACK_SECONDS):
        while any(len(each.tickets) < count for each, count in zip(submitters, wanted, strict=True)):
            await asyncio.sleep(0.02)


async def ask_all(node: Node, refs: list[str]) -> list[dict[str, Any]]:
    async with calling(node.port) as caller:
        return [await caller.settled(ref) for ref in refs]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "kind"), STOPS)
async def test_a_store_that_stops_is_told_in_time_and_loses_no_ticket(tmp_path: Path, name: str, kind: str) -> None:
    needed(GROUNDS[name].missing())
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(standing(GROUNDS[name], tmp_path, ROLES))
        async with under_load(site, stack) as submitters:
            known = submitters[0].tickets[0]
            asker = await stack.enter_async_context(calling(site.fleet.nodes["server"].port))
            await site.ground.go_down(kind)
            down = time.monotonic()
            try:
                calls = calls_of(asker, known)
                told = dict(zip(calls, await asyncio.gather(*map(answer_to, calls.values())), strict=True))
                await asyncio.sleep(max(0.0, down + AWAY_SECONDS - time.monotonic()))
            finally:
                await site.ground.come_back()
            back = time.monotonic()
            await tickets(submitters, 3)
            went_on = time.monotonic() - back
        given = [ref for submitter in submitters for ref in submitter.tickets]
        answers = [await ask_all(node, given) for node in site.fleet.servers]
    refusals = [refused for submitter in submitters for _, refused in submitter.refusals]
    longest = max(submitter.longest for submitter in submitters)
    figures(
        f"{name}: {kind} for {back - down:.1f} s",
        {
            "tickets": len(given),
            "calls refused meanwhile": len(refusals),
            "longest call, s": longest,
            **{f"{what}, s": seconds for what, (_, seconds) in told.items()},
            "three tickets for each caller after, s": went_on,
        },
    )
    assert refusals, "no call met the store that was away: the proof proves nothing"
    for error in (*(refused.error for refused in refusals), *(error for error, _ in told.values() if error)):
        assert error["retryable"] is True
        assert error["details"]["correlation_id"]
        # What is wrong is told, where on the network is not.
        assert "://" not in error["message"]
    # Reading may go on: SQLite answers beside a writer.
    assert told["submit"][0] is not None
    assert longest < ANSWER_SECONDS + MARGIN
    assert all(seconds < ANSWER_SECONDS + MARGIN for _, seconds in told.values())
    assert [answer["status"] for answer in answers[0] if answer["status"] not in ("completed", "cancelled")] == []
    assert answers[0] == answers[1]
