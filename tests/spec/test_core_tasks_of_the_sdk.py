"""The core tasks as the SDK 1.x uses them: its experimental client, in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from spec.channels import SCRIPT, hosted

from support.environments import SDK_1, python_environment

PROGRAM = """
import asyncio, contextlib, json, pathlib, sys
from importlib.metadata import version

from mcp import ClientSession, McpError, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

transport, gate, *server = sys.argv[1:]


@contextlib.asynccontextmanager
async def connected():
    if transport == "http":
        async with streamable_http_client(server[0]) as (read, write, _):
            yield read, write
    else:
        async with stdio_client(StdioServerParameters(command=server[0], args=server[1:])) as (read, write):
            yield read, write


async def elicited(context, params):
    return types.ElicitResult(action="accept", content={"name": params.message.split()[0]})


async def main():
    said = {"mcp": version("mcp")}
    async with connected() as (read, write), ClientSession(read, write, elicitation_callback=elicited) as session:
        capability = (await session.initialize()).capabilities.tasks
        said["capability"] = capability is not None and capability.requests.tools.call is not None
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        said["support"] = [tools[name].execution.taskSupport for name in ("hold", "tasks_only", "plain")]
        tasks = session.experimental

        created = await tasks.call_tool_as_task("hold", {"name": pathlib.Path(gate).name}, ttl=30000)
        task_id = created.task.taskId
        said["ttl"] = 30000 <= created.task.ttl < 40000
        statuses = []
        async for status in tasks.poll_task(task_id):
            statuses.append(status.status)
            pathlib.Path(gate).touch()
        said["statuses"] = [statuses[0], statuses[-1]]
        result = await tasks.get_task_result(task_id, types.CallToolResult)
        said["result"] = result.structuredContent

        created = await tasks.call_tool_as_task("ask_two", {})
        result = await tasks.get_task_result(created.task.taskId, types.CallToolResult)
        said["asked"] = result.structuredContent

        created = await tasks.call_tool_as_task("hold", {"name": "never"})
        said["cancelled"] = (await tasks.cancel_task(created.task.taskId)).status
        try:
            await tasks.cancel_task(created.task.taskId)
        except McpError as error:
            said["cancelled twice"] = error.error.code
        said["listed"] = len((await tasks.list_tasks()).tasks)
    print(json.dumps(said))


asyncio.run(main())
"""


@pytest.mark.requirement("B1", "B2", "B3", "B5", "B7")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_the_experimental_client_of_the_sdk_1_runs_asks_cancels_and_lists(
    transport: str, store: Path, tmp_path: Path
) -> None:
    old_python = await asyncio.to_thread(python_environment, "mcp1", SDK_1)
    program = tmp_path / "old_client.py"
    program.write_text(PROGRAM)
    async with AsyncExitStack() as stack:
        if transport == "http":
            server = [await stack.enter_async_context(hosted(store))]
        else:
            server = [sys.executable, str(SCRIPT), "stdio", str(store)]
        process = await asyncio.create_subprocess_exec(
            *(str(old_python), str(program), transport, str(tmp_path / "go"), *server),
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
    assert said == {
        "capability": True,
        "support": ["optional", "required", "forbidden"],
        "ttl": True,
        "statuses": ["working", "completed"],
        "result": {"held": "go"},
        "asked": {"names": [{"name": "First"}, {"name": "Last"}]},
        "cancelled": "cancelled",
        "cancelled twice": -32602,
        # Over HTTP without authentication nobody can be told apart.
        "listed": 0 if transport == "http" else 3,
    }
