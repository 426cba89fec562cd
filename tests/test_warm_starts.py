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

SHOW = str(Path(__file__).with_name("support") / "show_start.py")


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


@pytest.mark.parametrize("start", [pytest.param("cold", marks=pytest.mark.cold), "warm"])
def test_a_program_sees_the_same_of_itself(start: str, tmp_path: Path) -> None:
    (tmp_path / "found_by_search.py").touch()
    done = shown(tmp_path, "some", "arguments")
    said = json.loads(done.stdout)
    assert said.pop("warm") is (start == "warm")
    assert said == {
        "argv": [SHOW, "some", "arguments"],
        "main": SHOW,
        "first place": str(Path(SHOW).parent),
        "search": True,
        "folder": str(tmp_path),
        "variable": "yes",
        "stdin": "some words",
        "leads a session": True,
        "parent": os.getpid(),
        "descriptors": [0, 1, 2],
        "threads": ["MainThread"],
        "SIGINT": "default_int_handler",
        "SIGTERM": "SIG_DFL",
    }
    assert (done.returncode, done.stderr) == (7, "and so it ends\n")


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
