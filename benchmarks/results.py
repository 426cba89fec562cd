"""What a result of 10 MB costs: `python -m benchmarks.results` writes LARGE_RESULTS.md.

`raincheck serve` over streamable HTTP on SQLite, once as it is, once with results kept in their tasks.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.contestants import HERE
from benchmarks.processes import Child, end_all, free_port, wait_until_serving
from benchmarks.wire import Call, envelope

PAGE = HERE / "LARGE_RESULTS.md"
SIZE = 10_000_000
RUNS, POLLS = 5, 20

CONFIG = """\
[server]
name = "results"
[state]
url = "tasks.db"
[operations.report]
kind = "python"
target = "bench_reports:report"
description = "Text of that size."
mode = "task"
"""
KEPT = '[results]\nblobs = "task"\n'
PAGE_BYTES = 1024 * 1024
OPERATION = 'LINE = "a line of a report, with an ä in it, as there are.\\n"\n\n\ndef report(size: int) -> str:\n'
OPERATION += "    return LINE * (size // len(LINE.encode()))\n"


class Client:
    """Calls one server over one connection; knows how long each answer was and took."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.bytes = 0
        self.milliseconds = 0.0

    def call(self, call: Call) -> dict[str, Any]:
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": call.method,
            **({"mcp-name": call.name} if call.name else {}),
        }
        body = json.dumps(envelope(call))
        began = time.perf_counter()
        self._http.request("POST", "/mcp", body, headers)
        answer = self._http.getresponse().read()
        self.milliseconds, self.bytes = (time.perf_counter() - began) * 1000, len(answer)
        return json.loads(answer)["result"]

    def tool(self, name: str, **arguments: Any) -> dict[str, Any]:
        return self.call(Call(method="tools/call", name=name, params={"name": name, "arguments": arguments}))[
            "structuredContent"
        ]

    def read(self, uri: str) -> dict[str, Any]:
        return self.call(Call(method="resources/read", name=uri, params={"uri": uri}))["contents"][0]


@contextmanager
def serving(more: str) -> Generator[Client]:
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "raincheck.toml").write_text(CONFIG + more)
        (folder / "bench_reports.py").write_text(OPERATION)
        command = [sys.executable, "-m", "raincheck", "serve", "--transport", "streamable-http", "--port", str(port)]
        server = Child(command, folder=folder)
        try:
            wait_until_serving(server, port)
            yield Client(port)
        finally:
            server.kill()


def measured(client: Client) -> dict[str, float]:
    """The figures of one server."""
    settled: list[float] = []
    task_ref = ""
    for _ in range(RUNS):
        task_ref = client.tool("initiate_background_task", operation_type="report", parameters={"size": SIZE})[
            "task_ref"
        ]
        status = {"terminal": False}
        while not status["terminal"]:
            status = client.tool("resolve_task_status", task_ref=task_ref, wait_seconds=10, detail="full")
        lasted = datetime.fromisoformat(status["updated_at"]) - datetime.fromisoformat(status["created_at"])
        settled.append(lasted.total_seconds() * 1000)
    uri = f"raincheck://tasks/{task_ref}/result"
    figures = {"from acceptance to the settled task, ms": statistics.median(settled)}
    figures["a look at the completed task, ms"] = _median(
        lambda: client.tool("resolve_task_status", task_ref=task_ref), client
    )
    figures["a look at the completed task, bytes on the wire"] = client.bytes
    pages = [f"{uri}?offset={offset}&length={PAGE_BYTES}" for offset in range(0, SIZE, PAGE_BYTES)]
    figures["`resources/read` of the whole in pages of 1 MiB, ms"] = sum(
        _median(lambda page=page: client.read(page), client, 5) for page in pages
    )
    figures["`resources/read` of a page of 64 KiB, ms"] = _median(
        lambda: client.read(f"{uri}?offset=5000000&length=65536"), client
    )
    return figures


def _median(ask: Callable[[], object], client: Client, times: int = POLLS) -> float:
    took: list[float] = []
    for _ in range(times):
        ask()
        took.append(client.milliseconds)
    return statistics.median(took)


def main() -> None:
    """Measure, print the table, and write the page."""
    argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__).parse_args()
    busy = os.getloadavg()[0]
    try:
        with serving(KEPT) as client:
            before = measured(client)
        with serving("") as client:
            after = measured(client)
    finally:
        end_all()
    table = ["| a result of 10 MB | kept in its task | put away |", "| --- | ---: | ---: |"]
    table += [f"| {name} | {before[name]:,.1f} | {after[name]:,.1f} |" for name in before]
    print("\n".join(table))
    made = f"`python -m benchmarks.results` on {os.cpu_count()} cores ({platform.system()}, Python "
    made += (
        f"{platform.python_version()}); load average before it {busy:.1f}. Medians of {RUNS} tasks and {POLLS} calls."
    )
    PAGE.write_text("\n".join(["# Large results", "", made, "", *table, ""]))


if __name__ == "__main__":
    main()
