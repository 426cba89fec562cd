"""Processes of a run: `raincheck serve` as its host reaches it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from benchmarks.agents.workplace import McpServer, Workplace
from benchmarks.processes import free_port

__all__ = ["ended", "served"]

_GRACE_SECONDS = 5.0
_START_SECONDS = 30.0


@asynccontextmanager
async def served(place: Workplace, transport: str) -> AsyncGenerator[McpServer]:
    """How the host reaches the server; over HTTP it runs while the block does."""
    if transport == "stdio":
        yield place.stdio()
        return
    port = free_port()
    options = ["--transport", "streamable-http", "--host", "127.0.0.1", "--port", str(port)]
    with (place.folder / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *place.serve(*options), env={**os.environ, **place.env()}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.05)
        yield McpServer(url=f"http://127.0.0.1:{port}/mcp")
    finally:
        await ended(process)


async def ended(process: asyncio.subprocess.Process) -> None:
    """Make sure that a process and its group are gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_SECONDS)
