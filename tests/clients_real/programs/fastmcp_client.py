"""FastMCP's `Client`: `fastmcp_client.py SERVER plain|tasks`, the latter with `fastmcp_tasks`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import flows
from fastmcp import Client
from fastmcp.client.transports import StdioTransport


async def answer(message: str, response_type: Any, params: Any, context: Any) -> Any:
    return flows.ANSWER["content"]


def target() -> Any:
    server = flows.server()
    if "url" in server:
        return server["url"]
    command, *arguments = server["command"]
    return StdioTransport(command, arguments, env=server["env"], cwd=server["cwd"], keep_alive=False)


async def by_tasks(client: Any) -> dict[str, Any]:
    from fastmcp_tasks.client import call_tool_task

    seen = {"slow": (await client.call_tool("slow", {"word": "rain"})).data}
    seen["answered"] = (await client.call_tool("confirm", {})).content[0].text
    running = await call_tool_task(client, "endless", {})
    await running.cancel()
    seen["cancelled"] = (await running.wait(timeout=10)).status
    return seen


async def main(with_tasks: bool) -> None:
    if with_tasks:
        import fastmcp_tasks.client  # noqa: F401  its import is what makes the client a task client
    async with Client(target(), elicitation_handler=answer) as client:
        seen: dict[str, Any] = {"tools": [tool.name for tool in await client.list_tools()]}
        seen["protocol"] = client.protocol_version
        seen |= await by_tasks(client) if with_tasks else await flows.by_handle_tools(client.call_tool)
    flows.tell(seen, "fastmcp")


asyncio.run(main(sys.argv[2] == "tasks"))
