"""`raincheck.testing`: a user's server in the test's own process, whatever its settings say of places."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from mcp.server.mcpserver import MCPServer
from webhooks.receiver import SECRET, receiving

from raincheck import ConfigurationError, OperationFailed, Policy, Raincheck
from raincheck.client import TaskWasCancelled
from raincheck.config.settings import Settings
from raincheck.domain.task import TaskStatus
from raincheck.operations.webhook import Webhook
from raincheck.testing import RaincheckClient, in_memory

pytest_plugins = "raincheck.testing"

ELSEWHERE = {
    "state": {"provider": "postgres", "url": "postgresql://nobody@127.0.0.1:1/none"},
    "execution": {"engine": "procrastinate", "max_concurrency": 0},
    "results": {"blobs": "postgres"},
}


def double(n: int) -> int:
    return 2 * n


def office(tools: str = "") -> Raincheck:
    rc = Raincheck(tools=tools, settings=Settings.model_validate(ELSEWHERE))
    mcp = MCPServer("office", extensions=[rc], lifespan=rc.lifespan)

    @mcp.tool()
    async def slow_double(n: int) -> int:
        return 2 * n

    @mcp.tool()
    async def slow_bug() -> int:
        raise ValueError("no such page")

    @mcp.tool()
    async def bug() -> int:
        raise ValueError("no such page")

    @rc.operation(mode="task")
    async def wait() -> None:
        await asyncio.Event().wait()

    @rc.operation(mode="task")
    def fail() -> None:
        raise ValueError("no such page")

    @rc.operation(mode="task")
    def large() -> str:
        return "x" * 1_000_000

    return rc


async def test_operations_and_existing_tools_run_and_end_as_tasks(raincheck_client: RaincheckClient) -> None:
    client = raincheck_client(office("slow_*"))

    assert client.call_tool("slow_double", {"n": 21}).value in ("42", 42, {"result": 42})
    assert client.run("large").value == "x" * 1_000_000
    with pytest.raises(OperationFailed, match="no such page"):
        client.call_tool("fail")
    waiting = client.submit("wait")
    assert client.cancel(waiting).status is TaskStatus.CANCELLED
    with pytest.raises(TaskWasCancelled):
        client.resume(waiting)


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        ("slow_bug", "Error executing tool slow_bug"),
        ("bug", "Error executing tool bug"),
        ("no_such_tool", "Unknown tool: no_such_tool"),
    ],
)
def test_what_a_tool_answers_as_an_error_fails_the_test(
    tool: str, told: str, raincheck_client: RaincheckClient
) -> None:
    with pytest.raises(OperationFailed, match=told):
        raincheck_client(office("slow_*")).call_tool(tool)


async def test_a_server_has_one_client_in_a_test_and_no_second_block_takes_it_away(
    raincheck_client: RaincheckClient,
) -> None:
    rc = office()
    client = raincheck_client(rc)
    waiting = client.submit("wait")

    assert raincheck_client(rc) is client
    with pytest.raises(ConfigurationError, match=r"^This Raincheck is running already: [^\n]*$"), in_memory(rc):
        pass

    assert client.cancel(waiting).status is TaskStatus.CANCELLED


async def test_nobody_outside_is_told_of_what_ends(raincheck_client: RaincheckClient) -> None:
    async with receiving(secret=SECRET) as receiver:
        named = {"secrets": [SECRET], "allow": [receiver.host], "allow_networks": ["127.0.0.1/32"]}
        rc = Raincheck(webhooks=named, policy=Policy(webhook=Webhook(url=receiver.url, secrets=(SECRET,))))
        MCPServer("office", extensions=[rc], lifespan=rc.lifespan)
        rc.operation(double)
        client = await asyncio.to_thread(raincheck_client, rc)
        assert (await asyncio.to_thread(client.run, "double", {"n": 21})).value == 42
        with contextlib.suppress(TimeoutError):
            await receiver.got(1, 1.0)
        assert receiver.messages == []


def test_each_block_begins_with_nothing_and_the_server_is_left_as_it_was() -> None:
    rc = office()
    before = rc.place()
    with in_memory(rc) as client:
        first = client.submit("fail", idempotency_key="one")
    with in_memory(rc) as client:
        assert client.submit("fail", idempotency_key="one") != first
    assert rc.place() == before


def test_a_configuration_file_is_a_server_too(tmp_path: Path, raincheck_client: RaincheckClient) -> None:
    file = tmp_path / "raincheck.toml"
    file.write_text(
        '[state]\nurl = "kept.db"\n[operations.shout]\nkind = "command"\nargv = ["echo", "{text}"]\n'
        'description = "Echo."\nparameters = {text = {type = "string"}}\n'
    )

    assert raincheck_client(file).run("shout", {"text": "rain"}).value == "rain"

    assert [each.name for each in tmp_path.iterdir()] == ["raincheck.toml"]


def test_a_raincheck_without_a_server_is_refused_in_one_line(raincheck_client: RaincheckClient) -> None:
    with pytest.raises(ConfigurationError, match=r"no server yet: MCPServer\(…, extensions=\[rc\]\)"):
        raincheck_client(Raincheck())
