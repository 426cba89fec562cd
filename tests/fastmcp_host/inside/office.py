"""The FastMCP server of these tests, on stdio or streamable HTTP: `python office.py STORE [PORT]`."""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from fastmcp import Context, FastMCP
from fastmcp.server.auth import require_scopes
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier

from raincheck import Policy, Settings, TaskContext
from raincheck.fastmcp import Raincheck

TOKENS = {
    "ann's": {"client_id": "app", "sub": "ann", "scopes": ["admin"]},
    "ben's": {"client_id": "app", "sub": "ben", "scopes": []},
}


def make_office(
    store: Path, *, with_auth: bool = False, server: dict[str, Any] | None = None, **policy: Any
) -> tuple[FastMCP, Raincheck]:
    settings = Settings.model_validate({"execution": {"lease_seconds": 1, "drain_seconds": 0}, "server": server or {}})
    rc = Raincheck(tools="slow_*", store=store, settings=settings, policy=Policy(**{"mode": "task", **policy}))
    mcp = FastMCP("office", auth=StaticTokenVerifier(TOKENS) if with_auth else None)
    mcp.add_extension(rc)

    @mcp.tool
    def quick(n: int) -> int:
        """A tool that no pattern names."""
        return n

    @mcp.tool
    async def slow_report(quarter: int, ctx: Context) -> dict[str, int]:
        """Build a report."""
        await ctx.report_progress(1, 4, "begun")
        await asyncio.sleep(0.3)
        return {"quarter": quarter}

    @mcp.tool
    async def slow_publish(title: str, ctx: Context) -> str:
        answer = await ctx.elicit(f"Publish {title}?", bool)
        return "published" if answer.action == "accept" and answer.data else "kept back"

    @mcp.tool
    def slow_book(pages: int) -> str:
        return "a page\n" * pages

    @mcp.tool
    def slow_failing() -> str:
        raise ValueError("no such quarter")

    @mcp.tool
    async def slow_request(ctx: Context) -> str:
        """Says what it sees of a request."""
        return str(ctx.request_context)

    @mcp.tool(auth=require_scopes("admin") if with_auth else None)
    def slow_secret() -> str:
        return "the secret"

    @mcp.tool
    async def asks_another(ctx: Context) -> dict[str, Any] | None:
        return (await ctx.fastmcp.call_tool("work", {"n": 1})).structured_content

    @rc.operation(mode="task")
    async def work(n: int = 3) -> dict[str, int]:
        """Do it."""
        await asyncio.sleep(0.2)
        return {"n": n}

    @rc.operation(mode="auto")
    async def brief(n: int) -> dict[str, int]:
        """Done at once."""
        return {"n": n}

    @rc.operation(mode="auto", inline_wait_seconds=0.05)
    async def patient(flag: str, context: TaskContext) -> str:
        """Reports, and runs until the file `flag` is there."""
        await context.progress(0.25, "begun")
        while not os.path.exists(flag):
            await asyncio.sleep(0.05)
        return "done"

    @rc.operation(mode="task", on_worker_lost="retry")
    async def long(flag: str, context: TaskContext) -> str:
        """Runs until the file `flag` is there."""
        while not os.path.exists(flag):
            await asyncio.sleep(0.05)
        return f"attempt {context.attempt}"

    @rc.operation(mode="task")
    async def ask(context: TaskContext) -> str:
        schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
        answer = await context.elicit("Sure?", schema)
        return f"{answer['action']} {answer['content']['sure']}"

    return mcp, rc


if __name__ == "__main__":
    server, _ = make_office(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        server.run(transport="http", host="127.0.0.1", port=int(sys.argv[2]), show_banner=False, log_level="warning")
    else:
        server.run(show_banner=False)
