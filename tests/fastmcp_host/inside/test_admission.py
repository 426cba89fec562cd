"""What each caller of a FastMCP server may have under way, over streamable HTTP."""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastmcp import FastMCP

from raincheck.config.settings import Settings
from raincheck.fastmcp import Raincheck

ACCEPT = {"accept": "application/json, text/event-stream"}


@pytest.fixture
async def over_http(tmp_path: Path, free_port: int) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A server of two calls and two sessions a caller, in this process: its URL, and what ends its slow calls."""
    limits = {"max_calls_per_scope": 2, "max_sessions_per_scope": 2}
    released = asyncio.Event()
    rc = Raincheck(store=tmp_path / "tasks.db", settings=Settings.model_validate({"limits": limits}))
    mcp: FastMCP[Any] = FastMCP("bounded")
    mcp.add_extension(rc)

    @rc.operation(mode="inline")
    async def slow(wait: bool) -> str:
        """Slow."""
        if wait:
            await released.wait()
        return "done"

    config = uvicorn.Config(mcp.http_app(), port=free_port, log_config=None, timeout_graceful_shutdown=1)
    web = uvicorn.Server(config)
    web.capture_signals = contextlib.nullcontext  # pyright: ignore[reportAttributeAccessIssue]  a test has its own
    serving = asyncio.create_task(web.serve())
    try:
        async with asyncio.timeout(20):
            while not web.started:
                assert not serving.done(), "the server did not start"
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{free_port}/mcp", released
    finally:
        web.should_exit = True
        await serving


async def test_what_a_caller_has_under_way_is_bounded_here_too(over_http: tuple[str, asyncio.Event]) -> None:
    url, released = over_http
    async with httpx2.AsyncClient(timeout=20) as http:

        async def sent(method: str, params: dict[str, Any], name: str | None = None) -> dict[str, Any]:
            meta: dict[str, Any] = {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
            }
            headers = ACCEPT | {"mcp-protocol-version": "2026-07-28", "mcp-method": method}
            headers |= {} if name is None else {"mcp-name": name}
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
            return (await http.post(url, json=message, headers=headers)).json()

        async def slow(wait: bool) -> dict[str, Any]:
            return await sent("tools/call", {"name": "slow", "arguments": {"wait": wait}}, "slow")

        assert not (await slow(False))["result"]["isError"]

        async def admitted() -> dict[str, Any]:
            while (answer := (await slow(True))["result"])["isError"]:
                await asyncio.sleep(0.02)
            return answer

        calling = [asyncio.create_task(admitted()) for _ in range(2)]
        async with asyncio.timeout(10):
            while "error" not in (refused := await sent("tools/list", {})):
                await asyncio.sleep(0.02)
        assert refused["error"]["data"]["code"] == "rate_limited"
        while not (refused_call := (await slow(False))["result"])["isError"]:
            await asyncio.sleep(0.02)
        assert refused_call["structuredContent"]["error"]["code"] == "rate_limited"
        released.set()
        assert [each["content"][0]["text"] for each in await asyncio.gather(*calling)] == ["done", "done"]
        assert "result" in await sent("tools/list", {})
        opening = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": opening}
        opened = [(await http.post(url, json=request, headers=ACCEPT)).status_code for _ in range(4)]
        assert opened == [200, 200, 429, 429]
