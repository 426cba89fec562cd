"""What a FastMCP tool's own bug and messages leave in the log, and what a tool finds of a session in a task."""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client, Context, FastMCP

from raincheck import OperationFailed, Policy
from raincheck.fastmcp import Raincheck


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def made(store: Path) -> FastMCP:
    rc = Raincheck(tools="slow_*", store=store, policy=Policy(mode="task"))
    mcp = FastMCP("desk")
    mcp.add_extension(rc)

    @mcp.tool
    async def slow_bug(n: int, ctx: Context) -> float:
        await ctx.info("step 0")
        await ctx.warning("nothing to divide by", extra={"n": n})
        await ctx.debug("unseen")
        return 1 / n

    @mcp.tool
    async def slow_unprintable() -> None:
        raise Unprintable("no such quarter")

    @mcp.tool
    async def slow_grouped() -> None:
        raise ExceptionGroup("one", [OperationFailed("again", retryable=True, details={"of": {1}})])

    @mcp.tool
    async def slow_exit() -> None:
        await asyncio.gather(leaves(), asyncio.sleep(60))

    @mcp.tool
    async def slow_session(ctx: Context) -> dict[str, Any]:
        await ctx.set_state("pages", 3)
        return {"state": await ctx.get_state("pages"), "request": ctx.request_id, "session": ctx.session_id}

    @mcp.tool
    async def slow_live(ctx: Context) -> str:
        return str(ctx.session)

    return mcp


async def leaves() -> None:
    sys.exit(3)


async def end_of(client: Client[Any], tool: str, **arguments: Any) -> dict[str, Any]:
    ticket = (await client.call_tool(tool, arguments)).structured_content
    asked = {"task_ref": ticket["task_ref"], "wait_seconds": 10, "detail": "full"}
    return (await client.call_tool("resolve_task_status", asked)).structured_content


async def test_a_bug_and_a_tools_messages_are_in_the_log_and_its_session_is_the_task(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Client(made(store)) as client:
        bug = await end_of(client, "slow_bug", n=0)
        unprintable = await end_of(client, "slow_unprintable")
        grouped = await end_of(client, "slow_grouped")
        left = await end_of(client, "slow_exit")
        session = await end_of(client, "slow_session")
        live = await end_of(client, "slow_live")
    ref = session["task_ref"]
    assert session["result"] == {"state": 3, "request": ref, "session": ref}
    assert "ctx.session: it belongs to a request" in live["error"]["message"]
    assert unprintable["error"]["message"] == "Error calling tool 'slow_unprintable': no such quarter"
    assert (grouped["error"]["retryable"], grouped["error"]["details"]) == (True, {"of": [1]})
    assert "sys.exit(3)" in left["error"]["message"]
    own = [each for each in caplog.records if getattr(each, "task_ref", None) == bug["task_ref"]]
    said = [(each.levelname, each.getMessage()) for each in own if each.name == "raincheck.tool"]
    which = f"task_ref={bug['task_ref']} operation=slow_bug"
    assert said == [("INFO", f"step 0 {which}"), ("WARNING", f"nothing to divide by {{'n': 0}} {which}")]
    (failed,) = [each for each in own if each.levelname == "ERROR"]
    assert failed.getMessage().startswith(f"operation failed: ZeroDivisionError at {__file__}:")
    assert "return 1 / n" in str(failed.exc_text)
    assert "ZeroDivisionError: division by zero" in str(failed.exc_text)


def test_a_program_that_set_up_no_log_hears_of_its_bug(store: Path) -> None:
    program = f"""
import asyncio
from pathlib import Path
from fastmcp import Client, FastMCP
from raincheck.fastmcp import Raincheck

mcp = FastMCP("desk")
mcp.add_extension(Raincheck(tools="slow_*", store=Path({json.dumps(str(store))})))

@mcp.tool
def slow_half(n: int) -> int:
    return 1 // n

async def main():
    async with Client(mcp) as client:
        await client.call_tool("slow_half", {{"n": 0}}, raise_on_error=False)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "operation failed: ZeroDivisionError" in done.stderr
    assert "  | ZeroDivisionError: integer division or modulo by zero" in done.stderr
