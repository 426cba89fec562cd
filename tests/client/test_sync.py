"""The synchronous façade: results, callbacks in the calling thread, Ctrl-C, and nothing left behind."""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from client.office import ACCEPT, Office

from raincheck import OperationFailed
from raincheck.client import ConnectionLost, PollingPolicy, TaskHandle, TaskPoller, TaskView, WaitTimedOut
from raincheck.client.sync import SyncClient, connect
from raincheck.domain.task import InputRequest, TaskStatus


@pytest.fixture
def rc(office: Office) -> Iterator[SyncClient]:
    with connect(office.command, env=office.place.environment(), cwd=office.place.folder) as client:
        yield client


def test_a_script_runs_submits_resumes_cancels_and_calls(rc: SyncClient, office: Office) -> None:
    assert rc.run("quick", {"word": "rain"}).value == {"word": "rain"}
    handle = rc.submit("gated", {"name": "a"})
    assert not rc.status(handle).terminal
    office.open_gate("a")
    assert rc.resume(handle.task_ref).value == {"gate": "a"}
    assert rc.call_tool("quick", {"word": "sun"}).value == {"word": "sun"}
    assert rc.call_tool("gated", {"name": "a"}).handle is not None
    assert rc.cancel(rc.submit("gated", {"name": "never"})).status is TaskStatus.CANCELLED
    with pytest.raises(OperationFailed, match="no paper"):
        rc.run("fail")


def test_callbacks_are_called_in_the_thread_that_waits(rc: SyncClient, office: Office) -> None:
    threads: set[str] = set()
    submitted: list[TaskHandle] = []

    def note(_: object) -> None:
        threads.add(threading.current_thread().name)

    def tell(view: TaskView) -> None:
        note(view)
        if view.progress is not None and view.progress.message is not None:
            office.open_gate(view.progress.message)

    def answer(request: InputRequest) -> dict[str, Any]:
        note(request)
        return ACCEPT

    rc.run("steps", {"names": ["one"]}, on_progress=tell, on_submitted=submitted.append)
    rc.run("ask", on_input=answer, on_submitted=note)
    assert threads == {threading.main_thread().name}
    assert len(submitted) == 1


def test_what_a_callback_raises_ends_the_wait(rc: SyncClient) -> None:
    def broken(request: InputRequest) -> dict[str, Any]:
        raise ZeroDivisionError("of my own")

    with pytest.raises(ZeroDivisionError, match="of my own"):
        rc.run("ask", on_input=broken)
    assert rc.run("quick", {"word": "still there"}).value == {"word": "still there"}


def test_bounds_end_a_wait_and_not_the_task(office: Office) -> None:
    policy = PollingPolicy(max_total_seconds=0.2)
    with connect(office.command, policy=policy, env=office.place.environment(), cwd=office.place.folder) as rc:
        with pytest.raises(WaitTimedOut) as timed_out:
            rc.run("gated", {"name": "a"})
        assert timed_out.value.handle is not None
        assert not rc.status(timed_out.value.handle).terminal


async def test_it_works_inside_a_running_loop(office: Office) -> None:
    assert asyncio.get_running_loop().is_running()
    with connect(office.command, env=office.place.environment(), cwd=office.place.folder) as rc:
        assert rc.run("quick", {"word": "notebook"}).value == {"word": "notebook"}


def test_a_method_has_the_parameters_and_the_words_of_the_pollers_without_its_session() -> None:
    for name in ("run", "submit", "resume", "status", "cancel", "answer"):
        blocking, awaited = getattr(SyncClient, name), getattr(TaskPoller, name)
        expected = [each for each in inspect.signature(awaited).parameters if each != "session"]
        assert list(inspect.signature(blocking).parameters) == expected
        assert blocking.__doc__ == awaited.__doc__
        assert "session:" not in awaited.__doc__


def test_nothing_is_left_when_the_block_ends(office: Office) -> None:
    before = set(threading.enumerate())
    with connect(office.command, env=office.place.environment(), cwd=office.place.folder) as rc:
        rc.submit("gated", {"name": "never"})
    assert set(threading.enumerate()) <= before
    with pytest.raises(RuntimeError, match="with block"):
        rc.run("quick", {"word": "late"})


def test_a_server_that_cannot_start_is_said_and_leaves_nothing() -> None:
    before = set(threading.enumerate())
    told = r"^the server '/no/such/command' does not answer: .*No such file"
    with pytest.raises(ConnectionLost, match=told), connect(["/no/such/command"]):
        pass
    assert set(threading.enumerate()) <= before


def test_an_empty_command_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        connect("  ")


INTERRUPTED = """
import os
import sys
from raincheck.client.sync import connect

with connect(sys.argv[1:], env=dict(os.environ)) as rc:
    try:
        rc.run("gated", {"name": "never"}, on_submitted=lambda handle: print(handle.task_ref, flush=True))
    except KeyboardInterrupt as interrupt:
        print(*interrupt.__notes__)
        print(rc.status(interrupt.__notes__[0].split()[1]).status)
"""


def test_ctrl_c_ends_the_wait_and_not_the_task(office: Office) -> None:
    program = office.place.folder / "interrupted.py"
    program.write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, str(program), *office.command],
        cwd=office.place.folder,
        env=office.place.environment(),
        stdout=subprocess.PIPE,
        text=True,
        # A group of its own, as a shell's foreground job; the server must not get the signal from us.
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        task_ref = process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    said, status = out.splitlines()
    assert task_ref in said
    assert "not cancelled" in said
    assert status in ("pending", "processing")
    assert process.returncode == 0
