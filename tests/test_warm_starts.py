"""Warm starts (support/warm.py) are starts: what a program sees of itself is what it sees after a cold one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support.warm import WARM_STARTS, WarmStarts

SHOW = str(Path(__file__).with_name("support") / "show_start.py")


@pytest.fixture
def starts(pytestconfig: pytest.Config) -> WarmStarts:
    if pytestconfig.getoption("--cold") or not sys.platform.startswith("linux"):
        pytest.skip("no warm starts here")
    return pytestconfig.stash[WARM_STARTS]


def shown(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SHOW, *arguments],
        input="some words",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "SHOWN": "yes", "PYTHONPATH": str(tmp_path)},
        start_new_session=True,
        timeout=60,
        check=False,
    )


def test_a_program_sees_the_same_of_itself(tmp_path: Path, starts: WarmStarts) -> None:
    (tmp_path / "found_by_search.py").touch()
    warm = shown(tmp_path, "some", "arguments")
    starts.allowed = False
    cold = shown(tmp_path, "some", "arguments")
    said, wanted = json.loads(warm.stdout), json.loads(cold.stdout)
    assert (said.pop("warm"), wanted.pop("warm")) == (True, False)
    assert said == wanted
    assert said["parent"] == os.getpid()
    assert (warm.returncode, warm.stderr) == (cold.returncode, cold.stderr) == (7, "and so it ends\n")


def test_a_warm_program_that_raises_ends_as_python_does(tmp_path: Path) -> None:
    done = shown(tmp_path, "raise")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("ValueError: so it was asked\n")


async def test_a_warm_program_is_waited_for_and_killed_like_any_child(tmp_path: Path) -> None:
    wait = [sys.executable, SHOW, "wait"]
    process = await asyncio.create_subprocess_exec(*wait, stdout=asyncio.subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"waiting\n"
    assert psutil.Process(process.pid).ppid() == os.getpid()
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    assert not psutil.pid_exists(process.pid)


async def test_a_signal_for_ctrl_c_reaches_a_warm_program(tmp_path: Path) -> None:
    wait = [sys.executable, SHOW, "wait"]
    process = await asyncio.create_subprocess_exec(*wait, stdout=-1, stderr=-1, cwd=tmp_path, start_new_session=True)
    assert process.stdout is not None
    await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    assert process.returncode == -signal.SIGINT
    assert said.endswith(b"KeyboardInterrupt\n")
