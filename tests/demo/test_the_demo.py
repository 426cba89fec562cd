"""The demo tells the truth: it succeeds if the promises hold, names the one that does not, and tidies up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.waiting import PATIENCE

# As its readers start it, and found by its environment.
pytestmark = pytest.mark.cold

BROKEN = """
import sys
from raincheck.cli.demo import main
from raincheck.demo.scenario import DemoSettings
sys.exit(main(DemoSettings(**{settings!r})))
"""


class Stage:
    """Runs demos in a temporary folder of their own, and finds whatever they leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"TMPDIR": str(folder)}

    def play(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        command = list(arguments) or ["-c", BROKEN.format(settings=settings)]
        return subprocess.run(
            [sys.executable, *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    @contextmanager
    def playing(self) -> Generator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, "-m", "raincheck", "demo"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def left_behind(self) -> list[str]:
        """Files at once, and processes that are still there after five seconds."""
        give_up = time.monotonic() + 5
        while (processes := self._processes()) and time.monotonic() < give_up:
            psutil.wait_procs(processes, timeout=0.2)
        return [str(process) for process in processes] + [str(path) for path in self.folder.iterdir()]

    def _processes(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("TMPDIR", "").startswith(str(self.folder))
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_the_demo_shows_every_promise_and_leaves_nothing_behind(stage: Stage) -> None:
    # A setting in the environment must not lead the demo to somebody's real tasks.
    stage.environment["RAINCHECK_STATE__URL"] = str(stage.folder / "real.db")
    done = stage.play("-m", "raincheck", "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n  ok   ") == 4
    assert "kill -9" in done.stdout
    assert "docs/quickstart.md" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    assert stage.left_behind() == []


def test_a_store_that_forgets_fails_the_demo_by_name(stage: Stage) -> None:
    forgetful = {"RAINCHECK_STATE__PROVIDER": "memory", "RAINCHECK_STATE__URL": ""}
    done = stage.play(server_environment=forgetful)
    assert done.returncode == 1
    assert "FAILED: the ticket of report does not resolve any more: task_not_found" in done.stdout
    assert stage.left_behind() == []


def test_an_operation_that_runs_twice_though_it_must_not_fails_the_demo_by_name(stage: Stage) -> None:
    done = stage.play(server_environment={"RAINCHECK_OPERATIONS__PAYMENT__ON_WORKER_LOST": "retry"})
    assert done.returncode == 1
    assert "FAILED: the payment did not end in worker_lost" in done.stdout


@pytest.mark.full
def test_a_deadline_that_does_not_come_fails_the_demo_by_name(stage: Stage) -> None:
    done = stage.play(hurry_seconds=60.0, patience_seconds=2.0)
    assert done.returncode == 1
    assert "FAILED: waited 2 s for the deadline to pass" in done.stdout
    assert stage.left_behind() == []


def test_a_server_that_does_not_start_fails_the_demo_with_its_last_lines(stage: Stage) -> None:
    done = stage.play(server_environment={"RAINCHECK_SERVER__COLOUR": "red"})
    assert done.returncode == 1
    assert "FAILED: raincheck serve ended with exit code 2" in done.stdout
    assert "log | raincheck: unknown environment variable RAINCHECK_SERVER__COLOUR" in done.stdout
    assert stage.left_behind() == []


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "sigterm", "hang-up"])
def test_a_demo_that_is_stopped_in_mid_work_leaves_nothing_behind(stage: Stage, number: signal.Signals) -> None:
    with stage.playing() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "five tickets" in line:
                break
        os.killpg(process.pid, number)  # as a terminal does
        rest = process.stdout.read()
        assert process.wait(timeout=PATIENCE) == 1
    assert "stopped; every process and file of the demo is gone" in rest
    assert "Traceback" not in rest
    assert stage.left_behind() == []
