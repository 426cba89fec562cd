"""What operations really did: an append-only file that they write themselves, and what it tells.

Appending a line is one write(2) on a file opened with O_APPEND, so that a kill cannot tear it and processes cannot mix.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
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
             "pid": os.getpid(), "at": time.monotonic()}
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
    """One start of a task's operation; `ended` is None where it did not come to its end. Times are monotonic."""

    ref: str
    operation: str
    attempt: int
    pid: int
    started: float
    ended: float | None


class History:
    """The runs by task, in the order of their starts."""

    def __init__(self, path: Path) -> None:
        ends: dict[tuple[str, int, int], float] = {}
        starts: list[dict[str, Any]] = []
        for line in path.read_text().splitlines() if path.exists() else ():
            fact: dict[str, Any] = json.loads(line)
            if fact["event"] == "start":
                starts.append(fact)
            else:
                ends[fact["ref"], fact["attempt"], fact["pid"]] = fact["at"]
        self.runs: defaultdict[str, list[Run]] = defaultdict(list)
        for fact in sorted(starts, key=lambda fact: fact["at"]):
            key = (fact["ref"], fact["attempt"], fact["pid"])
            self.runs[fact["ref"]].append(
                Run(
                    ref=fact["ref"],
                    operation=fact["operation"],
                    attempt=fact["attempt"],
                    pid=fact["pid"],
                    started=fact["at"],
                    ended=ends.get(key),
                )
            )

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


def figures(title: str, rows: Mapping[str, object]) -> None:
    """Show what was measured: `pytest -rP` or `-s` prints it."""
    width = max(map(len, rows))
    print(f"\n{title}")
    for name, value in rows.items():
        shown = f"{value:.1f}" if isinstance(value, float) else str(value)
        print(f"  {name:<{width}}  {shown}")
