"""The reaper ends groups whose time is over, says which, and keeps nobody waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import pytest

from raincheck.operations.orphan_reaper import OrphanReaper
from raincheck.timing.clock import monotonic
from support.waiting import PATIENCE

DEAF = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
SLEEPS = "import sys, time; print(flush=True); time.sleep(60)"


@pytest.fixture
def reaper() -> Generator[OrphanReaper]:
    reaper = OrphanReaper()
    yield reaper
    reaper.close()


@contextmanager
def group(reaper: OrphanReaper, program: str = SLEEPS) -> Generator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **reaper.mark()},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            with reaper.watching(process.pid):
                yield process
        finally:
            process.kill()


def soon(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_group_is_ended_when_its_time_is_over_and_the_guardian_says_so(reaper: OrphanReaper) -> None:
    with group(reaper) as polite, group(reaper, DEAF) as deaf, group(reaper) as other:
        began = monotonic()
        for each in (polite, deaf):
            reaper.allow(each.pid, began + 0.3, 0.2)
        assert (polite.wait(PATIENCE), monotonic() - began >= 0.3) == (-signal.SIGTERM, True)
        assert (deaf.wait(PATIENCE), monotonic() - began >= 0.5) == (-signal.SIGKILL, True)
        assert [reaper.ended(each.pid) for each in (polite, deaf, other)] == [True, True, False]
        assert other.poll() is None
    assert not reaper.ended(polite.pid), "its number may be another group's by now"


def test_a_group_whose_time_is_prolonged_lives_on(reaper: OrphanReaper) -> None:
    with group(reaper) as process:
        for _ in range(8):
            reaper.allow(process.pid, monotonic() + 2.0, 0.1)
            time.sleep(0.1)
        reaper.allow(process.pid, float("inf"), 0.0)
        assert (process.poll(), reaper.ended(process.pid)) == (None, False)


def test_a_guardian_that_was_killed_is_replaced_and_knows_what_to_end(reaper: OrphanReaper) -> None:
    with group(reaper) as process:
        first = reaper.pid
        assert first is not None
        reaper.allow(process.pid, monotonic() + 0.5, 0.1)
        os.kill(first, signal.SIGKILL)
        soon(lambda: reaper.mark() and reaper.pid != first)
        assert process.wait(PATIENCE) == -signal.SIGTERM
        assert reaper.ended(process.pid)


def test_a_guardian_that_stands_still_keeps_nobody_waiting(reaper: OrphanReaper) -> None:
    with group(reaper) as process:
        assert reaper.pid is not None
        os.kill(reaper.pid, signal.SIGSTOP)
        for _ in range(20_000):
            reaper.allow(process.pid, monotonic() + 60, 0.1)


def test_what_is_gone_is_not_waited_for_when_the_guarded_process_dies(reaper: OrphanReaper) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(group(reaper)) for _ in range(2)]
        of_guardian = reaper._process  # pyright: ignore[reportPrivateUsage]
        assert of_guardian is not None
        assert of_guardian.stdin is not None
        of_guardian.stdin.close()
        assert [process.wait(PATIENCE) for process in processes] == [-signal.SIGTERM] * 2
        assert of_guardian.wait(PATIENCE) == 0


def test_a_group_that_has_ended_is_not_watched_again_by_a_renewal_that_comes_late(reaper: OrphanReaper) -> None:
    with group(reaper) as process:
        pass
    reaper.allow(process.pid, monotonic() + 0.05, 0.0)
    with group(reaper) as other:
        soon(lambda: reaper.pid is not None)
        assert list(reaper._groups) == [other.pid]  # pyright: ignore[reportPrivateUsage]
