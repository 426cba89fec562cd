"""A person approves a text, which may take days: the task waits to be called back (docs/upstream-jobs.md)."""

from pathlib import Path

from mcp.server.mcpserver import MCPServer

from raincheck import Raincheck, TaskContext, load_settings

rc = Raincheck(settings=load_settings(Path("raincheck.toml"), environ={}))
mcp = MCPServer("office", extensions=[rc], lifespan=rc.lifespan)


# in practice: an e-mail with two links to a page of yours
async def send_to_the_office(text: str, answer_to: str) -> None:
    print(f"approve {text!r}? answer to {answer_to}", flush=True)


@rc.operation(mode="task", default_max_wait_seconds=7 * 86400)
async def approval(text: str, context: TaskContext) -> None:
    """Ask the office to approve a text."""
    await send_to_the_office(text, answer_to=await context.callback_url())
    await context.await_external()


app = rc.with_callbacks(mcp.streamable_http_app())
