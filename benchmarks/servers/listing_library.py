"""A library's server whose start is measured: two operations beside the handle tools, over stdio.

Usage: listing_library.py
"""

import asyncio

from mcp.server.mcpserver import MCPServer

from raincheck import Raincheck

rc = Raincheck(store="tasks.db")
server = MCPServer("library", extensions=[rc], lifespan=rc.lifespan, log_level="WARNING")


@rc.operation(mode="task")
async def noop() -> str:
    return "done"


@rc.operation(mode="task")
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


if __name__ == "__main__":
    server.run("stdio")
