from mcp.server.mcpserver import MCPServer

from raincheck import Raincheck

rc = Raincheck(tools="slow_*")
mcp = MCPServer("reports", extensions=[rc], lifespan=rc.lifespan)


@mcp.tool()
def slow_report(topic: str) -> str:
    """Build a report on a topic."""
    return f"Everything about {topic}."


if __name__ == "__main__":
    mcp.run()
