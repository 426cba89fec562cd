"""What agents that poll without a pause cost, and how soon they know: `python -m benchmarks.polling` writes POLLING.md.

`raincheck serve` over streamable HTTP, a process of its own, with `hold_seconds = 3`; the agents are another process.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.contestants import HERE, SERVERS
from benchmarks.load import percentile
from benchmarks.processes import BenchmarkError, Child, end_all, free_port, load, wait_until_serving
from benchmarks.store import address

PAGE = HERE / "POLLING.md"
HOLD_SECONDS = 3.0
WAITERS = 1_000
# The longest that a server holds a call, and what of it is measured: all calls are held from its beginning to its end.
LONGEST_HOLD = 25.0
SETTLING_SECONDS, WINDOW_SECONDS = 5.0, 15.0

CONFIG = """\
[server]
name = "polling"
[state]
provider = "{provider}"
url = "{url}"
[execution]
max_concurrency = {places}
[polling]
hold_seconds = {hold:g}
[operations.nap]
kind = "python"
target = "bench_operations:nap"
description = "Sleep."
mode = "task"
timeout_seconds = 600
"""

READING = """\
## How to read it

- **Calls per task**: agents that call `resolve_task_status` again as soon as it answers, naming no `wait_seconds`. Each
  task's first call follows its ticket at once. The target is one call for each `hold_seconds` of its run, and one.
- **Processor time**: of the server's process, while {waiters:,} calls are held and nothing else happens: each for
  another task, `wait_seconds = {longest:g}` (the cap), {windows} × {window:g} s, begun {settling:g} s after they were
  sent and over before the first is answered. Once the tasks are pending, once they all run in that process (sleeping;
  their leases are renewed).
- **In a tight loop**: as many agents, but each asks again as soon as it is answered; {waiters:,} ÷ `hold_seconds` calls
  a second are the most that they can make. For comparison, and without a target.
- **Lag**: from the end of the operation's own code (the clock it returns) to the answer in the agent's hands, so that
  writing the outcome is in it; {agents} agents with tasks of {low:g} to {high:g} s. In another process: the server only
  accepts (`max_concurrency = 0`), `raincheck worker` runs the tasks. PostgreSQL has `fsync`, Redis an append-only file.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured."""

    agents: int
    seconds: float
    windows: int
    lag_agents: int
    lag_tasks: int


FULL = Scale(agents=100, seconds=60, windows=2, lag_agents=20, lag_tasks=50)
QUICK = Scale(agents=20, seconds=6, windows=1, lag_agents=10, lag_tasks=10)
NAPS = (0.2, 0.6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table; `most`: what the value may be, None where there is no target."""

    what: str
    value: float
    unit: str
    most: float | None = None
    least_exclusive: bool = True
    note: str = ""

    def line(self) -> str:
        """As a line of Markdown."""
        digits = 2 if self.unit == "%" else 1
        if self.most is None:
            target, verdict = "–", "–"
        else:
            target = f"{'<' if self.least_exclusive else '≤'} {self.most:g} {self.unit}".rstrip()
            reached = self.value < self.most or (not self.least_exclusive and self.value == self.most)
            verdict = "reached" if reached else "**not reached**"
        note = f" ({self.note})" if self.note else ""
        measured = f"{self.value:,.{digits}f} {self.unit}".rstrip()
        return f"| {self.what} | {measured}{note} | {target} | {verdict} |"


def progress(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def server(*, provider: str = "sqlite", places: int, worker_places: int = 0) -> Generator[tuple[Child, int]]:
    """A server of its own on a fresh store, and its port; with `worker_places` a worker beside it."""
    with tempfile.TemporaryDirectory(prefix="bench-polling-") as name, address(provider, "") as url:
        folder = Path(name)
        (folder / "polling.toml").write_text(
            CONFIG.format(provider=provider, url=url or "tasks.db", places=places, hold=HOLD_SECONDS)
        )
        shutil.copy(SERVERS / "bench_operations.py", folder)
        port = free_port()
        raincheck = [sys.executable, "-m", "raincheck"]
        quiet = ["--log-level", "warning"]
        serve = ["serve", "polling.toml", "--transport", "streamable-http", "--host", "127.0.0.1", "--port", str(port)]
        children = [Child([*raincheck, *serve, *quiet], folder=folder)]
        try:
            wait_until_serving(children[0], port)
            if worker_places:
                work = ["worker", "polling.toml", "--max-concurrency", str(worker_places)]
                children.append(Child([*raincheck, *work, *quiet], folder=folder))
            yield children[0], port
        finally:
            for child in children:
                child.kill()


def _agents(port: int, *, agents: int, tasks: int, seconds: Sequence[float], spacing: float = 0.0) -> dict[str, Any]:
    order = {"do": "agents", "dialect": "handle-tools", "port": port, "agents": agents, "tasks": tasks}
    limit = 60 + spacing * agents + tasks * seconds[1] * 2
    return load({**order, "seconds": list(seconds), "spacing": spacing}, limit)


def storm(scale: Scale) -> list[Row]:
    """Many agents, each with one long task."""
    progress(f"{scale.agents} agents poll without a pause for tasks of {scale.seconds:g} s")
    with server(places=scale.agents) as (child, port):
        _agents(port, agents=5, tasks=1, seconds=(0.1, 0.1))
        before = child.cpu_seconds()
        found = _agents(port, agents=scale.agents, tasks=1, seconds=(scale.seconds, scale.seconds))
        share = (child.cpu_seconds() - before) / scale.seconds * 100
    most = scale.seconds / HOLD_SECONDS + 1
    mean = sum(found["calls"]) / len(found["calls"])
    what = f"calls per task, {scale.agents} agents, tasks of {scale.seconds:g} s"
    return [
        Row(what=f"{what}: the most", value=max(found["calls"]), unit="", most=most, least_exclusive=False),
        Row(what="… on average", value=mean, unit="", most=most, least_exclusive=False),
        Row(what="… processor time of the server meanwhile, of one core", value=share, unit="%"),
    ]


def _held(scale: Scale, *, places: int) -> float:
    """The server's processor time while all calls are held, in percent of one core."""
    used = measured = 0.0
    with server(places=places) as (child, port), ThreadPoolExecutor(1) as pool:
        order = {"dialect": "handle-tools", "port": port}
        tasks = [{"seconds": 500}] * WAITERS
        refs = load({**order, "do": "submit", "operation": "nap", "tasks": tasks, "spacing": 0.003})["refs"]
        for _ in range(scale.windows):
            at = time.time() + 5
            suspended = pool.submit(
                load, {**order, "do": "park", "refs": refs, "at": at, "wait_seconds": LONGEST_HOLD}, 120
            )
            time.sleep(at + SETTLING_SECONDS - time.time())
            began, cpu = time.time(), child.cpu_seconds()
            time.sleep(WINDOW_SECONDS)
            used += child.cpu_seconds() - cpu
            ended = time.time()
            measured += ended - began
            found = suspended.result()
            if not (found["sent"] < began and ended < found["first"]):
                raise BenchmarkError(f"not every call was held from {began} to {ended}: {found}")
    return used / measured * 100


def idle(scale: Scale) -> list[Row]:
    """Many held calls, and nothing that happens."""
    progress(f"{WAITERS:,} held calls for pending tasks")
    pending = _held(scale, places=0)
    progress(f"{WAITERS:,} held calls for running tasks")
    running = _held(scale, places=WAITERS)
    what = f"processor time of the server, {WAITERS:,} held calls, of one core"
    return [
        Row(what=f"{what}: tasks pending", value=pending, unit="%", most=5),
        Row(what="… tasks running in the same process", value=running, unit="%", most=5),
    ]


def loop(scale: Scale) -> list[Row]:
    """As many agents in a tight loop."""
    progress(f"{WAITERS:,} agents in a tight loop")
    seconds = WINDOW_SECONDS * scale.windows
    with server(places=WAITERS) as (child, port), ThreadPoolExecutor(1) as pool:
        spread = 5.0
        nap = SETTLING_SECONDS + spread + seconds + 3
        loading = pool.submit(_agents, port, agents=WAITERS, tasks=1, seconds=(nap, nap), spacing=spread / WAITERS)
        time.sleep(SETTLING_SECONDS + spread)
        began, cpu = time.time(), child.cpu_seconds()
        time.sleep(seconds)
        share = (child.cpu_seconds() - cpu) / (time.time() - began) * 100
        found = loading.result()
    mean = sum(found["calls"]) / len(found["calls"])
    what = f"processor time of the server, {WAITERS:,} agents in a tight loop"
    return [
        Row(what=what, value=share, unit="%", note=f"{mean / nap * WAITERS:,.0f} calls/s, {mean:.1f} calls per task")
    ]


def lag(provider: str, scale: Scale) -> list[Row]:
    """From the end of the work to the held caller's answer."""
    apart = provider != "sqlite"
    progress(f"the lag over {provider}")
    with server(provider=provider, places=0 if apart else 100, worker_places=100 if apart else 0) as (_, port):
        _agents(port, agents=scale.lag_agents, tasks=2, seconds=NAPS)
        found = _agents(port, agents=scale.lag_agents, tasks=scale.lag_tasks, seconds=NAPS, spacing=0.03)["lag_ms"]
    where = "settled in another process" if apart else "settled in the server's process"
    return [
        Row(what=f"lag over {provider}, {where}: p50", value=percentile(found, 0.5), unit="ms"),
        Row(
            what="… p99",
            value=percentile(found, 0.99),
            unit="ms",
            most=100 if apart else 50,
            note=f"longest {max(found):,.0f} ms of {len(found):,}",
        ),
    ]


def page(rows: Sequence[Row], scale: Scale, busy: float) -> str:
    """The whole page."""
    names = ("raincheck", "mcp", "uvicorn", "psycopg", "redis")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    reading = READING.format(
        waiters=WAITERS,
        longest=LONGEST_HOLD,
        windows=scale.windows,
        window=WINDOW_SECONDS,
        settling=SETTLING_SECONDS,
        agents=scale.lag_agents,
        low=NAPS[0],
        high=NAPS[1],
    )
    return "\n".join(
        [
            "# Polling: what it costs, and how soon the end is known",
            "",
            f"Written by `python -m benchmarks.polling` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, with "
            f"`hold_seconds = {HOLD_SECONDS:g}`.",
            "",
            f"- {os.cpu_count()} cores, {platform.system()} {platform.machine()}; load average {busy:.1f} at the "
            f"start, {os.getloadavg()[0]:.1f} at the end",
            f"- Python {platform.python_version()}, {versions}",
            "",
            *table(rows),
            "",
            reading,
        ]
    )


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as Markdown."""
    return ["| what | measured | target | |", "| --- | ---: | ---: | --- |", *(row.line() for row in rows)]


def main() -> None:
    """Measure, print the table, and write the page of a whole run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.polling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter tasks; printed only")
    parts: dict[str, Callable[[Scale], list[Row]]] = {
        "storm": storm,
        "idle": idle,
        "loop": loop,
        **{f"lag-{name}": partial(lag, name) for name in ("sqlite", "postgres", "redis")},
    }
    parser.add_argument("--only", action="append", choices=parts, help="one part; may be given again; printed only")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL
    busy = os.getloadavg()[0]
    rows: list[Row] = []
    try:
        for name, measure in parts.items():
            if not arguments.only or name in arguments.only:
                rows += measure(scale)
    finally:
        end_all()
    print("\n".join(table(rows)))
    if not (arguments.quick or arguments.only):
        PAGE.write_text(page(rows, scale, busy))


if __name__ == "__main__":
    main()
