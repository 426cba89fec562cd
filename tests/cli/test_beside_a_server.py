"""`raincheck tasks` beside a running `raincheck serve`: two processes on one store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.command_line import CommandLine, Tasks, failed
from support.waiting import PATIENCE

SLOW = '''
import asyncio
from pathlib import Path

async def build(quarter: str) -> str:
    """Build a quarterly report."""
    if quarter == "never":
        try:
            await asyncio.Event().wait()
        finally:
            Path("stopped").touch()
    return quarter
'''


def eventually(look: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `look` says as soon as it is true."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, "not within the time"
        time.sleep(0.05)
    return found


@pytest.fixture
def server(raincheck: CommandLine, tasks: Tasks, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    Path("reports.py").write_text(SLOW)
    Path("raincheck.toml").write_text(
        '[state]\nurl = "state/raincheck/tasks.db"\n[operations.report]\nkind = "python"\ntarget = "reports:build"\n'
    )
    command = [sys.executable, "-m", "raincheck", "serve", "--transport", "streamable-http", "--port", "0"]
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)
    assert process.stdout is not None
    assert process.stderr is not None
    with process, process.stdout, process.stderr:
        try:
            for line in process.stderr:
                if b"serving on" in line:
                    break
            yield process
        finally:
            process.kill()


def test_a_retried_task_is_taken_up_by_the_server_and_a_cancelled_one_stopped(
    server: subprocess.Popen[bytes], raincheck: CommandLine, tasks: Tasks
) -> None:
    def status(ref: str) -> str:
        return raincheck("tasks", "show", ref, "--json").json["status"]

    quick = tasks.add(*failed("worker_lost", "gone"), arguments={"quarter": "Q3"})
    again = raincheck("tasks", "retry", quick.task_ref).out.strip()
    eventually(lambda: status(again) == "completed")
    assert raincheck("tasks", "show", again, "--json").json["result"] == "Q3"

    endless = tasks.add(*failed("worker_lost", "gone"), arguments={"quarter": "never"})
    running = raincheck("tasks", "retry", endless.task_ref).out.strip()
    eventually(lambda: status(running) == "processing")
    assert raincheck("tasks", "cancel", running).code == 0
    eventually(Path("stopped").exists, seconds=20)
    assert status(running) == "cancelled"

    server.send_signal(signal.SIGTERM)
    server.wait(timeout=PATIENCE)
    assert server.stdout is not None
    assert server.stdout.read() == b""
