"""The first `tools/list` of a server on stdio: how long it takes from the start of its process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import START_SECONDS, BenchmarkError, Child
from benchmarks.wire import Call, envelope

__all__ = ["Taken", "first_listing", "processor_seconds"]


class Taken(NamedTuple):
    """Seconds."""

    wall: float
    processor: float


def first_listing(
    command: Sequence[str], folder: Path, *, env: Mapping[str, str] | None = None, tools: int = 1
) -> Taken:
    """From the start of a server on stdio to the whole answer to its first `tools/list`.

    Args:
        command: Starts it.
        folder: Where it works.
        env: Variables of its own.
        tools: How many it has at least.

    Raises:
        BenchmarkError: It answered with fewer, or not at all.
    """
    request = json.dumps(envelope(Call(method="tools/list"))).encode() + b"\n"
    started = time.perf_counter()
    child = Child(command, folder=folder, env=env, pipes=True)
    impatience = threading.Timer(START_SECONDS, child.kill)
    impatience.start()
    try:
        assert child.popen.stdin is not None
        assert child.popen.stdout is not None
        child.popen.stdin.write(request)
        child.popen.stdin.flush()
        answer: Mapping[str, Any] = json.loads(child.popen.stdout.readline() or b"{}")
        taken = Taken(time.perf_counter() - started, processor_seconds(child))
        if len(answer.get("result", {}).get("tools", ())) < tools:
            raise BenchmarkError(f"{command}: not the tools on stdio: {answer} {child.tail()}")
        return taken
    finally:
        impatience.cancel()
        child.kill()


def processor_seconds(child: Child) -> float:
    """Of all its threads so far: to the nanosecond where the system tells it (Linux), else in ticks."""
    threads = Path(f"/proc/{child.popen.pid}/task")
    try:
        return sum(int((each / "schedstat").read_text().split()[0]) for each in threads.iterdir()) / 1e9
    except OSError:
        return child.cpu_seconds()
