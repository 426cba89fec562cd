"""Operations that ask: before the work, in its middle, and an existing tool that asks as it always did."""

import asyncio

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from raincheck import Policy, Raincheck, TaskContext

rc = Raincheck(tools="slow_*", policy=Policy(mode="task"))
mcp = MCPServer("files", extensions=[rc], lifespan=rc.lifespan)

NAME = {
    "mode": "form",
    "message": "Who is the report for?",
    "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
}


@rc.operation(mode="task", ask_first={"reader": NAME})
async def report(context: TaskContext) -> str:
    """Build a report for somebody; asks for whom."""
    answer = context.answers["reader"]
    if answer["action"] != "accept":
        return "No report, then."
    await asyncio.sleep(1)
    return f"A report for {answer['content']['name']}."


@rc.operation(mode="task", on_worker_lost="retry")
async def clean_up(folder: str, context: TaskContext) -> str:
    """Look through a folder, then ask before anything is deleted."""
    await context.progress(0.5, "looked through the folder")
    sure = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
    answer = await context.elicit(f"Delete 7 files in {folder}?", sure)
    if answer["action"] == "accept" and answer["content"]["sure"]:
        return "7 files deleted"
    return "nothing deleted"


class Colour(BaseModel):
    colour: str


@mcp.tool()
async def slow_paint(ctx: Context) -> str:
    """An existing tool, unchanged."""
    answer = await ctx.elicit("Which colour?", Colour)
    return f"painted {answer.data.colour}" if answer.action == "accept" else "not painted"


if __name__ == "__main__":
    mcp.run()
