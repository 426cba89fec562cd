"""`raincheck serve` itself gives both protocols whole: what a task asks reaches its caller on either transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from spec.channels import Channel, http, served_on_stdio
from spec.peers import Legacy, Modern, answer

from support.serving import Workplace
from support.waiting import PATIENCE

TOML = """
[operations.ask]
kind = "python"
target = "ops:ask"
mode = "task"
"""
FUNCTIONS = """
from raincheck import TaskContext

async def ask(context: TaskContext) -> dict:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    return dict(await context.elicit("Who?", schema))
"""


@pytest.fixture(params=["http", "stdio"])
async def channel(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Channel]:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    async with AsyncExitStack() as stack:
        if request.param == "http":
            server = await stack.enter_async_context(place.http())
            yield await stack.enter_async_context(http(server.url))
        else:
            yield await stack.enter_async_context(served_on_stdio(place))


@pytest.mark.requirement("B5")
async def test_a_core_task_asks_on_the_open_result_stream(channel: Channel) -> None:
    legacy = await Legacy(channel).connect()
    task_id = await legacy.start("ask")
    waiting = asyncio.create_task(legacy.send("tasks/result", {"taskId": task_id}))
    request = await channel.next()
    assert request["method"] == "elicitation/create"
    await legacy.respond(request, answer("Ada"))
    assert (await asyncio.wait_for(waiting, PATIENCE))["structuredContent"] == answer("Ada")


@pytest.mark.requirement("A9", "A19")
async def test_a_task_of_the_extension_asks_on_get_and_on_the_stream(channel: Channel) -> None:
    modern = Modern(channel)
    task_id = await modern.start("ask")
    task = await modern.reaches(task_id, "input_required")
    async with modern.listening(task_id) as stream:
        await stream.reaches(task_id, "input_required")
        await modern.update(task_id, {key: answer("Ada") for key in task["inputRequests"]})
        done = await stream.reaches(task_id, "completed")
    assert done["result"]["structuredContent"] == answer("Ada")
