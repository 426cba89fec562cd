from fastmcp import FastMCP

from raincheck.fastmcp import Raincheck

rc = Raincheck(tools="slow_*")
mcp = FastMCP("reports")
mcp.add_extension(rc)


@mcp.tool
def slow_report(topic: str) -> str:
    """Build a report on a topic."""
    return f"Everything about {topic}."


if __name__ == "__main__":
    mcp.run()
