"""A FastMCP host has its user asked while a call waits, and a tool use that is sent again is the same task."""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastmcp_host.inside.office import make_office
from mcp.client import Client
from mcp_types import ElicitResult

ANSWER = ElicitResult(action="accept", content={"sure": True})


async def data(client: Client, tool: str, meta: Any = None, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments, meta=meta)
    assert not result.is_error, result
    return result.structured_content


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_user_is_asked_while_a_status_waits(store: Path, mode: Any) -> None:
    server, _ = make_office(store)
    asked: list[str] = []

    async def user(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ANSWER

    async with Client(server._mcp_server, mode=mode, elicitation_callback=user) as client:
        ticket = await data(client, "ask")
        done = await data(client, "resolve_task_status", task_ref=f"`{ticket['task_ref']}`", wait_seconds="10")
    assert (done["result"], asked) == ("accept True", ["Sure?"])


async def test_the_user_is_asked_while_a_typed_tool_waits_and_there_is_one_task(store: Path) -> None:
    server, _ = make_office(store, mode="auto", inline_wait_seconds=5)
    asked: list[str] = []

    async def user(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"value": True})

    async with Client(server._mcp_server, elicitation_callback=user) as client:
        result = await client.call_tool("slow_publish", {"title": "Rain"})
        assert result.structured_content == {"result": "published"}
        assert len((await data(client, "list_background_tasks"))["tasks"]) == 1
    assert len(asked) == 1


async def test_a_tool_use_that_is_sent_again_is_the_same_task(store: Path) -> None:
    server, _ = make_office(store)
    async with Client(server._mcp_server) as client:
        refs = {(await data(client, "ask", {"claudecode/toolUseId": "toolu_1"}))["task_ref"] for _ in range(2)}
    assert len(refs) == 1
