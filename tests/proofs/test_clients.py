"""The SDK's own client, of either era, over each transport: list, call a slow tool, get the ticket, resolve, cancel."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.sse import sse_client

from support.serving import Workplace

TOML = """
[execution]
inline_wait_seconds = 0.1

[operations.build]
kind = "python"
target = "ops:build"
description = "Build something slowly."
"""
FUNCTIONS = """
import asyncio

from raincheck import TaskContext


async def build(task: TaskContext, what: str, seconds: float = 0.5) -> dict[str, str]:
    await task.progress(0.5, "half done")
    await asyncio.sleep(seconds)
    return {"built": what}
"""


@asynccontextmanager
async def connected(place: Workplace, transport: str, mode: str) -> AsyncGenerator[Client]:
    if transport == "stdio":
        parameters = StdioServerParameters(
            command=sys.executable, args=["-m", "raincheck", "serve"], cwd=place.folder, env=place.environment()
        )
        async with Client(parameters, mode=mode) as client:
            yield client
    elif transport == "sse":
        async with place.http(transport="sse") as server, Client(sse_client(server.url), mode=mode) as client:
            yield client
    else:
        async with place.http() as server, Client(server.url, mode=mode) as client:
            yield client


async def structured(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return result.structured_content


@pytest.mark.parametrize("mode", ["auto", "2026-07-28", "legacy"])
@pytest.mark.parametrize("transport", ["stdio", "streamable-http", "sse"])
async def test_a_client_that_knows_nothing_of_tasks_gets_a_ticket_and_its_result(
    tmp_path: Path, transport: str, mode: str
) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    async with connected(place, transport, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert str(tools["build"].description).startswith("Build something slowly. (May answer with a ticket")
        assert tools["build"].input_schema["required"] == ["what"]
        assert {"initiate_background_task", "resolve_task_status", "cancel_background_task"} <= set(tools)

        ticket = await structured(client, "build", {"what": "a house"})
        assert ticket["status"] == "processing"
        done = ticket
        while done["status"] in ("pending", "processing"):
            done = await structured(client, "resolve_task_status", {"task_ref": ticket["task_ref"]})
        assert (done["status"], done["result"]) == ("completed", {"built": "a house"})

        parameters = {"what": "a palace", "seconds": 60}
        ticket = await structured(
            client, "initiate_background_task", {"operation_type": "build", "parameters": parameters}
        )
        assert ticket["status"] == "queued"
        cancelled = await structured(client, "cancel_background_task", {"task_ref": ticket["task_ref"]})
        assert cancelled["status"] == "cancelled"

        quick = await client.call_tool("build", {"what": "a hut", "seconds": 0})
        assert quick.structured_content == {"built": "a hut"}
        wrong = await client.call_tool("build", {})
        assert wrong.is_error
