"""Functions that tests run in a process of their own: a child imports this module by its name."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from raincheck.errors import OperationFailed, UpstreamError
from raincheck.operations.context import TaskContext


def add(a: int, b: int = 1) -> int:
    return a + b


def where(day: datetime.date) -> dict[str, Any]:
    print("printed on stdout")
    subprocess.run(["echo", "from a grandchild"], check=True)
    return {"pid": os.getpid(), "year": day.year, "stdin": sys.stdin.read()}


async def where_async() -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"pid": os.getpid()}


def talk(context: TaskContext) -> dict[str, Any]:
    context.progress_sync(0.5, "half")
    answer = context.elicit_sync("Which?", {"type": "object"})
    return {"answer": dict(answer), "key": context.idempotency_key, "attempt": context.attempt}


async def talk_async(context: TaskContext) -> dict[str, Any]:
    await context.progress(0.5, "half")
    both = await asyncio.gather(context.elicit("Which?", {}), context.sample({"messages": []}))
    return {"answers": [dict(answer) for answer in both]}


def fail(how: str) -> Any:
    match how:
        case "raise":
            raise ValueError("no such page")
        case "upstream":
            raise UpstreamError("the shop is closed", retryable=True, details={"status": 503})
        case "exit":
            return sys.exit(3)
        case "os_exit":
            return os._exit(7)
        case "kill":
            return os.kill(os.getpid(), signal.SIGKILL)
        case "nan":
            return float("nan")
        case "object":
            return object()
        case _:
            return "x" * int(how)


def tell(api_key: SecretStr, how: str) -> None:
    """Fail, and tell the key where what is told is cut."""
    key = api_key.get_secret_value()
    match how:
        case "message":
            raise ValueError("x" * 1990 + key)
        case "exit":
            sys.exit("x" * 70 + key)
        case "object":
            raise OperationFailed("no", details={"req": Path("x" * 490 + key), "odd": Shown("x" * 490 + key)})
        case _:
            raise OperationFailed("no", details={"req": "x" * 390 + key, "dump": "y" * 100_000})


class Shown:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def started(folder: str, *pids: int) -> None:
    # Renamed when whole, so that a test never reads half of it.
    Path(folder, "part").write_text("".join(f"{pid}\n" for pid in pids))
    Path(folder, "part").rename(Path(folder, "pids"))


def sleep_politely(folder: str) -> None:
    try:
        started(folder, os.getpid())
        time.sleep(60)
    finally:
        Path(folder, "cleaned").touch()


async def sleep_politely_async(folder: str) -> None:
    try:
        started(folder, os.getpid())
        await asyncio.sleep(60)
    finally:
        Path(folder, "cleaned").touch()


def deaf(folder: str) -> None:
    """Ignores SIGTERM, and so does its child."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started(folder, os.getpid(), child.pid)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


def variables() -> dict[str, str]:
    return dict(os.environ)
