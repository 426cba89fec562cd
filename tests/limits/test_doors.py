"""Every door holds the limits, each in its own words: handle tools, typed tools in every mode, both task protocols."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer
from spec.channels import hosting, http
from spec.peers import NOTHING, Legacy, Modern, RpcError

from raincheck.config.settings import Settings
from raincheck.errors import ConfigurationError
from raincheck.mcp.sdk_host import Raincheck
from support.waiting import PATIENCE

OPEN_AT_ONCE: Mapping[str, Any] = {"min_calls": 1, "cool_down_seconds": 60}


def made(tmp_path: Path, **limits: Any) -> Raincheck:
    settings = Settings.model_validate(
        {"execution": {"lease_seconds": 1, "drain_seconds": 0, "max_concurrency": 0 if limits else 5}, "limits": limits}
    )
    return Raincheck(store=tmp_path / "tasks.db", settings=settings)


@asynccontextmanager
async def doors(rc: Raincheck) -> AsyncGenerator[tuple[Modern, Legacy]]:
    """A client of each task protocol."""
    async with (
        hosting(MCPServer[Any]("doors", extensions=[rc], lifespan=rc.lifespan)) as url,
        http(url) as one,
        http(url) as other,
    ):
        yield Modern(one), await Legacy(other).connect()


def error_of(result: Mapping[str, Any]) -> dict[str, Any]:
    assert result["isError"] is True
    return result["structuredContent"]["error"]


async def refusals(modern: Modern, legacy: Legacy, tool: str) -> dict[str, dict[str, Any]]:
    """What each door answers."""
    started = {"operation_type": tool}
    found = {
        "handle tool": error_of(await modern.call("initiate_background_task", started, capabilities=NOTHING)),
        "typed tool": error_of(await modern.call(tool, capabilities=NOTHING)),
        "tasks extension": error_of(await modern.call(tool)),
    }
    with pytest.raises(RpcError) as caught:
        await legacy.call(tool, task={})
    assert caught.value.code == -32603
    return {**found, "core tasks": caught.value.error["data"]}


async def test_a_full_queue_is_told_at_every_door(tmp_path: Path) -> None:
    rc = made(tmp_path, max_pending=1)

    @rc.operation(mode="task")
    async def work() -> str:
        return "done"

    async with doors(rc) as (modern, legacy):
        await modern.start("work")
        for door, error in (await refusals(modern, legacy, "work")).items():
            assert (error["code"], error["retryable"]) == ("queue_full", True), door
            assert error["details"]["limit"] == "in_all", door


@pytest.mark.parametrize("mode", ["task", "auto"])
async def test_an_open_breaker_is_told_at_every_door(tmp_path: Path, mode: Any) -> None:
    rc = made(tmp_path)

    @rc.operation(mode=mode, breaker=OPEN_AT_ONCE)
    async def work() -> str:
        raise RuntimeError("down")

    async with doors(rc) as (modern, legacy):
        await modern.call("work")
        await until_refused(modern, "work")
        for door, error in (await refusals(modern, legacy, "work")).items():
            assert (error["code"], error["retryable"]) == ("circuit_open", True), door
            assert 0 < error["details"]["retry_after_seconds"] <= 60, door


async def until_refused(modern: Modern, tool: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        while True:
            result = await modern.call(tool, capabilities=NOTHING)
            content: dict[str, Any] = result.get("structuredContent") or {}
            error: dict[str, Any] = content.get("error") or {}
            if error.get("code") == "circuit_open":
                return error


async def test_a_call_without_a_task_is_counted_and_refused_too(tmp_path: Path) -> None:
    rc = made(tmp_path)
    ran = 0

    @rc.operation(mode="inline", breaker={"min_calls": 3, "failure_rate": 1.0})
    async def look() -> str:
        nonlocal ran
        ran += 1
        raise RuntimeError("down")

    async with doors(rc) as (modern, _):
        await until_refused(modern, "look")
        known = ran
        assert known >= 3
        await until_refused(modern, "look")
        assert ran == known


async def test_calls_without_a_task_wait_for_a_permit_and_are_refused_in_time(tmp_path: Path) -> None:
    rc = made(tmp_path)
    gate, now, most = asyncio.Event(), 0, 0

    @rc.operation(mode="inline", max_running=2, inline_wait_seconds=0.3)
    async def look() -> str:
        nonlocal now, most
        now += 1
        most = max(now, most)
        await gate.wait()
        now -= 1
        return "seen"

    async with doors(rc) as (modern, _):
        held = [asyncio.create_task(modern.call("look")) for _ in range(2)]
        async with asyncio.timeout(PATIENCE):
            while now < 2:
                await asyncio.sleep(0.01)
        error = error_of(await modern.call("look"))
        assert (error["code"], error["details"]["limit"]) == ("queue_full", "max_running")
        waiting = asyncio.create_task(modern.call("look"))
        await asyncio.sleep(0.05)
        gate.set()
        for call in [*held, waiting]:
            assert not (await call)["isError"]
    assert most == 2


async def test_calls_without_a_task_keep_to_the_start_rate(tmp_path: Path) -> None:
    rc = made(tmp_path)

    @rc.operation(mode="inline", starts_per_minute=6, start_burst=2, inline_wait_seconds=0)
    async def look() -> str:
        return "seen"

    async with doors(rc) as (modern, _):
        for _ in range(2):
            assert not (await modern.call("look"))["isError"]
        error = error_of(await modern.call("look"))
    assert (error["code"], error["retryable"]) == ("rate_limited", True)
    assert 9 < error["details"]["retry_after_seconds"] <= 10


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"breaker": {"probe": 1}}, "A breaker has no setting probe. Allowed: codes, cool_down_seconds,"),
        ({"breaker": {"min_calls": 0}}, "min_calls must be from 1"),
        ({"max_running": -1}, "max_running must be from 0"),
        ({"priority": 500}, "priority must be from -100"),
    ],
)
def test_a_wrong_limit_stops_the_declaration(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        made(tmp_path).operation(**wrong)(lambda: None)
    assert told in caught.value.message
