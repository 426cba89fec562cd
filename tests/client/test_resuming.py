"""The calling process dies by `kill -9`; another one resumes by the stored handle and gets the result."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from client.office import Office

from support.waiting import PATIENCE

POLLER_CALLS = """
import asyncio, sys
from raincheck.client import TaskHandle, TaskPoller, connect

def store(handle):
    print(handle.to_json(), flush=True)

async def main(server, stored):
    poller = TaskPoller()
    async with connect(server) as session:
        if stored is None:
            await poller.run(session, "gated", {"name": "a"}, on_submitted=store)
        else:
            result = await poller.resume(session, TaskHandle.from_json(stored))
            print(result.value["gate"])

asyncio.run(main(sys.argv[1], *sys.argv[2:] or [None]))
"""

SYNC_CALLS = """
import sys
from raincheck.client import TaskHandle
from raincheck.client.sync import connect

with connect(sys.argv[1]) as rc:
    if len(sys.argv) == 2:
        rc.run("gated", {"name": "a"}, on_submitted=lambda handle: print(handle.to_json(), flush=True))
    else:
        print(rc.resume(TaskHandle.from_json(sys.argv[2])).value["gate"])
"""

CALL_TOOL_CALLS = """
import asyncio, shlex, sys
from mcp import Client, StdioServerParameters
from raincheck.client import TaskHandle, TasksExtension

async def main(server, stored):
    if not server.startswith("http"):
        command, *arguments = shlex.split(server)
        server = StdioServerParameters(command=command, args=arguments)
    driver = TasksExtension(on_submitted=lambda handle: print(handle.to_json(), flush=True))
    async with Client(server, extensions=[driver]) as agent:
        if stored is None:
            await agent.call_tool("gated", {"name": "a"})
        else:
            result = await driver.resume(agent, TaskHandle.from_json(stored))
            print(result.structured_content["gate"])

asyncio.run(main(sys.argv[1], *sys.argv[2:] or [None]))
"""


@asynccontextmanager
async def calling(office: Office, program: Path, *arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        *arguments,
        cwd=office.place.folder,
        env=office.place.environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("transport", ["http", "stdio"])
@pytest.mark.parametrize("calls", [POLLER_CALLS, SYNC_CALLS, CALL_TOOL_CALLS], ids=["poller", "sync", "call_tool"])
async def test_a_second_process_gets_the_result_after_the_first_was_killed(
    calls: str, transport: str, office: Office
) -> None:
    program = office.place.folder / "calls.py"
    program.write_text(calls)
    async with AsyncExitStack() as stack:
        # On stdio each caller starts a server of its own, on the same file; the first one's ends with its caller.
        server = f'"{sys.executable}" -m raincheck serve raincheck.toml'
        if transport == "http":
            server = (await stack.enter_async_context(office.place.http())).url
        first = await stack.enter_async_context(calling(office, program, server))
        assert first.stdout is not None
        stored = (await asyncio.wait_for(first.stdout.readline(), PATIENCE)).decode()
        first.kill()
        await first.wait()

        second = await stack.enter_async_context(calling(office, program, server, stored))
        office.open_gate("a")
        out, _ = await asyncio.wait_for(second.communicate(), PATIENCE)
        assert (second.returncode, out.decode().strip()) == (0, "a")
    # On stdio the first caller took its server with it, which may have begun the work.
    assert office.starts("gated") in ((1,) if transport == "http" else (1, 2))
