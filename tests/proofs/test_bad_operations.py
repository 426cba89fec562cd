"""Operations that misbehave: each ends in a clear error of its own, and the server and its other tasks go on."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.history import FUNCTIONS as HISTORY_FUNCTIONS
from support.history import History
from support.serving import StdioServer, Workplace
from support.waiting import PATIENCE

FUNCTIONS = (
    HISTORY_FUNCTIONS
    + '''
import sys

from raincheck import OperationFailed


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


def returns_object(): return object()
async def returns_object_async(): return object()
def returns_nan(): return float("nan")
def returns_bytes(): return b"\\xff"
def returns_itself():
    found = []
    found.append(found)
    return found
def returns_too_much(): return "x" * 17_000_000
def raises(): raise ValueError("no such quarter")
async def raises_async(): raise ValueError("no such quarter")
def raises_odd_text(): raise OSError("no such file: \\udcff.txt")
def raises_unprintable(): raise Unprintable
def raises_much(): raise ValueError("x" * 5_000_000)
def raises_odd_details(): raise OperationFailed("odd", details={"a": object()})
def exits(): sys.exit(3)
async def exits_async(): sys.exit(3)
async def interrupts(): raise KeyboardInterrupt
async def cancels_itself(): raise asyncio.CancelledError
def stops_iteration(): raise StopIteration
def recurses(): return recurses()
async def blocks(task: TaskContext, seconds: float):
    """Block the event loop."""
    note("start", task)
    time.sleep(seconds)
    note("end", task)
    return "unblocked"
def hangs(): time.sleep(60)
async def says(task: TaskContext, message: str):
    await task.progress(0.5, "\\udcff " + message)
    await asyncio.sleep(60)
def dies(task: TaskContext):
    note("start", task)
    os._exit(7)
'''
)

# The operation, the code of its error, and what its message says.
MISBEHAVING: list[tuple[str, str, str]] = [
    ("returns_object", "operation_failed", "JSON cannot hold: an object of type object"),
    ("returns_object_async", "operation_failed", "JSON cannot hold: an object of type object"),
    ("returns_nan", "operation_failed", "NaN"),
    ("returns_bytes", "operation_failed", "not UTF-8"),
    ("returns_itself", "operation_failed", "contains itself"),
    ("returns_too_much", "result_too_large", "max_result_bytes"),
    ("raises", "operation_failed", "no such quarter"),
    ("raises_async", "operation_failed", "no such quarter"),
    ("raises_odd_text", "operation_failed", "no such file: \ufffd.txt"),
    ("raises_unprintable", "operation_failed", "Unprintable"),
    ("raises_much", "operation_failed", "xxx"),
    ("raises_odd_details", "operation_failed", "odd"),
    ("exits", "operation_failed", "sys.exit(3)"),
    ("exits_async", "operation_failed", "sys.exit(3)"),
    ("interrupts", "operation_failed", "KeyboardInterrupt"),
    ("cancels_itself", "operation_failed", "CancelledError"),
    ("stops_iteration", "operation_failed", "StopIteration"),
    ("recurses", "operation_failed", "recursion"),
]


def operation(name: str, *settings: str, kind: str = "python") -> str:
    target = f'target = "ops:{name}"' if kind == "python" else ""
    return "\n".join([f"[operations.{name}]", f'kind = "{kind}"', target, *settings, ""])


@pytest.mark.parametrize("transport", ["stdio", "streamable-http"])
async def test_an_operation_that_misbehaves_fails_alone(tmp_path: Path, transport: str) -> None:
    isolated = [("isolated_exits", "exits"), ("isolated_dies", "dies"), ("isolated_object", "returns_object")]
    toml = "".join(operation(name) for name, _, _ in MISBEHAVING)
    for name, target in isolated:
        toml += f'[operations.{name}]\nkind = "python"\ntarget = "ops:{target}"\nisolation = "process"\n'
    place = Workplace(tmp_path, toml + operation("work"), FUNCTIONS)
    cases = [*MISBEHAVING, *((name, "operation_failed", "") for name, _ in isolated)]
    wrong: list[str] = []
    async with place.served(transport) as (server, caller):
        healthy = await caller.submit("work", {"seconds": 2.0})
        for name, code, part in cases:
            settled = await asyncio.wait_for(caller.run(name), PATIENCE)
            error: dict[str, Any] = settled["error"] or {}
            if (settled["status"], error.get("code")) != ("failed", code) or part not in error["message"]:
                wrong.append(f"{name}: {settled['status']} {error or settled['result']}"[:300])
            elif len(error["message"]) > 2000 or "Traceback" in error["message"] or "/ops.py" in error["message"]:
                wrong.append(f"{name}: the message is {error['message'][:100]!r}")
        assert wrong == []
        assert (await caller.settled(healthy["task_ref"]))["result"] == "worked"
        if isinstance(server, StdioServer):
            assert server.stray == []


@pytest.mark.parametrize("transport", ["stdio", "streamable-http"])
async def test_odd_progress_can_be_told_over_every_transport(tmp_path: Path, transport: str) -> None:
    place = Workplace(tmp_path, operation("says"), FUNCTIONS)
    async with place.served(transport) as (_, caller):
        ref = (await caller.submit("says", {"message": "x" * 100_000}))["task_ref"]
        async with asyncio.timeout(PATIENCE):
            while (status := await caller.status(ref))["progress"] is None:
                await asyncio.sleep(0.02)
        assert status["progress"]["message"].startswith("\ufffd xxx")
        assert len(status["progress"]["message"]) == 500
        assert (await caller.call("cancel_background_task", {"task_ref": ref}))["status"] == "cancelled"


async def test_an_operation_that_blocks_the_loop_fails_by_timeout_and_takes_no_other_task_with_it(
    tmp_path: Path,
) -> None:
    toml = "[execution]\nlease_seconds = 1\n" + operation("blocks", "timeout_seconds = 1")
    place = Workplace(tmp_path, toml + operation("work"), FUNCTIONS)
    # A second process on the file would take up the tasks if their leases ran out.
    async with place.stdio() as server, place.stdio(env={"RAINCHECK_EXECUTION__MAX_CONCURRENCY": "0"}) as other:
        await other.request("tools/list", {})
        healthy = (await server.submit("work", {"seconds": 4.5}))["task_ref"]
        blocking = (await server.submit("blocks", {"seconds": 3.0}))["task_ref"]
        began = time.monotonic()
        error = (await other.settled(blocking))["error"]
        assert time.monotonic() - began < 10
        assert (error["code"], error["details"]["limit"]) == ("timeout", "timeout")
        assert (await other.settled(healthy))["result"] == "worked"
        assert (await server.run("work", {"seconds": 0.0}))["result"] == "worked"
    history = History(place.history)
    assert [run.attempt for run in history.runs[healthy]] == [1]
    assert [run.attempt for run in history.runs[blocking]] == [1]


async def test_a_thread_that_never_ends_is_settled_by_its_timeout(tmp_path: Path) -> None:
    place = Workplace(tmp_path, operation("hangs", "timeout_seconds = 0.5") + operation("work"), FUNCTIONS)
    async with place.stdio() as server:
        error = (await asyncio.wait_for(server.run("hangs"), PATIENCE))["error"]
        assert (error["code"], error["details"]["limit"]) == ("timeout", "timeout")
        assert (await server.run("work", {"seconds": 0.0}))["result"] == "worked"


async def test_a_task_that_kills_every_worker_is_given_up_after_three_starts(tmp_path: Path) -> None:
    toml = "[execution]\nlease_seconds = 1\n" + operation("dies", 'on_worker_lost = "retry"')
    place = Workplace(tmp_path, toml, FUNCTIONS)
    async with place.stdio() as server:
        # The ticket may or may not be told before the process dies; the task is durable.
        with pytest.raises(OSError):
            await server.run("dies")
    for _ in range(2):
        async with place.stdio() as server:
            await server.exited()
    async with place.stdio() as server:
        task: dict[str, Any] = (await server.call("list_background_tasks"))["tasks"][0]
        settled = await server.settled(task["task_ref"])
    assert settled["error"]["code"] == "worker_lost"
    assert "after 3 starts" in settled["error"]["message"]
    assert [run.attempt for run in History(place.history).runs[task["task_ref"]]] == [1, 2, 3]


async def test_a_command_that_fails_hangs_or_vanishes_fails_its_task_alone(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho here\n")
    program.chmod(0o755)
    toml = f"""
[operations.vanishing]
kind = "command"
argv = ["{program}"]
[operations.failing]
kind = "command"
argv = ["{sys.executable}", "-c", "import sys; sys.stderr.write('no such\\\\udcffquarter'); sys.exit(4)"]
[operations.hanging]
kind = "command"
argv = ["sleep", "60"]
timeout_seconds = 0.5
"""
    place = Workplace(tmp_path, toml)
    async with place.stdio() as server:
        assert (await server.run("vanishing"))["status"] == "completed"
        program.unlink()
        gone = (await server.run("vanishing"))["error"]
        assert gone["code"] == "operation_failed"
        assert str(program) in gone["message"] or "program" in gone["message"]
        failed = (await server.run("failing"))["error"]
        assert failed["code"] == "operation_failed"
        assert "quarter" in str(failed)
        hung = (await server.run("hanging"))["error"]
        assert hung["code"] == "timeout"
        assert server.stray == []
        async with asyncio.timeout(PATIENCE):
            while any("sleep 60" in process for process in server.left_behind()):
                await asyncio.sleep(0.05)


async def test_a_host_that_refuses_or_does_not_answer_fails_its_task_alone(tmp_path: Path) -> None:
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        closed.bind(("127.0.0.1", 0))
        toml = f"""
[operations.silent]
kind = "http"
url = "http://127.0.0.1:{silent.getsockname()[1]}/"
timeout_seconds = 1
[operations.refusing]
kind = "http"
url = "http://127.0.0.1:{closed.getsockname()[1]}/"
[operations.nowhere]
kind = "http"
url = "http://nowhere.invalid/"
"""
        place = Workplace(tmp_path, toml)
        async with place.stdio() as server:
            refused = (await server.run("refusing"))["error"]
            assert refused["code"] == "upstream_error"
            assert refused["retryable"] is True
            assert (await server.run("nowhere"))["error"]["code"] == "upstream_error"
            unanswered = (await server.run("silent"))["error"]
            assert (unanswered["code"], unanswered["details"]["limit"]) == ("timeout", "timeout")
