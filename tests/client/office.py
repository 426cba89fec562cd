"""The operations that the driver's tests run, and how a test opens their gates and counts their starts."""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

from mcp import StdioServerParameters

from raincheck.client import ReconnectingSession, connect
from support.serving import Workplace

# The SDK hands few variables on to a stdio server: the file alone must say where the tasks are.
TOML = """
[state]
url = "tasks.db"

[execution]
lease_seconds = 1
drain_seconds = 0

[polling]
initial_interval_ms = 20
max_interval_ms = 100

[operations.quick]
kind = "python"
target = "ops:quick"
description = "Done at once."

[operations.book]
kind = "python"
target = "ops:book"
description = "A large result."

[operations.hello]
kind = "python"
target = "ops:hello"
description = "Never a task."
mode = "inline"

[operations.gated]
kind = "python"
target = "ops:gated"
description = "Done when its gate is open."
mode = "task"
on_worker_lost = "retry"

[operations.steps]
kind = "python"
target = "ops:steps"
description = "Reports each step, and goes on when the gate of that step is open."
mode = "task"

[operations.ask]
kind = "python"
target = "ops:ask"
description = "Asks twice."
mode = "task"

[operations.fail]
kind = "python"
target = "ops:fail"
description = "Fails."

[operations.fall]
kind = "python"
target = "ops:fall"
description = "Ends its server the first time."
mode = "task"
on_worker_lost = "retry"
"""

FUNCTIONS = """
import asyncio
import os
import signal
from pathlib import Path

from raincheck import OperationFailed, TaskContext

HERE = Path(__file__).parent


def started(name):
    with (HERE / "starts").open("a") as file:
        file.write(name + "\\n")


async def gate(name):
    while not (HERE / f"gate-{name}").exists():
        await asyncio.sleep(0.01)


async def quick(word: str) -> dict[str, str]:
    started("quick")
    return {"word": word}


def book(pages: int) -> str:
    return "a page, ä\\n" * pages


def hello() -> str:
    return "good day"


async def gated(name: str, context: TaskContext) -> dict[str, str]:
    started("gated")
    await context.progress(0.5, "at the gate")
    await gate(name)
    return {"gate": name}


async def steps(names: list[str], context: TaskContext) -> int:
    for number, name in enumerate(names):
        await context.progress(number / len(names), name)
        await gate(name)
    return len(names)


async def ask(context: TaskContext) -> list[object]:
    schema = {"type": "object", "properties": {"amount": {"type": "integer"}}}
    return [await context.elicit("How much?", schema), await context.elicit("Sure?", schema)]


async def fail() -> None:
    raise OperationFailed("The printer has no paper.", retryable=True, details={"tray": 2})


async def fall() -> str:
    started("fall")
    if (HERE / "starts").read_text().count("fall") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "up again"
"""


class Office:
    """A folder with these operations.

    Attributes:
        place: Starts its servers.
    """

    def __init__(self, place: Workplace) -> None:
        self.place = place

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "raincheck", "serve"]

    def stdio(self) -> AbstractAsyncContextManager[ReconnectingSession]:
        return connect(self.command, env=self.place.environment(), cwd=self.place.folder)

    def stdio_parameters(self) -> StdioServerParameters:
        words = self.command
        return StdioServerParameters(
            command=words[0], args=words[1:], env=self.place.environment(), cwd=self.place.folder
        )

    def open_gate(self, name: str) -> None:
        (self.place.folder / f"gate-{name}").touch()

    def starts(self, operation: str) -> int:
        file = self.place.folder / "starts"
        return file.read_text().split().count(operation) if file.exists() else 0


ACCEPT: dict[str, Any] = {"action": "accept", "content": {"amount": 3}}
