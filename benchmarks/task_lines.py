"""What the lines of the log that every task has cost: `python -m benchmarks.task_lines`.

Two servers over streamable HTTP on SQLite, one with the lines (accepted, started, ended) and one without, get 50 tasks
a second in turns: each is submitted and resolved, and does nothing. Compared is the processor time of the server for
each task, and the ratio is printed. A task that does something costs more, with the same lines.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import Child, end_all, free_port, wait_until_serving
from benchmarks.wire import Call, Connection

PER_SECOND = 50
ROUNDS, SECONDS = 7, 4.0
GOAL = 1.05

CONFIG = """\
[state]
url = "tasks.db"
[observability]
log_format = "{form}"
log_tasks = {lines}
[operations.nothing]
kind = "python"
target = "bench_nothing:nothing"
description = "Do nothing."
mode = "task"
"""


def _tool(name: str, **arguments: Any) -> Call:
    return Call(method="tools/call", name=name, params={"name": name, "arguments": arguments})


class Server:
    """A server in a folder of its own, with the lines or without."""

    def __init__(self, folder: Path, *, lines: bool, form: str) -> None:
        folder.mkdir()
        (folder / "raincheck.toml").write_text(CONFIG.format(lines=str(lines).lower(), form=form))
        (folder / "bench_nothing.py").write_text("async def nothing() -> int:\n    return 1\n")
        self.port = free_port()
        command = [sys.executable, "-m", "raincheck", "serve", "--transport", "streamable-http", "--port"]
        self.child = Child([*command, str(self.port)], folder=folder)
        wait_until_serving(self.child, self.port)

    async def milliseconds_a_task(self, seconds: float) -> float:
        """Its processor time for each task, at the pace."""
        count = round(PER_SECOND * seconds)
        connections = [await Connection.open(self.port) for _ in range(4)]
        began, processor = time.perf_counter(), self.child.cpu_seconds()
        for n in range(count):
            await asyncio.sleep(max(0.0, began + n / PER_SECOND - time.perf_counter()))
            connection = connections[n % len(connections)]
            ticket = await connection.call(_tool("initiate_background_task", operation_type="nothing"))
            task_ref = ticket["structuredContent"]["task_ref"]
            await connection.call(_tool("resolve_task_status", task_ref=task_ref, wait_seconds=5))
        spent = self.child.cpu_seconds() - processor
        for connection in connections:
            connection.close()
        return spent / count * 1000


async def measure(with_lines: Server, without: Server, rounds: int, seconds: float) -> tuple[list[float], list[float]]:
    """The costs of both, a value for each round."""
    costs: dict[Server, list[float]] = {with_lines: [], without: []}
    for server in costs:
        await server.milliseconds_a_task(1.0)
    for each in range(rounds):
        for server in (with_lines, without) if each % 2 else (without, with_lines):
            costs[server].append(await server.milliseconds_a_task(seconds))
    return costs[with_lines], costs[without]


def main() -> int:
    """Print the costs and the ratio; 1 where it is above the goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.task_lines", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each half of a round")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        try:
            having = Server(Path(name, "on"), lines=True, form=arguments.format)
            missing = Server(Path(name, "off"), lines=False, form=arguments.format)
            on, off = asyncio.run(measure(having, missing, arguments.rounds, arguments.seconds))
        finally:
            end_all()
    ratio = statistics.median(on) / statistics.median(off)
    sys.stdout.write(
        f"{PER_SECOND} tasks/s, {arguments.format}: {statistics.median(on):.3f} ms of processor time a task with its "
        f"lines, {statistics.median(off):.3f} ms without (medians of {arguments.rounds}; the lowest {min(on):.3f} and "
        f"{min(off):.3f})\nratio {ratio:.3f}, goal below {GOAL}\n"
    )
    return 0 if ratio < GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
