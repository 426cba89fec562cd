"""What operations really did: an append-only file that they write themselves, and what it tells.

A line is an event: "start", "tick" while it works, "end", "stopped" when it was told to stop. Appending one is one
write(2) on a file opened with O_APPEND, so that a kill cannot tear it and processes cannot mix.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__ = ["FUNCTIONS", "TOML", "History", "Run", "figures"]

FUNCTIONS = '''
import asyncio
import json
import os
import time

from raincheck import TaskContext

_file = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(event: str, task: TaskContext) -> None:
    facts = {"event": event, "ref": task.task_ref, "operation": task.operation_type, "attempt": task.attempt,
             "fence": task.fence, "pid": os.getpid(), "at": time.monotonic()}
    os.write(_file, (json.dumps(facts) + "\\n").encode())


async def work(task: TaskContext, seconds: float) -> str:
    """Take so many seconds."""
    note("start", task)
    await asyncio.sleep(seconds)
    note("end", task)
    return "worked"


def work_in_thread(task: TaskContext, seconds: float) -> str:
    """Take so many seconds, in a thread."""
    note("start", task)
    time.sleep(seconds)
    note("end", task)
    return "worked"
'''
"""The module `ops` of a `Workplace`: functions that keep the history."""

TOML = """
[operations.fail]
kind = "python"
target = "ops:work"
on_worker_lost = "fail"

[operations.retry]
kind = "python"
target = "ops:work"
on_worker_lost = "retry"
"""
"""Two operations on them, one of each policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One start of a task's operation. Times are monotonic.

    Attributes:
        fence: The fencing number of the start; 0 where the operation did not write it.
        last: When it last wrote a line of its own work. That it was told to stop is none.
        ended: When it came to its end; None where it did not.
        how: The last event of the run: "start", "tick", "end", or what else the operation writes.
    """

    ref: str
    operation: str
    attempt: int
    fence: int
    pid: int
    started: float
    last: float
    ended: float | None
    how: str


def whole_lines(text: str) -> list[str]:
    """The lines of a file of flat JSON objects, without a last one that is still being written."""
    lines = text.splitlines()
    if lines and not text.endswith("\n") and not lines[-1].endswith("}"):
        lines.pop()
    return lines


class History:
    """The runs by task, in the order of their starts."""

    def __init__(self, path: Path) -> None:
        lines: defaultdict[tuple[str, int, int, int], list[dict[str, Any]]] = defaultdict(list)
        for line in whole_lines(path.read_text() if path.exists() else ""):
            fact: dict[str, Any] = json.loads(line)
            lines[fact["ref"], fact["attempt"], fact.get("fence", 0), fact["pid"]].append(fact)
        self.runs: defaultdict[str, list[Run]] = defaultdict(list)
        for run in sorted(itertools.chain.from_iterable(map(_runs_of, lines.values())), key=lambda run: run.started):
            self.runs[run.ref].append(run)

    def started_twice(self, operation: str) -> list[str]:
        """Tasks of that operation that started more than once."""
        return [ref for ref, runs in self.runs.items() if len(runs) > 1 and runs[0].operation == operation]

    def at_once(self, deaths: Mapping[int, float]) -> list[str]:
        """Tasks of which two runs overlapped; `deaths` says when a process was killed."""
        return [
            ref
            for ref, runs in self.runs.items()
            for earlier, later in pairwise(runs)
            if later.started < (earlier.ended or deaths.get(earlier.pid, float("inf")))
        ]

    def finished(self, ref: str) -> int:
        """How many runs of the task came to their end."""
        return sum(run.ended is not None for run in self.runs[ref])


def _runs_of(lines: Sequence[Mapping[str, Any]]) -> Iterator[Run]:
    """The runs in one process's lines of one attempt: one, unless it was started twice there."""
    starts = [number for number, fact in enumerate(lines) if fact["event"] == "start"]
    for first, beyond in pairwise((*starts, len(lines))):
        own = [fact for fact in lines[first:beyond] if fact["event"] != "stopped"]
        yield Run(
            ref=own[0]["ref"],
            operation=own[0]["operation"],
            attempt=own[0]["attempt"],
            fence=own[0].get("fence", 0),
            pid=own[0]["pid"],
            started=own[0]["at"],
            last=own[-1]["at"],
            ended=next((fact["at"] for fact in own if fact["event"] == "end"), None),
            how=lines[beyond - 1]["event"],
        )


def figures(title: str, rows: Mapping[str, object]) -> None:
    """Show what was measured: `pytest -rP` or `-s` prints it."""
    width = max(map(len, rows))
    print(f"\n{title}")
    for name, value in rows.items():
        shown = f"{value:.1f}" if isinstance(value, float) else str(value)
        print(f"  {name:<{width}}  {shown}")
