"""The one loop in the background: its pauses, its errors, its end."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar

import pytest

from raincheck.errors import StoreUnavailable
from raincheck.timing.background import BackgroundLoop
from support.waiting import PATIENCE

HOUR = 3600.0


class Steps:
    """Counts passes; each ends as the script says, and those after it with no error."""

    def __init__(self, *script: BaseException | float | None) -> None:
        self.count = 0
        self.times: list[float] = []
        self._script = list(script)
        self._changed = asyncio.Condition()

    async def __call__(self) -> float | None:
        self.times.append(asyncio.get_running_loop().time())
        async with self._changed:
            self.count += 1
            self._changed.notify_all()
        outcome = self._script.pop(0) if self._script else None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self.count >= count)


async def test_it_repeats_its_step_after_each_pause_and_bears_its_name() -> None:
    steps = Steps()
    loop = BackgroundLoop("lamp", steps, purpose="light", seconds=0.001)
    loop.start()
    assert "raincheck-lamp" in {task.get_name() for task in asyncio.all_tasks()}
    await steps.reach(5)
    assert loop.running
    await loop.stop()
    assert not loop.running
    assert "raincheck-lamp" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_bug_is_logged_with_its_traceback_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    steps = Steps(ZeroDivisionError("a bug"))
    loop = BackgroundLoop("lamp", steps, purpose="light the lamp", seconds=0.001)
    loop.start()
    await steps.reach(3)
    await loop.stop()
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.getMessage() == "cannot light the lamp"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_an_error_of_the_store_is_a_warning_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    steps = Steps(StoreUnavailable("no answer"))
    loop = BackgroundLoop("lamp", steps, purpose="light the lamp", seconds=0.001)
    loop.start()
    await steps.reach(3)
    await loop.stop()
    [record] = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.getMessage() == "cannot light the lamp: no answer"
    assert record.exc_info is None


async def test_bugs_in_a_row_make_it_rest_longer_and_longer_though_it_is_woken() -> None:
    steps = Steps(*(ValueError() for _ in range(3)))
    loop = BackgroundLoop("lamp", steps, purpose="light", seconds=0.001)
    loop.start()
    for count in range(1, 5):
        await steps.reach(count)
        loop.wake()
    await loop.stop()
    rests = [after - before for before, after in zip(steps.times, steps.times[1:], strict=False)]
    assert rests[0] >= 0.09
    assert rests[1] >= 0.19
    assert rests[2] >= 0.39


async def test_wake_ends_the_pause_and_the_step_knows_that_it_was_woken() -> None:
    steps = Steps()
    loop = BackgroundLoop("lamp", steps, purpose="light", seconds=HOUR)
    loop.start()
    await steps.reach(1)
    assert not loop.woken
    loop.wake()
    await steps.reach(2)
    assert loop.woken
    await loop.stop()


async def test_a_wake_while_the_step_runs_makes_it_run_once_more() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    count = 0

    async def step() -> None:
        nonlocal count
        count += 1
        entered.set()
        await leave.wait()

    loop = BackgroundLoop("lamp", step, purpose="light", seconds=None)
    loop.start()
    async with asyncio.timeout(PATIENCE):
        await entered.wait()
        loop.wake()
        entered.clear()
        leave.set()
        await entered.wait()
    await loop.stop()
    assert count == 2


async def test_a_wake_brings_one_pass_and_then_the_pause_goes_on() -> None:
    steps = Steps()
    loop = BackgroundLoop("lamp", steps, purpose="light", seconds=HOUR)
    loop.start()
    await steps.reach(1)
    loop.wake()
    await steps.reach(2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert steps.count == 2
    await loop.stop()


async def test_without_seconds_it_runs_only_when_it_is_woken() -> None:
    steps = Steps()
    loop = BackgroundLoop("lamp", steps, purpose="light", at_once=False)
    loop.start()
    await asyncio.sleep(0.01)
    assert steps.count == 0
    loop.wake()
    await steps.reach(1)
    await loop.stop()


@pytest.mark.parametrize("drawn", [0.0, 1.0])
async def test_the_jitter_stays_within_a_fifth_of_the_pause(drawn: float) -> None:
    bounds: list[tuple[float, float]] = []

    def between(low: float, high: float) -> float:
        bounds.append((low, high))
        return low + drawn * (high - low)

    steps = Steps()
    loop = BackgroundLoop("lamp", steps, purpose="light", seconds=0.1, random_between=between)
    loop.start()
    await steps.reach(2)
    await loop.stop()
    assert bounds[0] == (0.8, 1.2)
    assert steps.times[1] - steps.times[0] >= 0.1 * (0.8 + 0.4 * drawn) - 0.005


async def test_a_step_chooses_its_next_pause() -> None:
    steps = Steps(0.001)
    loop = BackgroundLoop("lamp", steps, purpose="light", seconds=HOUR)
    loop.start()
    await steps.reach(2)
    await loop.stop()


async def test_stop_breaks_off_a_step_under_way_and_a_second_stop_is_nothing() -> None:
    entered = asyncio.Event()
    ended = False

    async def step() -> None:
        nonlocal ended
        entered.set()
        try:
            await asyncio.sleep(HOUR)
        finally:
            ended = True

    loop = BackgroundLoop("lamp", step, purpose="light", seconds=HOUR)
    await loop.stop()
    loop.start()
    async with asyncio.timeout(PATIENCE):
        await entered.wait()
        await loop.stop()
        await loop.stop()
    assert ended


async def test_stop_ends_in_bounded_time_though_the_step_swallows_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raincheck.timing.background._STOP_SECONDS", 0.05)
    stubborn, entered = True, asyncio.Event()

    async def step() -> None:
        entered.set()
        while stubborn:
            try:
                await asyncio.sleep(HOUR)
            except asyncio.CancelledError:
                continue

    loop = BackgroundLoop("lamp", step, purpose="light", seconds=None)
    loop.start()
    [task] = [each for each in asyncio.all_tasks() if each.get_name() == "raincheck-lamp"]
    async with asyncio.timeout(PATIENCE):
        await entered.wait()
        await loop.stop()
        assert "raincheck-lamp does not end" in caplog.messages
        stubborn = False
        task.cancel()
        await asyncio.wait({task})


async def test_drain_lets_the_step_end_and_run_once_more() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    left: list[int] = []

    async def step() -> None:
        entered.set()
        await leave.wait()
        left.append(len(left))

    loop = BackgroundLoop("lamp", step, purpose="light", seconds=HOUR)
    loop.start()
    async with asyncio.timeout(PATIENCE):
        await entered.wait()
        assert not await loop.drain(0.01)
        leave.set()
        assert await loop.drain(PATIENCE)
    assert left == [0, 1]
    await loop.stop()


async def test_it_starts_again_after_its_end_and_a_second_start_is_nothing() -> None:
    steps = Steps()
    loop = BackgroundLoop("lamp", steps, purpose="light", seconds=HOUR)
    loop.start()
    loop.start()
    await steps.reach(1)
    await loop.stop()
    loop.start()
    await steps.reach(2)
    await loop.drain(PATIENCE)
    loop.start()
    await steps.reach(4)
    assert [each.get_name() for each in asyncio.all_tasks()].count("raincheck-lamp") == 1
    await loop.stop()


async def test_its_steps_see_no_context_variable_of_the_one_that_started_it() -> None:
    who = ContextVar("who", default="nobody")
    seen: list[str] = []
    entered = asyncio.Event()

    async def step() -> None:
        seen.append(who.get())
        entered.set()

    who.set("a caller")
    loop = BackgroundLoop("lamp", step, purpose="light", seconds=HOUR)
    loop.start()
    async with asyncio.timeout(PATIENCE):
        await entered.wait()
    await loop.stop()
    assert seen == ["nobody"]
