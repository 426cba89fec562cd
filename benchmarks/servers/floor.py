"""The floor: a no-op tool of the official SDK, answered in the call, over stdio or streamable HTTP.

Usage: floor.py stdio | floor.py PORT
"""

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("floor", log_level="WARNING")


# `async def`: the SDK runs a plain `def` in a thread, which costs nearly as much again. This is the harder floor.
@server.tool()
async def noop() -> str:
    return "done"


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", port=int(sys.argv[1]), json_response=True)
