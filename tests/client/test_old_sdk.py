"""The poller beside mcp 1.x: a real `ClientSession` over stdio, in an environment of its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from client.office import Office

from support.environments import SDK_1, python_environment

SOURCE = Path(__file__).parents[2] / "src"

PROGRAM = """
import asyncio, contextlib, json, os, sys
from importlib.metadata import version

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from raincheck import MissingDependency, OperationFailed
from raincheck.client import ReconnectingSession, TaskHandle, TaskPoller

SERVER = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=dict(os.environ, PYTHONPATH=""))


@contextlib.asynccontextmanager
async def connected():
    async with stdio_client(SERVER) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


async def main():
    poller, said = TaskPoller(), {"mcp": version("mcp")}
    async with connected() as session:
        said["book"] = len((await poller.run(session, "book", {"pages": 200_000})).value)
        said["run"] = (await poller.run(session, "quick", {"word": "rain"})).value
        answer = {"action": "accept", "content": {"amount": 3}}
        said["ask"] = (await poller.run(session, "ask", on_input=lambda request: answer)).value
        result = await session.call_tool("quick", {"word": "typed"})
        said["typed"] = (await poller.resolve_if_ticket(session, result)).value
        try:
            await poller.run(session, "fail")
        except OperationFailed as failure:
            said["fail"] = failure.details["tray"]
        handle = await poller.submit(session, "gated", {"name": "a"})
        stored = handle.to_json()
    async with ReconnectingSession(connected) as session:
        open("gate-a", "w").close()
        said["resume"] = (await poller.resume(session, TaskHandle.from_json(stored))).value
        said["fall"] = (await poller.run(session, "fall")).value
    try:
        from raincheck.client import TasksExtension
    except MissingDependency:
        said["extension"] = "missing"
    print(json.dumps(said))


asyncio.run(main())
"""


@pytest.mark.timeout(600)
async def test_a_session_of_mcp_1_runs_asks_resumes_and_outlives_its_server(office: Office) -> None:
    old_python = await asyncio.to_thread(python_environment, "mcp1", SDK_1)
    program = office.place.folder / "old.py"
    program.write_text(PROGRAM)
    process = await asyncio.create_subprocess_exec(
        *(str(old_python), str(program), *office.command),
        cwd=office.place.folder,
        env=office.place.environment(PYTHONPATH=str(SOURCE)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]
    said: dict[str, Any] = json.loads(out)
    assert said.pop("mcp").startswith("1.")
    assert [each["action"] for each in said.pop("ask")] == ["accept", "accept"]
    assert said == {
        "book": 2_000_000,
        "run": {"word": "rain"},
        "typed": {"word": "typed"},
        "fail": 2,
        "resume": {"gate": "a"},
        "fall": "up again",
        "extension": "missing",
    }
