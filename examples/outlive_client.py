import asyncio

from mcp.server.mcpserver import MCPServer

from raincheck import Raincheck

rc = Raincheck(tools="slow_*", outlive_client="outlive_client:rc")
mcp = MCPServer("survey", extensions=[rc], lifespan=rc.lifespan)


@mcp.tool()
async def slow_survey(district: str) -> str:
    """Survey a district."""
    await asyncio.sleep(8)
    return f"{district}: all is well"


if __name__ == "__main__":
    mcp.run()
