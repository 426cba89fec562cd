"""The module `ops` of the processes in a chaos run: operations that write down what they really do, and when.

It is copied into the folder of a run, and imports nothing of the tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from raincheck import TaskContext

_TICK_SECONDS = 0.05
_SMALL_SECONDS = 0.001
_STEPS_A_TICK = 5

# One write(2) a line on a file opened with O_APPEND: a kill cannot tear it, and processes cannot mix.
_file = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(event: str, task: TaskContext) -> None:
    """Write one line; `at` is the moment in which the operation's code was alive."""
    facts = {
        "event": event,
        "ref": task.task_ref,
        "operation": task.operation_type,
        "attempt": task.attempt,
        "fence": task.fence,
        "pid": os.getpid(),
        "at": time.monotonic(),
    }
    os.write(_file, (json.dumps(facts) + "\n").encode())


async def work(task: TaskContext, seconds: float, how: str = "plain") -> dict[str, Any]:
    """Take so many seconds, and report, ask, raise or kill the worker on the way."""
    note("start", task)
    try:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await _ask(task) if how == "ask" else None
        await _take(task, seconds, reports=how == "report")
        if how == "raise":
            note("raise", task)
            raise ValueError("as it was ordered")
        note("end", task)
    except asyncio.CancelledError:
        note("stopped", task)
        raise
    return _result(task, answer)


def _result(task: TaskContext, answer: Any = None) -> dict[str, Any]:
    return {"fence": task.fence, "attempt": task.attempt, "pid": os.getpid(), "answer": answer}


async def steps(task: TaskContext, seconds: float, how: str = "plain") -> dict[str, Any]:
    """Take so many seconds in small steps, side by side: something is always due."""
    note("start", task)
    until = time.monotonic() + seconds

    async def some() -> None:
        while time.monotonic() < until:
            for _ in range(_STEPS_A_TICK):
                await asyncio.sleep(_SMALL_SECONDS)
            note("tick", task)

    try:
        await asyncio.gather(some(), some())
    except asyncio.CancelledError:
        note("stopped", task)
        raise
    note("end", task)
    return _result(task)


def synchronous(task: TaskContext, seconds: float, how: str = "plain") -> dict[str, Any]:
    """Take so many seconds, deaf to whatever it is told: in a thread, or in a process of its own."""
    note("start", task)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(_TICK_SECONDS / 2)
        note("tick", task)
    note("end", task)
    return _result(task)


def _hang(*_: object) -> None:
    """Hang the event loop, as code would that never gives it back."""
    time.sleep(float((Path(__file__).parent / f"hang-{os.getpid()}").read_text()))


signal.signal(signal.SIGUSR1, _hang)


async def _ask(task: TaskContext) -> Any:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    answer = await task.elicit("Which word?", schema)
    note("tick", task)
    return answer["content"]["word"]


async def _take(task: TaskContext, seconds: float, *, reports: bool) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(_TICK_SECONDS, left))
        note("tick", task)
        if reports:
            await task.progress(min(1.0, max(0.0, 1 - left / seconds)), "at work")
