"""A lone surrogate, Python's stand-in for an odd byte of a file's name, is U+FFFD wherever it would leave the server.

UTF-8 cannot hold one: a transport that is to write it ends the whole server, and each later one that is asked again.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from support.serving import Caller, StdioServer, Workplace

FUNCTIONS = '''
import asyncio
from raincheck import OperationFailed, TaskContext

ODD = "caf\\udce9"


async def raises() -> str:
    """Its message has an odd character: caf\\udce9."""
    raise ValueError(ODD)


def refuses() -> str:
    raise OperationFailed(ODD, details={ODD: [ODD]})


def returns() -> dict[str, str]:
    return {"pair": "\\ud83d\\ude00", "name": ODD}


async def says(context: TaskContext) -> None:
    await context.progress(0.5, ODD)
    await asyncio.sleep(60)


async def asks(context: TaskContext) -> str:
    answer = await context.elicit(ODD, {"type": "object", "properties": {"name": {"type": "string", "title": ODD}}})
    return answer["action"]


def says_isolated(context: TaskContext) -> str:
    context.progress_sync(0.5, ODD)
    raise ValueError(ODD)
'''
NAMES = ("raises", "refuses", "returns", "says", "asks")
TABLES = [f'[operations.{name}]\nkind = "python"\ntarget = "ops:{name}"\nmode = "task"\n' for name in NAMES]
TOML = (
    "[execution]\ndrain_seconds = 0\n"
    + "".join(TABLES)
    + (
        '[operations.at_once]\nkind = "python"\ntarget = "ops:raises"\nmode = "inline"\n'
        '[operations.isolated]\nkind = "python"\ntarget = "ops:says_isolated"\nisolation = "process"\n'
    )
)
CAFE = "caf\ufffd"


async def called(caller: Caller, tool: str) -> dict[str, Any]:
    return await asyncio.wait_for(caller.request("tools/call", {"name": tool, "arguments": {}}, tool), 20)


@pytest.mark.parametrize("transport", ["stdio", "streamable-http"])
async def test_no_odd_character_ends_the_server_or_its_answer(tmp_path: Path, transport: str) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    async with place.served(transport) as (server, caller):
        listed = await asyncio.wait_for(caller.request("tools/list", {}), 20)
        assert f"odd character: {CAFE}." in json.dumps(listed, ensure_ascii=False)
        refs: dict[str, str] = {}
        for name, part in [("raises", CAFE), ("isolated", CAFE)]:
            settled = await asyncio.wait_for(caller.run(name), 20)
            refs[name] = settled["task_ref"]
            assert (settled["status"], settled["error"]["code"]) == ("failed", "operation_failed"), settled
            assert part in settled["error"]["message"]
        error = (await asyncio.wait_for(caller.run("refuses"), 20))["error"]
        assert (error["message"], error["details"]) == (CAFE, {CAFE: [CAFE]})
        assert (await asyncio.wait_for(caller.run("returns"), 20))["result"] == {"pair": "\U0001f600", "name": CAFE}
        at_once = await called(caller, "at_once")
        assert at_once["isError"] is True
        assert CAFE in at_once["content"][0]["text"]
        ref = (await caller.submit("says"))["task_ref"]
        while (said := await asyncio.wait_for(caller.status(ref), 20))["progress"] is None:
            await asyncio.sleep(0.02)
        assert said["progress"]["message"] == CAFE
        ref = (await caller.submit("asks"))["task_ref"]
        while (asked := await asyncio.wait_for(caller.status(ref, 1.0), 20))["status"] != "input_required":
            assert not asked["terminal"], asked
        (question,) = asked["input_requests"].values()
        assert question["params"]["message"] == CAFE
        assert question["params"]["requestedSchema"]["properties"]["name"]["title"] == CAFE
        if isinstance(server, StdioServer):
            assert server.stray == []
    async with place.served(transport) as (_, caller):
        assert (await caller.status(refs["raises"]))["error"]["message"] == CAFE
    code, out, _ = await place.raincheck("tasks", "show", refs["raises"], "--json")
    assert code == 0
    assert CAFE in json.dumps(json.loads(out), ensure_ascii=False)
    code, out, _ = await place.raincheck("tasks", "show", refs["raises"])
    assert code == 0
    assert CAFE in out
