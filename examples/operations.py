import asyncio
import time

from mcp.server.mcpserver import MCPServer

from raincheck import Raincheck, TaskContext

rc = Raincheck()
mcp = MCPServer("office", extensions=[rc], lifespan=rc.lifespan)


@rc.operation(mode="task", timeout_seconds=300, on_worker_lost="retry")
async def summarise(pages: list[str], context: TaskContext) -> dict[str, int]:
    """Count the words of a document, page by page."""
    words = 0
    for number, page in enumerate(pages, 1):
        await context.progress(number / len(pages), f"page {number} of {len(pages)}")
        words += len(page.split())
        await asyncio.sleep(0.1)
    return {"pages": len(pages), "words": words}


@rc.operation(mode="task")
def count_down(start: int, context: TaskContext) -> str:
    """A synchronous function runs in a thread, and looks itself whether it was told to stop."""
    for left in range(start, 0, -1):
        context.check_cancelled()
        context.progress_sync(1 - left / start, f"{left} left")
        time.sleep(0.1)
    return "lift-off"


@rc.operation(mode="task")
async def publish(title: str, context: TaskContext) -> str:
    """Publish a page, once a person has agreed."""
    answer = await context.elicit(f"Publish {title!r}?", {"type": "object", "properties": {"note": {"type": "string"}}})
    return "published" if answer["action"] == "accept" else "kept back"


@rc.operation(mode="inline")
def opening_hours(day: str) -> str:
    """When the office is open: fast, so it needs no task."""
    return "closed" if day.lower() == "sunday" else "9 to 17"


if __name__ == "__main__":
    mcp.run()
