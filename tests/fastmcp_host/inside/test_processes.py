"""FastMCP servers with raincheck as processes: stdio and streamable HTTP, kill -9 and restart, principals."""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastmcp.client.extension_hooks as hooks
import httpx2
import pytest
import uvicorn
from fastmcp import Client, FastMCP
from fastmcp.client.transports import PythonStdioTransport, StdioTransport
from fastmcp.exceptions import ToolError
from fastmcp_host.inside.conftest import OFFICE, Serve
from mcp.server.mcpserver import MCPServer

import raincheck
from raincheck import ConfigurationError, Policy
from raincheck.fastmcp import Raincheck
from raincheck.testing import RaincheckClient

pytest_plugins = "raincheck.testing"

EXAMPLES = Path(__file__).parents[3] / "examples"

_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}},
}


async def data(client: Client[Any], tool: str, **arguments: Any) -> Any:
    return (await client.call_tool(tool, arguments)).structured_content


async def status_now(client: Client[Any], ticket: dict[str, Any]) -> dict[str, Any]:
    return await data(client, "resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=0)


async def end_of(client: Client[Any], ticket: dict[str, Any]) -> dict[str, Any]:
    return await data(client, "resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=10)


def stdio(store: Path) -> PythonStdioTransport:
    return PythonStdioTransport(OFFICE, args=[str(store)], python_cmd=sys.executable, keep_alive=False)


async def test_over_stdio_a_second_server_resolves_the_first_ones_ticket(store: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    async with Client(stdio(store)) as first:
        ticket = await data(first, "long", flag=str(flag))
        assert ticket["status"] == "queued"
    flag.touch()
    async with Client(stdio(store)) as second:
        assert (await end_of(second, ticket))["status"] == "completed"


async def test_the_examples_do_what_the_page_says(tmp_path: Path) -> None:
    def example(name: str) -> PythonStdioTransport:
        env = {"XDG_STATE_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        return PythonStdioTransport(EXAMPLES / name, env=env, python_cmd=sys.executable, keep_alive=False)

    async with Client(example("fastmcp_two_lines.py")) as client:
        assert await data(client, "slow_report", topic="rain") == {"result": "Everything about rain."}
    async with Client(example("fastmcp_operations.py")) as client:
        summary = await data(client, "slow_summary", pages=["a slow tool", "a ticket"])
        assert (await end_of(client, summary))["result"] == {"pages": 2, "words": 5}
        archive = await data(client, "archive", folder="reports")
        assert (await end_of(client, archive))["result"] == "reports.zip"
        asking = await end_of(client, await data(client, "slow_publish", title="Rain"))
        answers = {key: {"action": "accept", "content": {"value": True}} for key in asking["input_requests"]}
        await data(client, "provide_task_input", task_ref=asking["task_ref"], responses=answers)
        assert (await end_of(client, asking))["result"] == {"result": "published"}


class LegacySession:
    """A client of protocol 2025-11-25 on stdio, which sees every byte: FastMCP's own knows no core tasks."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        """The result, or the error."""
        number = next(self._ids)
        self._write({"id": number, "method": method, "params": params})
        while True:
            message = await self._read()
            if message.get("method") == "elicitation/create":
                assert "io.modelcontextprotocol/related-task" in message["params"]["_meta"]
                self._write({"id": message["id"], "result": {"action": "accept", "content": {"sure": True}}})
            if message.get("id") == number and "method" not in message:
                return message.get("result") or message["error"]

    def notify(self, method: str) -> None:
        self._write({"method": method})

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(await asyncio.wait_for(self._process.stdout.readline(), 20))


@asynccontextmanager
async def legacy_session(store: Path) -> AsyncGenerator[LegacySession]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, str(OFFICE), str(store), stdin=pipe, stdout=pipe)
    try:
        session = LegacySession(process)
        client = {"clientInfo": {"name": "test", "version": "1"}, "capabilities": {"elicitation": {}, "tasks": {}}}
        begun = await session.request("initialize", protocolVersion="2025-11-25", **client)
        assert begun["capabilities"]["tasks"] == {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
        session.notify("notifications/initialized")
        yield session
    finally:
        process.kill()
        await process.communicate()


async def test_core_tasks_of_2025_11_25_are_served_whole(store: Path, tmp_path: Path) -> None:
    async with legacy_session(store) as session:
        created = await session.request("tools/call", name="work", arguments={"n": 7}, task={"ttl": 60000})
        task = created["task"]
        assert task["status"] == "working"
        result = await session.request("tasks/result", taskId=task["taskId"])
        assert result["structuredContent"] == {"n": 7}
        assert (await session.request("tasks/get", taskId=task["taskId"]))["status"] == "completed"
        listed = await session.request("tasks/list")
        assert [each["taskId"] for each in listed["tasks"]] == [task["taskId"]]
        flag = str(tmp_path / "never")
        running = (await session.request("tools/call", name="long", arguments={"flag": flag}, task={}))["task"]
        assert (await session.request("tasks/cancel", taskId=running["taskId"]))["status"] == "cancelled"
        asking = (await session.request("tools/call", name="ask", arguments={}, task={}))["task"]
        answered = await session.request("tasks/result", taskId=asking["taskId"])
        assert answered["content"][0]["text"] == "accept True"
        wrong = await session.request("tools/call", name="slow_report", arguments={"quarter": "x"}, task={})
        assert (wrong["code"], wrong["data"]["code"]) == (-32602, "invalid_parameters")
        assert (await session.request("tools/call", name="quick", arguments={"n": 1}, task={}))["code"] == -32601


async def test_over_http_the_work_survives_a_kill(serve: Serve, free_port: int, tmp_path: Path, store: Path) -> None:
    flag, url = tmp_path / "flag", f"http://127.0.0.1:{free_port}/mcp"
    async with serve(free_port) as server:
        async with Client(url) as client:
            ticket = await data(client, "long", flag=str(flag))
            while (await status_now(client, ticket))["status"] != "processing":
                await asyncio.sleep(0.01)
        server.kill()
        await server.wait()
    flag.touch()
    async with serve(free_port), Client(url) as client:
        task = await end_of(client, ticket)
        assert task["status"] == "completed"
        assert task["result"] == "attempt 2"
        with pytest.raises(ToolError, match="could see each other"):
            await client.call_tool("list_background_tasks", {})


async def test_over_http_a_client_with_tasks_is_served_and_told_of_changes(
    serve: Serve, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastmcp_tasks.client import TasksClientExtension, call_tool_task

    monkeypatch.setattr(hooks, "_internal_client_extension_factories", [TasksClientExtension])
    url = f"http://127.0.0.1:{free_port}/mcp"
    async with serve(free_port), Client(url) as client:
        assert await data(client, "work", n=2) == {"n": 2}
        task = await call_tool_task(client, "slow_report", {"quarter": 2})
        told = [message async for message in listening(url, task.task_id)]
        assert told[0]["method"] == "notifications/subscriptions/acknowledged"
        assert told[0]["params"]["notifications"] == {"taskIds": [task.task_id]}
        assert {each["params"]["status"] for each in told[1:-1]} <= {"working", "completed"}
        assert told[-2]["params"]["result"]["structuredContent"] == {"quarter": 2}


async def listening(url: str, task_id: str) -> AsyncGenerator[dict[str, Any]]:
    params = {"notifications": {"taskIds": [task_id]}, "_meta": _META}
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "subscriptions/listen",
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
    async with (
        httpx2.AsyncClient(timeout=10) as http,
        http.stream("POST", url, json=body, headers=headers) as response,
    ):
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data:") and line[5:].strip():
                yield json.loads(line[5:])


@asynccontextmanager
async def office_with_auth(store: Path, port: int) -> AsyncGenerator[str]:
    spec = importlib.util.spec_from_file_location("office", OFFICE)
    assert spec is not None
    assert spec.loader is not None
    office = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(office)
    mcp, _ = office.make_office(store, with_auth=True)
    server = uvicorn.Server(uvicorn.Config(mcp.http_app(), port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.should_exit = True
        await serving


async def test_a_principal_sees_its_own_tasks_only_and_the_operations_it_may_call(store: Path, free_port: int) -> None:
    async with (
        office_with_auth(store, free_port) as url,
        Client(url, auth="ann's") as ann,
        Client(url, auth="ben's") as ben,
    ):
        ticket = await data(ann, "initiate_background_task", operation_type="slow_secret")
        assert (await end_of(ann, ticket))["result"] == {"result": "the secret"}
        with pytest.raises(ToolError, match="task_not_found"):
            await ben.call_tool("resolve_task_status", {"task_ref": ticket["task_ref"]})
        assert (await data(ben, "list_background_tasks"))["tasks"] == []
        with pytest.raises(ToolError, match="unknown_operation"):
            await ben.call_tool("initiate_background_task", {"operation_type": "slow_secret"})
        with pytest.raises(ToolError, match="Unknown tool"):
            await ben.call_tool("slow_secret", {})
        assert "slow_secret" in str(await ann.list_tools())
        assert "slow_secret" not in str(await ben.list_tools())


async def test_fastmcp_run_leads_a_process_of_its_own_to_the_function(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(
        "from fastmcp import FastMCP\n"
        "from raincheck.fastmcp import Raincheck\n\n"
        "rc = Raincheck(store='tasks.db')\n"
        "mcp = FastMCP('office')\n"
        "mcp.add_extension(rc)\n\n\n"
        "@rc.operation(isolation='process', mode='inline')\n"
        "def double(n: int) -> int:\n"
        "    return 2 * n\n"
    )
    command = str(Path(sys.executable).with_name("fastmcp"))
    transport = StdioTransport(command, ["run", "server.py", "--no-banner"], cwd=str(tmp_path), env=dict(os.environ))

    async with Client(transport) as client:
        answer = await asyncio.wait_for(client.call_tool("double", {"n": 21}), 60)

    assert [each.text for each in answer.content] == ["42"]


def test_the_testing_kit_runs_a_fastmcp_server_in_memory(raincheck_client: RaincheckClient, tmp_path: Path) -> None:
    rc = Raincheck(tools="slow_*", store=tmp_path / "kept.db", policy=Policy(mode="task"))
    mcp = FastMCP("office")
    mcp.add_extension(rc)

    @mcp.tool
    async def slow_double(n: int) -> int:
        return 2 * n

    result = raincheck_client(rc).call_tool("slow_double", {"n": 21})

    assert result.handle is not None
    assert result.value == {"result": 42}
    assert list(tmp_path.iterdir()) == []


def test_webhooks_are_set_as_on_the_other_host() -> None:
    with pytest.raises(ConfigurationError, match=r"'10\.20\.0\.0/8' is no network"):
        Raincheck(webhooks={"allow_networks": ["10.20.0.0/8"]})
    assert Raincheck(webhooks={"give_up_seconds": 60}).settings_of_server().webhooks.give_up_seconds == 60


def test_the_raincheck_of_the_other_host_is_refused_with_the_import_that_is_meant() -> None:
    with pytest.raises(ConfigurationError, match=r"from raincheck\.fastmcp import Raincheck$"):
        FastMCP("office").add_extension(raincheck.Raincheck())
    with pytest.raises(ConfigurationError, match=r"from raincheck import Raincheck$"):
        MCPServer("office", extensions=[Raincheck()])
    with pytest.raises(ConfigurationError, match=r"^Raincheck has no setting tool; did you mean tools\?$"):
        Raincheck(tool="slow_*")  # pyright: ignore[reportArgumentType]
