"""The floor of a start on stdio: the official SDK alone, with as many tools of the same names as raincheck lists.

Usage: listing_floor.py
"""

from typing import Any

from mcp.server.mcpserver import MCPServer

server = MCPServer("floor", log_level="WARNING")


@server.tool()
async def noop() -> str:
    return "done"


@server.tool()
async def nap(seconds: float) -> float:
    return seconds


@server.tool()
async def initiate_background_task(
    operation_type: str,
    parameters: dict[str, Any] | None = None,
    max_wait_seconds: float | None = None,
    idempotency_key: str | None = None,
    callback_url: str | None = None,
) -> dict[str, Any]:
    """Start a slow operation in the background."""
    return {}


@server.tool()
async def resolve_task_status(
    task_ref: str,
    after: str | None = None,
    wait_seconds: float | None = None,
    result_offset: int | None = None,
    result_length: int | None = None,
) -> dict[str, Any]:
    """Wait for a background task and get its result."""
    return {}


@server.tool()
async def cancel_background_task(task_ref: str) -> dict[str, Any]:
    """Stop a background task."""
    return {}


@server.tool()
async def provide_task_input(task_ref: str, responses: dict[str, Any]) -> dict[str, Any]:
    """Answer a task."""
    return {}


@server.tool()
async def list_background_tasks(status: str | None = None, limit: int | None = None) -> dict[str, Any]:
    """Your background tasks."""
    return {}


if __name__ == "__main__":
    server.run("stdio")
