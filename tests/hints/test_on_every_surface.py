"""What the history says reaches callers of every surface, and the drivers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hints.histories import ended
from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from spec.channels import hosted, http
from spec.peers import Legacy, Modern

from raincheck.client.models import TaskHandle
from raincheck.client.parsing import read_view
from raincheck.client.tasks_wire import DetailedTask, view_of
from raincheck.config.settings import Settings
from raincheck.domain import task_json
from raincheck.mcp.sdk_host import Raincheck
from raincheck.mcp.wire.task_messages import ETA
from raincheck.polling.history import End, History
from raincheck.polling.history_store import KIND
from raincheck.ports.records import Record
from raincheck.stores.sqlite.store import SqliteStore
from support.waiting import PATIENCE


async def remember(path: Path, name: str, *, ran: float, ends: int = 20) -> None:
    """Tasks of this operation ran so long, in a life of the store before this one."""
    history = History(operation_type=name)
    for _ in range(ends):
        history.add(End.of(ended(ran)))
    store = SqliteStore(path)
    await store.open()
    now = datetime.now(UTC)
    value = history.merged(History(operation_type=name), now).to_json()
    assert await store.put_record(Record(kind=KIND, key=name, value=value))
    await store.close()


async def until_learned(hint: Any) -> Mapping[str, Any]:
    async with asyncio.timeout(PATIENCE):
        while True:
            told = await hint()
            if ETA in told.get("_meta", {}):
                return told
            await asyncio.sleep(0.1)


async def test_every_surface_tells_when_to_ask_and_when_it_will_probably_end(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await remember(path, "hold", ran=25.0)
    async with hosted(path) as server, http(server) as channel:
        modern = Modern(channel)
        task_id = await modern.start("hold", {"name": "go"})
        told = await until_learned(lambda: modern.get(task_id))
        assert told["_meta"][ETA] == pytest.approx(25, abs=6)
        # A program asks by the age of the task, whatever the history says of the far end.
        assert 50 <= told["pollIntervalMs"] < 2500
        asked = {"task_ref": task_id, "wait_seconds": 0, "detail": "full"}
        status = (await modern.call("resolve_task_status", asked))["structuredContent"]
        assert 15 < status["eta_seconds"] < 26
        assert 0.05 <= status["poll_after_seconds"] < 2.5
        start = {"operation_type": "hold", "parameters": {"name": "go"}, "detail": "full"}
        ticket = await modern.call("initiate_background_task", start, capabilities={})
        assert ticket["structuredContent"]["poll_after_seconds"] == 0.05
        assert "eta_seconds" not in ticket["structuredContent"]
        async with http(server) as other:
            legacy = await Legacy(other).connect()
            core = await legacy.start("hold", {"name": "go"})
            shown = await until_learned(lambda: legacy.send("tasks/get", {"taskId": core}))
            assert shown["_meta"][ETA] == pytest.approx(25, abs=6)
            assert 50 <= shown["pollInterval"] < 2500
        (tmp_path / "go").touch()
        done = await modern.reaches(task_id)
        assert ETA not in done.get("_meta", {})


async def test_a_model_whose_calls_are_not_held_is_told_what_the_history_says(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await remember(path, "hold", ran=25.0)
    settings = Settings.model_validate({"polling": {"hold_seconds": 0}, "execution": {"drain_seconds": 0}})
    rc = Raincheck(store=path, settings=settings)
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @rc.operation(mode="task")
    async def hold() -> None:
        await asyncio.Event().wait()

    async with Client(server) as client, asyncio.timeout(PATIENCE):
        ticket: Any = (await client.call_tool("hold", {})).structured_content
        while True:
            status: Any = await client.call_tool("resolve_task_status", {"task_ref": ticket["task_ref"]})
            told = re.fullmatch(r"Call again with this after in ([0-9.]+) s\.", status.structured_content["next_step"])
            assert told is not None
            seconds = float(told[1])
            if seconds > 15:
                break
            await asyncio.sleep(0.1)
        assert seconds < 26
        await client.call_tool("cancel_background_task", {"task_ref": ticket["task_ref"]})


def test_the_drivers_pass_it_on() -> None:
    task = ended(5.0)
    handle = TaskHandle(task_ref=task.task_ref)
    known = task_json.status_of(task, poll_after_seconds=2.0, eta_seconds=6.5)
    assert read_view(known, handle).eta_seconds == 6.5
    assert read_view(task_json.status_of(task, poll_after_seconds=2.0), handle).eta_seconds is None
    whole = {"taskId": "t", "status": "working"}
    for meta, eta in (({ETA: 6.5}, 6.5), ({ETA: "soon"}, None), ({ETA: 1e999}, None), ({}, None)):
        assert view_of(DetailedTask.model_validate({**whole, "_meta": meta}), handle).eta_seconds == eta
    assert view_of(DetailedTask.model_validate(whole), handle).eta_seconds is None
