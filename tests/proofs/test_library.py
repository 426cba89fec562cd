"""The library in two lines: a server of one's own, killed in mid-work and started again, and the results arrive."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.history import FUNCTIONS, History
from support.serving import StdioServer, Workplace
from support.waiting import PATIENCE

SCRIPT = """
import os

from mcp.server.mcpserver import MCPServer

import ops
from raincheck import Policy, Raincheck, TaskContext
from raincheck.config.settings import Settings

settings = Settings.model_validate({"execution": {"lease_seconds": 1, "drain_seconds": 0.2}})
rc = Raincheck(
    tools="slow_*",
    store=os.environ["RAINCHECK_STATE__URL"],
    settings=settings,
    policy=Policy(mode="task", on_worker_lost="retry"),
)
mcp = MCPServer("reports", extensions=[rc]%s)


@rc.operation(mode="task", on_worker_lost="retry")
async def report(task: TaskContext, seconds: float) -> str:
    return await ops.work(task, seconds)


@rc.operation(mode="task", on_worker_lost="fail")
async def payment(task: TaskContext, seconds: float) -> str:
    return await ops.work(task, seconds)


@mcp.tool()
async def slow_survey(seconds: float) -> str:
    import asyncio
    print("noise")
    await asyncio.sleep(seconds)
    return "surveyed"


mcp.run("stdio")
"""
FORMS = {"extension alone": "", "lifespan": ", lifespan=rc.lifespan"}


async def under_way(server: StdioServer, refs: list[str]) -> list[dict[str, Any]]:
    return [await server.status(ref) for ref in refs]


@pytest.mark.parametrize("form", FORMS)
async def test_what_a_killed_server_was_at_arrives_after_its_restart(tmp_path: Path, form: str) -> None:
    place = Workplace(tmp_path, "", FUNCTIONS)
    (tmp_path / "server.py").write_text(SCRIPT % FORMS[form])
    async with place.script("server.py") as server:
        tools = {tool["name"] for tool in (await server.request("tools/list", {}))["tools"]}
        assert {"report", "payment", "slow_survey", "resolve_task_status"} <= tools
        done = (await server.call("report", {"seconds": 0.0}))["task_ref"]
        assert (await server.settled(done))["result"] == "worked"
        refs: list[str] = [
            (await server.call(name, {"seconds": 1.5}))["task_ref"] for name in ("report", "payment", "slow_survey")
        ]
        async with asyncio.timeout(PATIENCE):
            while {status["status"] for status in await under_way(server, refs)} != {"processing"}:
                await asyncio.sleep(0.02)
            while len(History(place.history).runs) < 3:
                await asyncio.sleep(0.02)
        await server.kill()
        assert server.stray == []
    async with place.script("server.py") as server:
        # The first message of any kind takes the work up again.
        await server.request("tools/list", {})
        report, payment, survey = [await server.settled(ref) for ref in refs]
        assert (report["status"], report["result"]) == ("completed", "worked")
        assert (survey["status"], survey["result"]) == ("completed", {"result": "surveyed"})
        assert payment["error"]["code"] == "worker_lost"
        assert (await server.status(done))["result"] == "worked"
        server.close_stdin()
        assert await server.exited() == 0
        assert server.stray == []
    history = History(place.history)
    assert [len(history.runs[ref]) for ref in refs[:2]] == [2, 1]
