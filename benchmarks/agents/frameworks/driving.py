"""What the drivers of all frameworks share: the order that they are given, and the one line that they answer.

A driver is `PYTHON NAME.py ORDER`, with the Python of an environment that has the framework and nothing of ours. The
order is one JSON object: `model_url` (of an OpenAI-compatible server, without `/v1`), `wire` ("chat" or "responses"),
`mcp` (`{"command": [...], "env": {...}}` or `{"url": ...}`), `prompt` and `options`:

- `max_turns`: how often the model may be asked (60 unless told);
- `native_tasks`: switches the framework's own client of MCP tasks on, where it has one;
- `persistent`: one session for the whole run, where the framework's habit is one for each call;
- `cancel_after`: the run is cancelled after so many seconds, the framework's own start included, as a program does
  whose user has lost interest. CrewAI runs in a thread and ends only when it is done.

Import this module before the framework: the drivers are named as the frameworks are, and this folder, where Python
would look first, is taken off the path here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

__all__ = ["INSTRUCTIONS", "KEY", "MODEL", "Order", "drive"]

KEY = "no-key"
MODEL = "gpt-4.1"
INSTRUCTIONS = "Use the tools."

QUIET = {
    "OPENAI_API_KEY": KEY,
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_GCE_CHECK": "true",
    "GOOGLE_API_USE_CLIENT_CERTIFICATE": "false",
    "FASTMCP_CHECK_FOR_UPDATES": "off",
}

_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [place for place in sys.path if os.path.abspath(place) != _here]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a driver is asked to run."""

    model_url: str
    wire: str
    mcp: dict[str, Any]
    prompt: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def api(self) -> str:
        """The base URL of the model's API."""
        return self.model_url.rstrip("/") + "/v1"

    @property
    def max_turns(self) -> int:
        """How often the model may be asked."""
        return int(self.options.get("max_turns", 60))

    @property
    def native_tasks(self) -> bool:
        """Whether the framework's own client of MCP tasks is switched on."""
        return bool(self.options.get("native_tasks"))

    @property
    def url(self) -> str | None:
        """Where the MCP server is, if it is reached by streamable HTTP."""
        return self.mcp.get("url")

    @property
    def command(self) -> list[str]:
        """What starts the MCP server, if it is on stdio."""
        return list(self.mcp["command"])

    @property
    def env(self) -> dict[str, str]:
        """The environment of a server on stdio: ours with the order's additions."""
        return {**os.environ, **self.mcp.get("env", {})}


def drive(answer: Callable[[Order], Awaitable[str]], *packages: str) -> None:
    """Run the order of the command line; `packages` are those whose versions are told."""
    os.environ.update(QUIET)
    order = Order(**json.loads(sys.argv[1]))
    told: dict[str, Any] = {"final": "", "version": _versions(packages), "error": None}
    # Frameworks print; what is asked for is one line.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            told["final"] = asyncio.run(_bounded(answer, order))
        except BaseException as error:
            told["error"] = _sentence(error)
    print(json.dumps(told), flush=True)


async def _bounded(answer: Callable[[Order], Awaitable[str]], order: Order) -> str:
    async with asyncio.timeout(order.options.get("cancel_after")):
        return await answer(order)


def _sentence(error: BaseException) -> str:
    """The first cause inside groups of errors, with its type."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _versions(packages: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in packages)
