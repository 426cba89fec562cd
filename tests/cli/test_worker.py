"""What `raincheck worker` refuses, in one line, before it runs anything."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support.command_line import CommandLine

REPORTS = "[operations.report]\nkind = 'python'\ntarget = 'worker_reports:build'\n"
MODULE = '''
async def build() -> str:
    """Build it."""
    return "built"
'''
SERVER = '''
from mcp.server.mcpserver import MCPServer

from raincheck import Raincheck
from raincheck.stores.memory.store import MemoryStore

forgetful = Raincheck(store=MemoryStore())
empty = Raincheck(store="tasks.db")
mcp = MCPServer("office", extensions=[empty])
number = 3


@forgetful.operation
async def report() -> str:
    """Build it."""
    return "built"
'''


@pytest.mark.parametrize(
    ("text", "args", "told"),
    [
        (REPORTS + "[state]\nprovider = 'memory'", (), "'provider' in [state] of raincheck.toml is \"memory\""),
        (REPORTS + "[execution]\nmax_concurrency = 0", (), "'max_concurrency' in [execution] of raincheck.toml is 0"),
        (REPORTS, ("--max-concurrency", "0"), "'--max-concurrency': 0 is not in the range"),
        (REPORTS, ("--drain-seconds", "-1"), "'--drain-seconds': -1.0 is not in the range"),
        (REPORTS, ("--health-port", "70000"), "'--health-port': 70000 is not in the range"),
        ("", (), "raincheck.toml declares no operation that a worker could run"),
        ("[operations.x]\nkind = 'python'\ntarget = 'gone_module:x'", (), "there is no module 'gone_module'"),
        (REPORTS, ("gone.toml",), "there is no configuration file gone.toml"),
        (REPORTS, ("gone_module:rc",), 'target = "gone_module:rc": there is no module'),
        (REPORTS, ("worker_server:number",), "worker_server:number is of type int; allowed: a Raincheck object"),
        (REPORTS, ("worker_server:forgetful",), "the tasks of a store in memory exist inside the server only"),
        (REPORTS, ("worker_server:empty",), "this Raincheck object has no operation that a worker could run"),
        (REPORTS, ("worker_server:empty", "--state-url", "x"), "a Raincheck object names its own store"),
    ],
)
def test_a_worker_that_could_run_nothing_does_not_start(
    raincheck: CommandLine, text: str, args: tuple[str, ...], told: str
) -> None:
    Path("raincheck.toml").write_text(text)
    Path("worker_reports.py").write_text(MODULE)
    Path("worker_server.py").write_text(SERVER)
    said = raincheck("worker", *args)
    assert said.code == 2
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if line.startswith("raincheck: ")]
    assert told in line


def test_a_health_port_that_is_taken_fails_before_any_task_is_run(raincheck: CommandLine) -> None:
    Path("raincheck.toml").write_text(REPORTS)
    Path("worker_reports.py").write_text(MODULE)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = raincheck("worker", "--health-port", str(taken.getsockname()[1]))
    assert said.code == 1
    assert "raincheck: cannot answer for this worker's health on 127.0.0.1:" in said.err
    assert not list(Path("state").glob("**/*.db"))
