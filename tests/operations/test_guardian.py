"""The guardian ends groups whose time is over, says which, and keeps nobody waiting."""

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
def guardian() -> Generator[OrphanReaper]:
    guardian = OrphanReaper()
    yield guardian
    guardian.close()


@contextmanager
def group(guardian: OrphanReaper, program: str = SLEEPS) -> Generator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **guardian.mark()},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            with guardian.watching(process.pid):
                yield process
        finally:
            process.kill()


def soon(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_group_is_ended_when_its_time_is_over_and_the_guardian_says_so(guardian: OrphanReaper) -> None:
    with group(guardian) as polite, group(guardian, DEAF) as deaf, group(guardian) as other:
        began = monotonic()
        for each in (polite, deaf):
            guardian.allow(each.pid, began + 0.3, 0.2)
        assert (polite.wait(PATIENCE), monotonic() - began >= 0.3) == (-signal.SIGTERM, True)
        assert (deaf.wait(PATIENCE), monotonic() - began >= 0.5) == (-signal.SIGKILL, True)
        assert [guardian.ended(each.pid) for each in (polite, deaf, other)] == [True, True, False]
        assert other.poll() is None
    assert not guardian.ended(polite.pid), "its number may be another group's by now"


def test_a_group_whose_time_is_prolonged_lives_on(guardian: OrphanReaper) -> None:
    with group(guardian) as process:
        for _ in range(8):
            guardian.allow(process.pid, monotonic() + 2.0, 0.1)
            time.sleep(0.1)
        guardian.allow(process.pid, float("inf"), 0.0)
        assert (process.poll(), guardian.ended(process.pid)) == (None, False)


def test_a_guardian_that_was_killed_is_replaced_and_knows_what_to_end(guardian: OrphanReaper) -> None:
    with group(guardian) as process:
        first = guardian.pid
        assert first is not None
        guardian.allow(process.pid, monotonic() + 0.5, 0.1)
        os.kill(first, signal.SIGKILL)
        soon(lambda: guardian.mark() and guardian.pid != first)
        assert process.wait(PATIENCE) == -signal.SIGTERM
        assert guardian.ended(process.pid)


def test_a_guardian_that_stands_still_keeps_nobody_waiting(guardian: OrphanReaper) -> None:
    with group(guardian) as process:
        assert guardian.pid is not None
        os.kill(guardian.pid, signal.SIGSTOP)
        for _ in range(20_000):
            guardian.allow(process.pid, monotonic() + 60, 0.1)


def test_what_is_gone_is_not_waited_for_when_the_guarded_process_dies(guardian: OrphanReaper) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(group(guardian)) for _ in range(2)]
        of_guardian = guardian._process  # pyright: ignore[reportPrivateUsage]
        assert of_guardian is not None
        assert of_guardian.stdin is not None
        of_guardian.stdin.close()
        assert [process.wait(PATIENCE) for process in processes] == [-signal.SIGTERM] * 2
        assert of_guardian.wait(PATIENCE) == 0


def test_a_group_that_has_ended_is_not_watched_again_by_a_renewal_that_comes_late(guardian: OrphanReaper) -> None:
    with group(guardian) as process:
        pass
    guardian.allow(process.pid, monotonic() + 0.05, 0.0)
    with group(guardian) as other:
        soon(lambda: guardian.pid is not None)
        assert list(guardian._groups) == [other.pid]  # pyright: ignore[reportPrivateUsage]
