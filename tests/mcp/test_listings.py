"""Which handle tools are listed, to whom, and in which form they answer everybody: as the server is set."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from spec.channels import Channel

from raincheck.config.settings import Settings
from raincheck.mcp.server.serve import make_server
from raincheck.mcp.surfaces.handle_definitions import HANDLE_NAMES
from raincheck.operations.operation import Policy
from raincheck.operations.python.executor import python_operation
from support.in_process import Peer, in_memory

TASKS: dict[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}


@asynccontextmanager
async def served(tmp_path: Path, **server: Any) -> AsyncGenerator[Channel]:
    async def report() -> str:
        return "done"

    settings = Settings.model_validate({"state": {"url": str(tmp_path / "tasks.db")}, "server": server})
    policy = Policy(mode="task")
    operation = python_operation(report, operation_type="report", description="Report.", policy=policy)
    async with in_memory(*make_server(settings, {"report": operation})) as channel:
        yield channel


async def listed(peer: Peer) -> list[dict[str, Any]]:
    return (await peer.send("tools/list", {})).message["result"]["tools"]


@pytest.mark.parametrize(
    ("setting", "hidden"), [("all", frozenset[str]()), ("status", {"initiate_background_task"}), ("none", HANDLE_NAMES)]
)
@pytest.mark.parametrize("modern", [False, True])
async def test_what_is_not_listed_is_answered_all_the_same(
    tmp_path: Path, setting: str, hidden: set[str], modern: bool
) -> None:
    async with served(tmp_path, handle_tools=setting) as channel:
        peer = await Peer(channel, modern=modern).connect()
        assert {tool["name"] for tool in await listed(peer)} == {"report", *(HANDLE_NAMES - hidden)}
        ticket = await peer.structured("initiate_background_task", operation_type="report")
        ended = await peer.structured("resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=10)
        assert ended == {"task_ref": ticket["task_ref"], "status": "completed", "result": "done"}


async def test_where_no_handle_tool_is_listed_a_call_waits_for_its_result_and_no_ticket_is_spoken_of(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, handle_tools="none") as channel:
        peer = Peer(channel, modern=True)
        (tool,) = await listed(peer)
        assert tool["description"] == "Report."
        assert (await peer.call("report")).result["content"][0]["text"] == "done"
        with_tasks = Peer(channel, modern=True, capabilities=TASKS)
        assert (await with_tasks.call("report")).result["resultType"] == "task"


async def test_the_listing_is_the_same_for_clients_with_and_without_tasks(tmp_path: Path) -> None:
    async with served(tmp_path) as channel:
        plain, with_tasks = (Peer(channel, modern=True, capabilities=each) for each in ({}, TASKS))
        assert await listed(plain) == await listed(with_tasks)


@pytest.mark.parametrize("detail", ["compact", "full"])
async def test_the_setting_says_in_which_form_everybody_is_answered(tmp_path: Path, detail: str) -> None:
    async with served(tmp_path, detail=detail) as channel:
        peer = Peer(channel, modern=True)
        for start in ("initiate_background_task", "report"):
            given = {"operation_type": "report"} if start == "initiate_background_task" else {}
            ticket = await peer.structured(start, **given)
            assert ("deadline_at" in ticket) is (detail == "full")
            ended = await peer.structured("resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=10)
            assert ended["result"] == "done"
            assert ("terminal" in ended) is (detail == "full")
        full = await peer.structured("resolve_task_status", task_ref=ticket["task_ref"], detail="full")
        assert full["terminal"] is True
