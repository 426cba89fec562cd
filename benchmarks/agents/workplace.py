"""A run's own folder: the host's home, and the server that it is given."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["SERVER", "McpServer", "Workplace"]

SERVER = "bench"
"""The MCP server's name in every host."""

HERE = Path(__file__).resolve().parent

_CONFIG = """\
[server]
name = "bench"
[state]
provider = "sqlite"
url = "{folder}/tasks.db"
"""
_OPERATION = """\
[operations.{name}]
kind = "python"
target = "agent_functions:{name}"
description = "{description}"
timeout_seconds = 600
"""
_OPERATIONS = {
    "nap": "Sleep, then return a line.",
    "work": "Work, then return a line.",
    "confirm": "Ask whether the user is sure, then return a line.",
    "listing": "Return a long list of lines.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class McpServer:
    """How the host reaches the server: by a command and its environment, or at an address."""

    command: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    url: str = ""

    def as_json(self) -> dict[str, Any]:
        """For programs that are given it as JSON."""
        return {"url": self.url} if self.url else {"command": list(self.command), "env": dict(self.env)}


class Workplace:
    """The folder of one run.

    Args:
        folder: Empty.
        source: The `src` of the raincheck that is measured; None for the one that is installed.

    Attributes:
        home, work: The host's HOME and working directory.
        server: The server's folder, with its configuration and store.
    """

    def __init__(self, folder: Path, source: Path | None = None) -> None:
        self.folder = folder
        self.home, self.work, self.server = folder / "home", folder / "work", folder / "server"
        for each in (self.home, self.work, self.server):
            each.mkdir(parents=True)
        tables = [_OPERATION.format(name=name, description=text) for name, text in _OPERATIONS.items()]
        (self.server / "raincheck.toml").write_text(_CONFIG.format(folder=self.server) + "".join(tables))
        shutil.copy(HERE / "agent_functions.py", self.server)
        self._clock, self._wire = folder / "clock.jsonl", folder / "wire.jsonl"
        self._source = source

    def env(self) -> dict[str, str]:
        """The environment of the server."""
        env = {"BENCH_CLOCK": str(self._clock), "PATH": os.environ.get("PATH", ""), "HOME": str(self.home)}
        return {**env, "PYTHONPATH": str(self._source)} if self._source else env

    def serve(self, *options: str) -> list[str]:
        """The command of `raincheck serve`."""
        config = str(self.server / "raincheck.toml")
        return [sys.executable, "-m", "raincheck", "serve", config, *options, "--log-level", "warning"]

    def stdio(self) -> McpServer:
        """The server on stdio, behind the tap."""
        tap = [sys.executable, str(HERE / "tap.py"), str(self._wire)]
        return McpServer(command=[*tap, *self.serve("--transport", "stdio")], env=self.env())

    def wire(self) -> list[tuple[Literal["host", "server"], dict[str, Any]]]:
        """What host and server said on stdio: the sender and the message."""
        found: list[tuple[Literal["host", "server"], dict[str, Any]]] = []
        for entry in _entries(self._wire):
            try:
                message: Any = json.loads(entry["line"])
            except ValueError:
                continue
            found.append((entry["from"], message))
        return found

    def clock(self) -> list[dict[str, Any]]:
        """When operations began and ended."""
        return _entries(self._clock)


def _entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
