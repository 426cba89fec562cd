"""The background loop: it goes on after errors and bugs, comes when woken, and stops with what it is doing."""

from __future__ import annotations

import asyncio
import logging

import pytest

from raincheck.errors import StoreUnavailable
from raincheck.timing.background import BackgroundLoop
from support.waiting import PATIENCE


class Rounds:
    """Work that counts its rounds, and fails as it is told."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.count = 0
        self.begun = asyncio.Event()
        self.ended = False

    async def __call__(self) -> None:
        self.count += 1
        self.begun.set()
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.count < count:
                self.begun.clear()
                await self.begun.wait()


async def test_an_error_of_the_store_is_a_line_and_a_bug_a_traceback_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rounds = Rounds(StoreUnavailable("The disk is full."), RuntimeError("a mistake of ours"))
    loop = BackgroundLoop("test", rounds, pause=lambda: 0.001, doing="look around")
    with caplog.at_level(logging.WARNING):
        loop.start()
        await rounds.reach(4)
        await loop.stop()
    line, bug = caplog.records
    assert (line.levelno, line.getMessage(), line.exc_info) == (
        logging.WARNING,
        "cannot look around: The disk is full.",
        None,
    )
    assert bug.levelno == logging.ERROR
    assert bug.exc_info is not None
    assert isinstance(bug.exc_info[1], RuntimeError)


async def test_it_works_at_once_or_after_the_first_pause() -> None:
    rounds, late = Rounds(), Rounds()
    loops = [
        BackgroundLoop("at once", rounds, pause=lambda: 3600.0, doing="work"),
        BackgroundLoop("late", late, pause=lambda: 3600.0, doing="work", at_once=False),
    ]
    for loop in loops:
        loop.start()
    await rounds.reach(1)
    assert late.count == 0
    loops[1].wake()
    await late.reach(1)
    for loop in loops:
        await loop.stop()


async def test_what_wakes_it_in_the_middle_of_a_round_is_not_lost() -> None:
    woken: list[bool] = []
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        woken.append(loop.woken)
        entered.set()
        await go_on.wait()

    loop = BackgroundLoop("test", work, pause=lambda: 3600.0, doing="work")
    loop.start()
    async with asyncio.timeout(PATIENCE):
        await entered.wait()
        entered.clear()
        loop.wake()
        go_on.set()
        await entered.wait()
    assert woken == [False, True]
    await loop.stop()


async def test_it_stops_in_the_middle_of_a_round_twice_and_starts_again() -> None:
    begun = asyncio.Event()
    ended: list[str] = []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("cancelled")

    loop = BackgroundLoop("test", work, pause=lambda: 3600.0, doing="work")
    for _ in range(2):
        begun.clear()
        loop.start()
        loop.start()
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
        assert loop.running
        await loop.stop()
        await loop.stop()
        assert not loop.running
    assert ended == ["cancelled"] * 2
    assert [task for task in asyncio.all_tasks() if task.get_name() == "test"] == []


async def test_pauses_are_spread_by_a_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []
    once = asyncio.timeout

    def timeout(seconds: float | None) -> asyncio.Timeout:
        asked.append(seconds)
        return once(0.0)

    rounds = Rounds()
    loop = BackgroundLoop("test", rounds, pause=lambda: 100.0, doing="work")
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "timeout", timeout)
        loop.start()
        while rounds.count < 40:
            await asyncio.sleep(0)
        await loop.stop()
    spread = [seconds for seconds in asked if seconds is not None]
    assert all(80.0 <= seconds <= 120.0 for seconds in spread)
    assert max(spread) - min(spread) > 10.0
