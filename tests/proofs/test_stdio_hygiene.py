"""On stdio nothing but MCP goes to stdout, whatever the operations' code does, from the first import to the end."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from support.serving import StdioServer, Workplace
from support.waiting import PATIENCE

pytestmark = pytest.mark.cold

# A library that prints when it is imported, a task that prints before, while and after the client is served.
FUNCTIONS = '''
import asyncio
import atexit
import logging
import os
import subprocess
import sys
import threading
import time
import warnings

print("import: print", flush=True)
os.write(1, b"import: fd 1\\n")
subprocess.run(["sh", "-c", "echo import: child"], check=True)
stolen = sys.stdin.read()
atexit.register(lambda: os.write(1, b"exit: fd 1\\n"))
kept = sys.stdout


def noise(where):
    print(where, "print", flush=True)
    print('{"jsonrpc": "2.0", "id": 1, "result": {"forged": true}}', flush=True)
    kept.write("kept stdout\\n")
    kept.flush()
    sys.__stdout__.write("original stdout\\n")
    sys.__stdout__.flush()
    os.write(1, b"no newline at the end")
    os.system("echo system")
    subprocess.run(["sh", "-c", "echo child; echo child error >&2"], check=True)
    logging.warning("a warning of the root logger")
    warnings.warn("a warning")
    thread = threading.Thread(target=lambda: print("thread", flush=True))
    thread.start()
    thread.join()


def sync_noise() -> str:
    noise("sync")
    return "quiet"


async def async_noise() -> str:
    noise("async")
    return "quiet"


def steals_stdin() -> str:
    taken = sys.stdin.read() + os.read(0, 100).decode()
    return f"got {len(taken)} and {len(stolen)}"


def closes_stdout() -> str:
    sys.stdout.close()
    os.close(1)
    return "closed"


async def goes_on(seconds: float) -> str:
    """Print until the end of the world."""
    try:
        while True:
            os.write(1, b"still here\\n")
            await asyncio.sleep(0.01)
    finally:
        os.write(1, b"told to stop\\n")
'''


def toml() -> str:
    names = ("sync_noise", "async_noise", "steals_stdin", "closes_stdout", "goes_on")
    tables = [f'[operations.{name}]\nkind = "python"\ntarget = "ops:{name}"\n' for name in names]
    tables += ['[operations.isolated_noise]\nkind = "python"\ntarget = "ops:sync_noise"\nisolation = "process"\n']
    tables += ['[operations.inline_noise]\nkind = "python"\ntarget = "ops:sync_noise"\nmode = "inline"\n']
    program = "import os, sys; os.write(2, b'to stderr'); sys.stdout.write('\\\"to stdout\\\"'); sys.stdin.read()"
    tables += [f'[operations.command_noise]\nkind = "command"\nargv = ["{sys.executable}", "-c", "{program}"]\n']
    return "[execution]\nlease_seconds = 1\ndrain_seconds = 0.3\n" + "\n".join(tables)


def only_answers(server: StdioServer) -> None:
    """Every line is an answer to a question of ours, each once."""
    assert server.stray == []
    ids: list[Any] = [json.loads(line)["id"] for line in server.lines]
    assert len(ids) == len(set(ids))
    assert b"forged" not in b"".join(server.lines)


async def test_nothing_but_mcp_goes_to_stdout_whatever_operations_print(tmp_path: Path) -> None:
    place = Workplace(tmp_path, toml(), FUNCTIONS)
    async with place.stdio() as server:
        for name in ("sync_noise", "async_noise", "isolated_noise"):
            assert (await server.run(name))["result"] == "quiet", name
        assert (await server.run("steals_stdin"))["result"] == "got 0 and 0"
        assert (await server.run("command_noise"))["result"] == "to stdout"
        answer = await server.request("tools/call", {"name": "inline_noise", "arguments": {}}, "inline_noise")
        assert answer["content"][0]["text"] == "quiet"
        assert (await server.run("closes_stdout"))["result"] == "closed"
        listed = await server.request("tools/list", {})
        assert "sync_noise" in {tool["name"] for tool in listed["tools"]}
        await server.submit("goes_on", {"seconds": 0})
        server.close_stdin()
        assert await server.exited() == 0
        await server.drained()
        only_answers(server)
        assert "import: fd 1" in server.log


async def test_tasks_that_wait_for_the_start_and_those_that_drain_miss_the_wire_too(tmp_path: Path) -> None:
    place = Workplace(tmp_path, toml().replace('ops:goes_on"', 'ops:goes_on"\non_worker_lost = "retry"'), FUNCTIONS)
    async with place.stdio(env={"RAINCHECK_EXECUTION__MAX_CONCURRENCY": "0"}) as accepting:
        for _ in range(5):
            await accepting.submit("goes_on", {"seconds": 0})
    async with place.stdio() as server:
        # They print from the very start, before the first message is there.
        async with asyncio.timeout(PATIENCE):
            while "still here" not in server.log:
                await asyncio.sleep(0.02)
        await server.request("tools/list", {})
        server.close_stdin()
        assert await server.exited() == 0
        await server.drained()
        assert "told to stop" in server.log
        only_answers(server)
        assert len(server.lines) == 1
