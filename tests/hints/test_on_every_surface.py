"""What the history says reaches callers of every surface, and the drivers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hints.histories import ended
from spec.channels import hosted, http
from spec.peers import Legacy, Modern

from raincheck.client.answers import read_view
from raincheck.client.records import TaskHandle
from raincheck.client.tasks_wire import DetailedTask, view_of
from raincheck.history import End, History
from raincheck.history_keeper import KIND
from raincheck.mcp import wire
from raincheck.mcp.task_wire import ETA
from raincheck.notes import Note
from raincheck.stores.sqlite import SqliteStore


async def remember(path: Path, name: str, *, ran: float, ends: int = 20) -> None:
    """Tasks of this operation ran so long, in a life of the store before this one."""
    history = History(operation_type=name)
    for _ in range(ends):
        history.add(End.of(ended(ran)))
    store = SqliteStore(path)
    await store.open()
    now = datetime.now(UTC)
    value = history.merged(History(operation_type=name), now).to_json()
    assert await store.put_note(Note(kind=KIND, key=name, value=value))
    await store.close()


async def until_learned(hint: Any, least: float) -> Mapping[str, Any]:
    async with asyncio.timeout(10):
        while True:
            told = await hint()
            if told.get("pollIntervalMs", told.get("pollInterval", 0)) >= least:
                return told
            await asyncio.sleep(0.1)


async def test_every_surface_tells_when_to_ask_and_when_it_will_probably_end(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await remember(path, "hold", ran=25.0)
    async with hosted(path) as server, http(server) as channel:
        modern = Modern(channel)
        task_id = await modern.start("hold", {"name": "go"})
        told = await until_learned(lambda: modern.get(task_id), 20_000)
        assert told["_meta"][ETA] == pytest.approx(25, abs=6)
        look = {"task_ref": task_id, "wait_seconds": 0, "detail": "full"}
        status = (await modern.call("resolve_task_status", look))["structuredContent"]
        assert 15 < status["eta_seconds"] < 26
        assert 15 < status["poll_after_seconds"] < 26
        start = {"operation_type": "hold", "parameters": {"name": "go"}, "detail": "full"}
        ticket = await modern.call("initiate_background_task", start, capabilities={})
        assert ticket["structuredContent"]["poll_after_seconds"] == pytest.approx(25.2, abs=0.5)
        assert "eta_seconds" not in ticket["structuredContent"]
        async with http(server) as other:
            legacy = await Legacy(other).connect()
            core = await legacy.start("hold", {"name": "go"})
            shown = await until_learned(lambda: legacy.send("tasks/get", {"taskId": core}), 20_000)
            assert shown["_meta"][ETA] == pytest.approx(25, abs=6)
        (tmp_path / "go").touch()
        done = await modern.reaches(task_id)
        assert ETA not in done.get("_meta", {})


def test_the_drivers_pass_it_on() -> None:
    task = ended(5.0)
    handle = TaskHandle(task_ref=task.task_ref)
    known = wire.status_of(task, poll_after_seconds=2.0, eta_seconds=6.5)
    assert read_view(known, handle).eta_seconds == 6.5
    assert read_view(wire.status_of(task, poll_after_seconds=2.0), handle).eta_seconds is None
    whole = {"taskId": "t", "status": "working"}
    for meta, eta in (({ETA: 6.5}, 6.5), ({ETA: "soon"}, None), ({ETA: 1e999}, None), ({}, None)):
        assert view_of(DetailedTask.model_validate({**whole, "_meta": meta}), handle).eta_seconds == eta
    assert view_of(DetailedTask.model_validate(whole), handle).eta_seconds is None
