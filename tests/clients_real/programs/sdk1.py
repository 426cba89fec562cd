"""`ClientSession` of the official Python SDK 1.x: `sdk1.py SERVER plain|tasks`, the latter with tasks of 2025-11-25."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any

import flows
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.types import CallToolResult, ElicitResult


async def answer(*_: Any) -> ElicitResult:
    return ElicitResult.model_validate(flows.ANSWER)


async def by_tasks(session: ClientSession) -> dict[str, Any]:
    tasks = session.experimental
    begun = (await tasks.call_tool_as_task("slow", {"word": "rain"}, ttl=60_000)).task
    async for status in tasks.poll_task(begun.taskId):
        assert status.taskId == begun.taskId
    seen: dict[str, Any] = {"slow": flows.structured(await tasks.get_task_result(begun.taskId, CallToolResult))}
    running = (await tasks.call_tool_as_task("endless", {})).task
    seen["cancelled"] = (await tasks.cancel_task(running.taskId)).status
    asking = (await tasks.call_tool_as_task("confirm", {})).task
    # The question comes while the result is waited for.
    seen["answered"] = (await tasks.get_task_result(asking.taskId, CallToolResult)).content[0].text
    return seen


async def main(with_tasks: bool) -> None:
    server = flows.server()
    async with AsyncExitStack() as stack:
        if "url" in server:
            read, write, _ = await stack.enter_async_context(streamablehttp_client(server["url"]))
        else:
            command, *arguments = server["command"]
            parameters = StdioServerParameters(command=command, args=arguments, env=server["env"], cwd=server["cwd"])
            read, write = await stack.enter_async_context(stdio_client(parameters))
        session = await stack.enter_async_context(ClientSession(read, write, elicitation_callback=answer))
        begun = await session.initialize()
        seen: dict[str, Any] = {"tools": [tool.name for tool in (await session.list_tools()).tools]}
        seen["protocol"] = begun.protocolVersion
        seen |= await by_tasks(session) if with_tasks else await flows.by_handle_tools(session.call_tool)
    flows.tell(seen, "mcp")


asyncio.run(main(sys.argv[2] == "tasks"))
