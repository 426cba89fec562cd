"""The rival: FastMCP with its tasks extension (docket), over stdio or streamable HTTP, in an environment of its own.

Usage: rival.py stdio | rival.py PORT. The backend and the concurrency are FASTMCP_DOCKET_URL and
FASTMCP_DOCKET_CONCURRENCY; all else is as it comes.
"""

import asyncio
import sys
import time

from fastmcp import FastMCP
from fastmcp_tasks import TasksExtension

server = FastMCP("rival")
server.add_extension(TasksExtension())


@server.tool(task=True)
async def noop() -> str:
    return "done"


@server.tool(task=True)
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return time.time()


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio", show_banner=False)
    else:
        server.run(
            "http",
            show_banner=False,
            port=int(sys.argv[1]),
            log_level="warning",
            json_response=True,
            stateless_http=False,
        )
