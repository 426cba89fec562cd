"""On stdio every message that is read has its answer: also the last ones before the end, and those nobody can read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from support.serving import StdioServer, Workplace

FUNCTIONS = """
import asyncio
import time


async def work(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "worked"


def blocks(seconds: float) -> str:
    time.sleep(seconds)
    return "worked"
"""
TOML = """
[execution]
drain_seconds = 4
[operations.work]
kind = "python"
target = "ops:work"
mode = "task"
[operations.at_once]
kind = "python"
target = "ops:blocks"
mode = "inline"
"""
# The same by a program of the user's own, on streams of the SDK's own.
SERVER = """
import ops
from mcp.server.mcpserver import MCPServer
from raincheck import Raincheck

rc = Raincheck(store="state/tasks.db")
rc.operation(name="work", mode="task")(ops.work)
rc.operation(name="at_once", mode="inline")(ops.blocks)
mcp = MCPServer("ours", extensions=[rc], lifespan=rc.lifespan)
mcp.run()
"""


def place_of(folder: Path) -> Workplace:
    place = Workplace(folder, TOML, FUNCTIONS)
    (folder / "server.py").write_text(SERVER)
    return place


def serving(place: Workplace, host: str) -> Any:
    return place.stdio() if host == "serve" else place.script("server.py")


def answers(server: StdioServer) -> dict[Any, dict[str, Any]]:
    """What was answered, by id; each once."""
    messages = [json.loads(line) for line in server.lines]
    assert len({message["id"] for message in messages}) == len(messages), server.lines
    return {message["id"]: message for message in messages}


@pytest.mark.parametrize("host", ["serve", "MCPServer"])
async def test_every_call_that_was_read_is_answered_before_the_end(tmp_path: Path, host: str) -> None:
    place = place_of(tmp_path)
    async with serving(place, host) as server:
        quick = (await server.submit("work", {"seconds": 1.0}))["task_ref"]
        slow = (await server.submit("work", {"seconds": 60.0}))["task_ref"]
        before = len(server.lines)
        calls: list[tuple[str, dict[str, Any]]] = [
            ("at_once", {"seconds": 0.6}),
            ("at_once", {"seconds": 1.2}),
            ("initiate_background_task", {"operation_type": "work", "parameters": {"seconds": 0.0}}),
            ("resolve_task_status", {"task_ref": quick, "wait_seconds": 20}),
            ("resolve_task_status", {"task_ref": slow, "wait_seconds": 20}),
            ("list_background_tasks", {}),
        ]
        for number, (tool, arguments) in enumerate(calls, 101):
            server.write(server.envelope(number, "tools/call", {"name": tool, "arguments": arguments}) + b"\n")
        server.close_stdin()
        assert await server.exited(40) == 0
        await server.drained()
        assert server.stray == []
        found = {number: each for number, each in answers(server).items() if number > 100}
        assert len(server.lines) - before == len(calls)
        assert [found[number]["result"]["content"][0]["text"] for number in (101, 102)] == ["worked", "worked"]
        assert found[103]["result"]["structuredContent"]["status"] == "queued"
        assert found[104]["result"]["structuredContent"]["status"] == "completed"
        if host == "serve":
            # The SDK's own loop has ended by then, and breaks off what is held.
            assert found[105]["result"]["structuredContent"]["status"] in ("processing", "failed")
        assert 105 in found
        assert len(found[106]["result"]["structuredContent"]["tasks"]) >= 2


def envelope(number: int, rest: bytes) -> bytes:
    return b'{"jsonrpc": "2.0", "method": "tools/call", "id": %d, "params": {"arguments": %b}}' % (number, rest)


UNREADABLE: list[tuple[bytes, Any, int]] = [
    (envelope(201, b'{"text": "caf\\udce9"}'), 201, -32700),
    (envelope(202, b"[" * 100_000 + b"]" * 100_000), 202, -32700),
    (envelope(203, b"[" * 100_000), 203, -32700),
    (b'{"params": {"id": 7, "a": ["\\"id\\": 8"]}, "id": "a\\u00fc", "method": tools', "aü", -32700),
    (b"garbage", None, -32700),
    (b'"\\ud800"', None, -32700),
    (b'[{"jsonrpc": "2.0", "id": 204, "method": "ping"}]', None, -32600),
    (b"{}", None, -32600),
    (b'{"jsonrpc": "2.0", "id": 205, "method": 5}', 205, -32600),
    (b'{"id": 206, "method": "ping"}', 206, -32600),
]
# What the SDK's own streams have made readable.
NOT_UTF_8 = (envelope(207, b'{"text": "\xff"}'), 207, -32700)
SILENT = [b"", b"   ", b'{"jsonrpc": "2.0", "result": 5}']


@pytest.mark.parametrize("host", ["serve", "MCPServer"])
async def test_a_line_that_cannot_be_read_is_answered_with_an_error(tmp_path: Path, host: str) -> None:
    place = place_of(tmp_path)
    async with serving(place, host) as server:
        await asyncio.wait_for(server.request("tools/list", {}), 30)
        for line, number, code in [*UNREADABLE, *([NOT_UTF_8] if host == "serve" else [])]:
            before = len(server.lines)
            for each in (*SILENT, line):
                server.write(each + b"\n")
            async with asyncio.timeout(20):
                while len(server.lines) == before:
                    await asyncio.sleep(0.01)
            (answer,) = map(json.loads, server.lines[before:])
            assert (answer["id"], answer["error"]["code"]) == (number, code), line[:80]
            assert len(answer["error"]["message"]) <= 200
        listed = await asyncio.wait_for(server.request("tools/list", {}), 20)
        assert "work" in {tool["name"] for tool in listed["tools"]}
