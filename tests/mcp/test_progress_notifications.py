"""People see the progress of what a request waits for, where the request asks for it; models are not woken by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer
from spec.channels import Channel

from raincheck.config.settings import Settings
from raincheck.mcp.sdk_host import Raincheck
from raincheck.mcp.server.serve import make_server
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Policy
from raincheck.operations.python.executor import python_operation
from support.in_process import Heard, Peer, in_memory, over_http

JSON = {"accept": "application/json"}
Serving = Callable[[MCPServer[Any], Raincheck], AbstractAsyncContextManager[Channel]]


async def play(seconds: float, context: TaskContext) -> str:
    """Reports its progress twenty times a second."""
    for number in range(steps := round(seconds * 20)):
        await context.progress(number / steps, f"step {number}")
        await asyncio.sleep(0.05)
    return "over"


async def quiet(seconds: float) -> str:
    """Reports nothing."""
    await asyncio.sleep(seconds)
    return "over"


async def ask(context: TaskContext) -> str:
    """Reports, asks, goes back in what it reports, and ends."""
    await context.progress(0.5, "before")
    await asyncio.sleep(1.5)
    await context.elicit("Go on?", {"type": "object", "properties": {}})
    for number in range(2):
        await context.progress(0.2 + number / 10, f"after {number}")
        await asyncio.sleep(1.2)
    return "over"


@asynccontextmanager
async def peer_of(
    tmp_path: Path, serving: Serving, *, modern: bool, capabilities: dict[str, Any] | None = None
) -> AsyncGenerator[Peer]:
    policies = {
        "handle": Policy(mode="task"),
        "inline": Policy(inline_wait_seconds=30),
        "wait": Policy(mode="task", without_tasks="wait"),
    }
    operations = {
        f"{function.__name__}_{name}": python_operation(
            function, operation_type=f"{function.__name__}_{name}", description="Play.", policy=policy
        )
        for function in (play, quiet, ask)
        for name, policy in policies.items()
    }
    settings = Settings.model_validate(
        {"state": {"url": str(tmp_path / "tasks.db")}, "execution": {"drain_seconds": 0}}
    )
    async with serving(*make_server(settings, operations)) as channel:
        yield await Peer(channel, modern=modern, capabilities=capabilities).connect()


@pytest.fixture(params=["memory legacy", "memory modern", "http legacy", "http modern"])
async def peer(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[Peer]:
    transport, era = request.param.split()
    serving = in_memory if transport == "memory" else over_http
    async with peer_of(tmp_path, serving, modern=era == "modern") as found:
        yield found


async def waited_for(peer: Peer, operation: str, way: str, seconds: float, token: str | None) -> Heard:
    """What a request that waits for the operation's end hears."""
    arguments = {"seconds": seconds}
    if way != "handle":
        return await peer.call(f"{operation}_{way}", arguments, token=token)
    ticket = await peer.structured(f"{operation}_handle", **arguments)
    look = {"task_ref": ticket["task_ref"], "wait_seconds": 25}
    return await peer.call("resolve_task_status", look, token=token)


def result_of(heard: Heard) -> Any:
    structured = heard.result.get("structuredContent")
    return structured["result"] if structured else heard.result["content"][0]["text"]


@pytest.mark.parametrize("way", ["handle", "inline", "wait"])
async def test_a_request_that_waits_hears_of_progress_rising_and_at_most_once_a_second(peer: Peer, way: str) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    heard = await waited_for(peer, "play", way, 3, "my token")
    took = loop.time() - began
    assert result_of(heard) == "over"
    assert {each["progressToken"] for each in heard.progress} == {"my token"}
    assert {each["total"] for each in heard.progress} == {1.0}
    assert all(each["message"].startswith("step ") for each in heard.progress)
    values = [each["progress"] for each in heard.progress]
    assert values == sorted(set(values))
    assert 0 < values[0] <= values[-1] <= 1.0
    assert 2 <= len(values) <= took + 1


async def test_a_request_without_a_token_hears_nothing(peer: Peer) -> None:
    for way in ("handle", "inline", "wait"):
        heard = await waited_for(peer, "play", way, 0.8, None)
        assert (result_of(heard), heard.progress) == ("over", [])


async def test_nothing_is_heard_after_the_answer(peer: Peer) -> None:
    ticket = await peer.structured("play_handle", seconds=30)
    look = {"task_ref": ticket["task_ref"], "wait_seconds": 1.2}
    heard = await peer.call("resolve_task_status", look, token="a")
    assert heard.result["structuredContent"]["status"] == "processing"
    assert heard.progress
    await asyncio.sleep(1.5)
    assert peer.channel.incoming.empty()
    # The task reports all the same.
    again = await peer.structured("resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=0)
    assert again["progress"]["fraction"] > heard.result["structuredContent"]["progress"]["fraction"]
    await peer.structured("cancel_background_task", task_ref=ticket["task_ref"])


async def test_progress_goes_on_rising_after_a_question(tmp_path: Path) -> None:
    capabilities: dict[str, Any] = {"elicitation": {}}
    async with peer_of(tmp_path, in_memory, modern=False, capabilities=capabilities) as peer:
        calling = asyncio.create_task(peer.send("tools/call", {"name": "ask_wait", "arguments": {}}, "a"))
        values: list[float] = []
        while not calling.done():
            try:
                message = await asyncio.wait_for(peer.channel.incoming.get(), 0.1)
            except TimeoutError:
                continue
            if message["method"] == "notifications/progress":
                values.append(message["params"]["progress"])
            else:
                await peer.respond(message, {"action": "accept", "content": {}})
        assert calling.result().message["result"]["content"][0]["text"] == "over"
        assert len(values) == 3
        assert values == sorted(set(values))


# The form of the answer over HTTP in the present protocol.


async def test_over_http_the_answer_becomes_a_stream_with_the_first_progress_and_not_before(tmp_path: Path) -> None:
    async with peer_of(tmp_path, over_http, modern=True) as peer:
        told = await waited_for(peer, "play", "inline", 0.5, "a")
        assert told.progress
        assert told.content_type.startswith("text/event-stream")
        for silent in (
            await waited_for(peer, "quiet", "inline", 0.5, "a"),
            await waited_for(peer, "play", "inline", 0.5, None),
        ):
            assert (result_of(silent), silent.progress) == ("over", [])
            assert silent.content_type.startswith("application/json")


async def test_over_http_a_client_that_takes_json_alone_gets_it(tmp_path: Path) -> None:
    async with peer_of(tmp_path, over_http, modern=True) as peer:
        heard = await peer.call("play_inline", {"seconds": 0.5}, token="a", **JSON)
        assert (result_of(heard), heard.progress) == ("over", [])
        assert heard.content_type.startswith("application/json")
