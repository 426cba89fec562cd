"""What a host's driver is: it writes the host's configuration into a run's folder, and says how it is started."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.agents.workplace import McpServer, Workplace

__all__ = ["KEY", "MODEL", "Host", "Launch", "Missing", "Order", "quiet_environment"]

KEY = "bench-key-0000000000000000000000"
"""The key that every host is given: it opens nothing."""

MODEL = "bench-model"

# Where a host's requests to other addresses go: to a port on which nothing listens.
_NOWHERE = "http://127.0.0.1:9"


class Missing(Exception):
    """A host cannot be had here; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One run of a host."""

    place: Workplace
    model_port: int
    mcp: McpServer
    prompt: str

    @property
    def model_url(self) -> str:
        """Where the scripted model is, without a path."""
        return f"http://127.0.0.1:{self.model_port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """A host's process.

    Attributes:
        keys: Where the host wants a terminal, what is typed once it is ready.
        answers: It closes with one line of JSON that says in `error` what went wrong.
    """

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    keys: str = ""
    answers: bool = False


class Host(ABC):
    """A driver.

    Attributes:
        name, title: For the command line, and for the page.
        http: Whether streamable HTTP is measured beside stdio.
    """

    name: str
    title: str
    http: bool = False

    @abstractmethod
    def install(self) -> str:
        """Make sure that the host is there; its version.

        Raises:
            Missing: It cannot be had here.
        """

    @abstractmethod
    def launch(self, order: Order) -> Launch:
        """Write the host's configuration; how to start it."""


def quiet_environment(place: Workplace, binaries: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """An environment with a home of its own in which nothing but loopback can be reached."""
    return {
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "HOME": str(place.home),
        "XDG_CONFIG_HOME": str(place.home / ".config"),
        "XDG_DATA_HOME": str(place.home / ".local" / "share"),
        "XDG_CACHE_HOME": str(place.home / ".cache"),
        "XDG_STATE_HOME": str(place.home / ".local" / "state"),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "CI": "1",
        "DO_NOT_TRACK": "1",
        "HTTP_PROXY": _NOWHERE,
        "HTTPS_PROXY": _NOWHERE,
        "http_proxy": _NOWHERE,
        "https_proxy": _NOWHERE,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        **extra,
    }
