"""Warm starts (support/warm.py) are starts: what a program sees of itself is what it sees after a cold one."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import psutil
import pytest

from support.warm import WARM_STARTS, WarmStarts

_PR_GET_CHILD_SUBREAPER = 37
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


def test_a_python_without_arguments_is_started_too(tmp_path: Path, starts: WarmStarts) -> None:
    assert starts.allowed
    done = subprocess.run([sys.executable], input="print(1)", capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n")


def test_the_process_reaps_no_orphans_while_it_waits_for_the_warm_one() -> None:
    starts = WarmStarts()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    vars(starts).update(_asking=ours)
    start: Callable[..., int] = getattr(starts, "_start")  # noqa: B009
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        pid = pool.submit(start, {"arguments": []}, dict.fromkeys(("p2cread", "c2pwrite", "errwrite"), -1))
        try:
            wait([pid], timeout=0.3)
            assert not reaps_orphans()
        finally:
            theirs.send(b"ready")
            _, descriptors, _, _ = socket.recv_fds(theirs, 2**20, 3)
            reaping = reaps_orphans()
            theirs.send(b"17")
        assert (pid.result(60), reaping) == (17, True)
    for descriptor in descriptors:
        os.close(descriptor)


def reaps_orphans() -> bool:
    found = ctypes.c_int()
    assert ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0) == 0
    return bool(found.value)
