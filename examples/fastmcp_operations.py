import asyncio

from fastmcp import Context, FastMCP

from raincheck import Policy, TaskContext
from raincheck.fastmcp import Raincheck

rc = Raincheck(tools="slow_*", policy=Policy(mode="task"))
mcp = FastMCP("office")
mcp.add_extension(rc)


@mcp.tool
async def slow_summary(pages: list[str], ctx: Context) -> dict[str, int]:
    """Count the words of a document, page by page: a FastMCP tool as it was, which now runs as a task."""
    words = 0
    for number, page in enumerate(pages, 1):
        await ctx.report_progress(number, len(pages), f"page {number} of {len(pages)}")
        words += len(page.split())
        await asyncio.sleep(0.1)
    return {"pages": len(pages), "words": words}


@mcp.tool
async def slow_publish(title: str, ctx: Context) -> str:
    """Publish a page, once a person has agreed: `ctx.elicit` works in a task too."""
    answer = await ctx.elicit(f"Publish {title!r}?", bool)
    return "published" if answer.action == "accept" and answer.data else "kept back"


@rc.operation(mode="task", timeout_seconds=300, on_worker_lost="retry")
async def archive(folder: str, context: TaskContext) -> str:
    """An operation of raincheck, with a policy of its own."""
    await context.progress(0.5, "packing")
    await asyncio.sleep(0.2)
    return f"{folder}.zip"


if __name__ == "__main__":
    mcp.run()
