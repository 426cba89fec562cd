"""`Client` of the official Python SDK 2.x: `sdk2.py SERVER plain|driver MODE`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import flows
from mcp import StdioServerParameters
from mcp.client import Client
from mcp_types import ElicitResult

from raincheck.client import TaskHandle, TasksExtension, TaskWasCancelled


async def answer(*_: Any) -> ElicitResult:
    return ElicitResult.model_validate(flows.ANSWER)


def target() -> Any:
    server = flows.server()
    if "url" in server:
        return server["url"]
    command, *arguments = server["command"]
    return StdioServerParameters(command=command, args=arguments, env=server["env"], cwd=server["cwd"])


async def cancelled(client: Client, extension: TasksExtension, handles: asyncio.Queue[TaskHandle]) -> str:
    call = asyncio.create_task(client.call_tool("endless", {}))
    await extension.cancel(client, await handles.get())
    try:
        await call
    except TaskWasCancelled:
        return "cancelled"
    return "completed"


async def main(driver: bool, mode: Any) -> None:
    handles: asyncio.Queue[TaskHandle] = asyncio.Queue()
    extension = TasksExtension(on_submitted=handles.put)
    extensions = [extension] if driver else []
    async with Client(target(), mode=mode, elicitation_callback=answer, extensions=extensions) as client:
        seen: dict[str, Any] = {"tools": [tool.name for tool in (await client.list_tools()).tools]}
        seen["protocol"] = client.session.protocol_version
        if driver:
            seen["slow"] = flows.structured(await client.call_tool("slow", {"word": "rain"}))
            seen["answered"] = (await client.call_tool("confirm", {})).content[0].text
            while not handles.empty():
                handles.get_nowait()
            seen["cancelled"] = await cancelled(client, extension, handles)
        else:
            seen |= await flows.by_handle_tools(client.call_tool)
    flows.tell(seen, "mcp")


asyncio.run(main(sys.argv[2] == "driver", sys.argv[3]))
