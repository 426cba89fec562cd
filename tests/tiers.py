"""The two tiers of the suite: `make test` runs the quick tests, `make test-all` (and CI) every one.

Quick is what needs no server, no network and no foreign client, and takes no patience: the domain, the core, the stores
in memory and on SQLite, the wire, the surfaces, the docs and the demo's promises. A test is quick unless its folder or
file is named here, or it needs a server. A folder that is named nowhere fails tests/test_tiers.py.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from support.servers.server import Server

__all__ = ["FULL", "FULL_FILES", "FULL_FIXTURES", "QUICK", "TESTS", "group_of", "is_full", "is_full_file"]

TESTS = Path(__file__).parent

QUICK = {
    *("agents", "auth", "cli", "config", "core", "demo", "docs", "domain", "encryption", "front", "hints", "limits"),
    *("mcp", "operations", "polling", "results", "spec", "stores", "support", "timing", "upstream", "webhooks"),
}
"""Folders whose tests are quick where nothing below says otherwise."""

FULL = {
    "chaos": "every fault on every backend",
    "client": "real servers that die and come back under real clients",
    "clients_real": "foreign clients in environments of their own",
    "conformance": "needs npm",
    "deploy": "containers' files, least rights, whole fleets",
    "engines": "queues on real servers",
    "fastmcp_host": "an environment of its own",
    "packaging": "builds and installs the wheel",
    "proofs": "real processes: load, kills, takeover, bad starts",
    "typing": "type checkers over a whole program",
}
"""Folders that wait for `make test-all`, and why."""

FULL_FILES = {
    "agents/test_slow_calls.py": "a model's whole sessions",
    "cli/test_worker_processes.py": "workers that drain and die",
    "core/test_program.py": "a dozen programs, each started anew",
    "hints/test_simulation.py": "long simulations",
    "*/test_killed_workers.py": "workers that die",
    "webhooks/test_processes.py": "servers that die",
    "stores/test_*_processes.py": "races of real processes",
    "stores/test_postgres_*.py": "PostgreSQL",
    "stores/test_redis_*.py": "Redis",
    "stores/test_dynamodb_*.py": "DynamoDB",
    "stores/test_clock_steps.py": "the clocks of PostgreSQL and Redis",
    "spec/test_core_tasks_of_the_sdk.py": "a foreign client in an environment of its own",
    "stores/test_lost_answers.py": "answers that servers lose",
}
"""Files in the quick folders that do so, and why."""

FULL_FIXTURES = {"postgres", "redis", "redis_server", "make_redis", "endpoint", "table"}
"""What a test that needs a server asks for."""


def is_full_file(path: Path) -> bool:
    """Whether every test of a file or a folder waits for `make test-all`."""
    if not path.is_relative_to(TESTS):
        return False
    name = path.relative_to(TESTS).as_posix()
    return name.partition("/")[0] in FULL or any(fnmatch(name, each) for each in FULL_FILES)


def is_full(item: pytest.Item) -> bool:
    """Whether a test does: by its file, its mark, its fixtures, and its parameters."""
    call: Any = getattr(item, "callspec", None)
    fixtures: list[str] = getattr(item, "fixturenames", [])
    return (
        is_full_file(item.path)
        or item.get_closest_marker("full") is not None
        or not FULL_FIXTURES.isdisjoint(fixtures)
        or (call is not None and any(map(_needs_server, call.params.values())))
    )


def group_of(item: pytest.Item) -> str:
    """The tests that share a worker: those of one backend on a server, which starts once; else those of a file."""
    call: Any = getattr(item, "callspec", None)
    servers = [getattr(value, "server", None) for value in (call.params.values() if call is not None else ())]
    return next((server.__name__ for server in servers if server is not None), item.path.as_posix())


def _needs_server(value: Any) -> bool:
    """Whether a parameter is a backend on a server, a kind of server, or the name of a fixture with one."""
    if isinstance(value, str):
        return value in FULL_FIXTURES
    if isinstance(value, type):
        return issubclass(value, Server)
    return getattr(value, "server", None) is not None
