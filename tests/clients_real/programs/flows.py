"""What every Python client here does: list, call, cancel, answer. A client prints what it saw as one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

ANSWER = {"action": "accept", "content": {"sure": True}}

CallTool = Callable[[str, dict[str, Any]], Awaitable[Any]]


def server() -> dict[str, Any]:
    """Where the server is: `{"url"}`, or `{"command", "cwd", "env"}` for stdio."""
    return json.loads(sys.argv[1])


def tell(seen: dict[str, Any], package: str) -> None:
    print(json.dumps({**seen, "version": version(package)}))


def structured(result: Any) -> Any:
    """The structured content, as either generation of the SDK names it."""
    if (new := getattr(result, "structured_content", None)) is not None:
        return new
    return getattr(result, "structuredContent", None)


async def by_handle_tools(call_tool: CallTool) -> dict[str, Any]:
    """The three flows of a client that knows nothing of tasks."""

    async def call(tool: str, **arguments: Any) -> dict[str, Any]:
        return structured(await call_tool(tool, arguments))

    async def look(ticket: dict[str, Any]) -> dict[str, Any]:
        return await call("resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=10)

    seen = {"slow": (await look(await call("slow", word="rain")))["result"]}
    running = await call("endless")
    seen["cancelled"] = (await call("cancel_background_task", task_ref=running["task_ref"]))["status"]
    asking = await look(await call("confirm"))
    # A client that can have its user asked was asked while it waited.
    if asking["status"] == "input_required":
        (key,) = asking["input_requests"]
        await call("provide_task_input", task_ref=asking["task_ref"], responses={key: ANSWER})
        asking = await look(asking)
    return {**seen, "answered": asking["result"]}
