"""What a FastMCP server with raincheck writes to its stdout: an answer to everything it read, whatever stands in it."""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

SERVER = """
import asyncio, sys
from fastmcp import Context, FastMCP
from raincheck import Policy
from raincheck.fastmcp import Raincheck

rc = Raincheck(tools="slow_*", store=sys.argv[1], policy=Policy(mode="auto"))
mcp = FastMCP("odd")
mcp.add_extension(rc)
ODD = "caf\\udce9"


@mcp.tool
async def slow_raises(ctx: Context) -> str:
    "It has an odd character: caf\\udce9."
    await ctx.report_progress(1, 2, ODD)
    raise ValueError(ODD)


@mcp.tool
async def slow_returns() -> str:
    return ODD


@mcp.tool
async def plain_raises() -> str:
    raise ValueError(ODD)


@mcp.tool
async def plain_waits(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return ODD


mcp.run(show_banner=False)
"""
CAFE = "caf\ufffd"
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def line_of(number: int, tool: str, **arguments: Any) -> bytes:
    params = {"name": tool, "arguments": arguments, "_meta": {**META, "progressToken": number}}
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()


async def test_everything_that_was_read_is_answered_and_can_be_written(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    lines = [
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}).encode(),
        line_of(2, "slow_raises"),
        line_of(3, "slow_returns"),
        line_of(4, "plain_raises"),
        line_of(5, "plain_waits", seconds=1.0),
        line_of(6, "list_background_tasks", limit=None, status=None),
        b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"odd": "\\ud800"}}',
        b"[" * 100_000,
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), str(tmp_path / "tasks.db")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(b"\n".join([*lines, b""])), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    messages = [json.loads(line) for line in out.splitlines()]
    told = {message["id"]: message for message in messages if "id" in message}
    assert set(told) == {1, 2, 3, 4, 5, 6, 7, None}, sorted(map(str, told))
    assert f"odd character: {CAFE}." in json.dumps(told[1], ensure_ascii=False)
    for number in (2, 4):
        assert CAFE in told[number]["result"]["content"][0]["text"]
        assert told[number]["result"]["isError"] is True
    for number in (3, 5):
        assert told[number]["result"]["content"][0]["text"] == CAFE
    assert "tasks" in told[6]["result"]["structuredContent"]
    assert told[7]["error"]["code"] == told[None]["error"]["code"] == -32700
