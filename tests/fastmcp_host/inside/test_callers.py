"""A tool that asks whose call it is: as a plain call, with FastMCP's own tasks, and with raincheck."""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastmcp.client.extension_hooks as hooks
import pytest
import uvicorn
from fastmcp import Client, FastMCP
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.exceptions import ToolError
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from fastmcp.server.dependencies import get_access_token, get_http_headers
from fastmcp_tasks import TasksExtension
from fastmcp_tasks.client import TasksClientExtension, call_tool_task

from raincheck import Policy, Settings, TaskContext
from raincheck.encryption.cipher import new_key
from raincheck.fastmcp import Raincheck
from raincheck.tasks.views import OPERATOR

TOKENS = {
    "ann's-secret-token": {"client_id": "app", "sub": "ann", "scopes": ["read"], "tenant": "acme"},
    "ben's-secret-token": {"client_id": "app", "sub": "ben", "scopes": [], "tenant": "initech"},
}
LATER = {"short-secret-token": {"client_id": "app", "sub": "cid", "scopes": [], "tenant": "none", "expires_at": 0}}


def whose() -> dict[str, Any]:
    """The data of whoever calls."""
    token = get_access_token()
    if token is None:
        return {"token": None, "headers": get_http_headers()}
    return {
        "sub": token.subject,
        "client": token.client_id,
        "scopes": token.scopes,
        "tenant": token.claims["tenant"],
        "token": hashlib.sha256(token.token.encode()).hexdigest(),
        "region": get_http_headers().get("x-region"),
        "bearer": get_http_headers(include={"authorization"}).get("authorization", "")[:6],
    }


@asynccontextmanager
async def serving(port: int, *extensions: Any, **tool: Any) -> AsyncGenerator[str]:
    mcp: FastMCP[Any] = FastMCP("whose", auth=StaticTokenVerifier({**TOKENS, **LATER}))
    for extension in extensions:
        mcp.add_extension(extension)

    @mcp.tool(**tool)
    async def slow_whose() -> dict[str, Any]:
        return whose()

    @mcp.tool
    def slow_in_a_thread() -> dict[str, Any]:
        return whose()

    web = uvicorn.Server(uvicorn.Config(mcp.http_app(), port=port, log_config=None, timeout_graceful_shutdown=1))
    web.capture_signals = contextlib.nullcontext  # pyright: ignore[reportAttributeAccessIssue]
    running = asyncio.create_task(web.serve())
    try:
        async with asyncio.timeout(30):
            while not web.started:
                assert not running.done(), "the server did not start"
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        web.should_exit = True
        await running


def client_of(url: str, token: str) -> Client[Any]:
    transport = StreamableHttpTransport(url, headers={"x-region": f"region of {token[:3]}"}, auth=token)
    return Client(transport, mode="auto")


def encrypting(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("SEAL_KEY", new_key())
    return Settings.model_validate({"encryption": {"keys": ["${SEAL_KEY}"]}, "execution": {"drain_seconds": 0}})


async def end_of(client: Client[Any], tool: str) -> Any:
    start = {"operation_type": tool, "parameters": {}}
    ticket = (await client.call_tool("initiate_background_task", start)).structured_content
    wait = {"task_ref": ticket["task_ref"], "wait_seconds": 20, "detail": "full"}
    return (await client.call_tool("resolve_task_status", wait)).structured_content


async def test_a_tool_knows_whose_call_it_is_as_before(
    store: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hooks, "_internal_client_extension_factories", [])
    plain, theirs, ours = {}, {}, {}
    async with serving(free_port) as url:
        for token in TOKENS:
            async with client_of(url, token) as client:
                plain[token] = (await client.call_tool("slow_whose", {})).structured_content
    monkeypatch.setattr(hooks, "_internal_client_extension_factories", [TasksClientExtension])
    async with serving(free_port, TasksExtension(), task=True) as url:
        for token in TOKENS:
            async with client_of(url, token) as client:
                task = await call_tool_task(client, "slow_whose", {})
                theirs[token] = (await task.result()).structured_content
    monkeypatch.setattr(hooks, "_internal_client_extension_factories", [])
    policy = Policy(mode="task", caller_token=True, forward_headers=("X-Region", "Authorization"))
    rc = Raincheck(tools="slow_*", store=store, settings=encrypting(monkeypatch), policy=policy)
    async with serving(free_port, rc) as url:
        for token in TOKENS:
            async with client_of(url, token) as client:
                ours[token] = (await end_of(client, "slow_whose"))["result"]
                assert (await end_of(client, "slow_in_a_thread"))["result"] == ours[token]
    assert plain == theirs == ours
    assert [each["sub"] for each in ours.values()] == ["ann", "ben"]
    assert [each["tenant"] for each in ours.values()] == ["acme", "initech"]
    kept = b"".join(each.read_bytes() for each in store.parent.iterdir() if each.is_file())
    for token in TOKENS:
        assert token.encode() not in kept
        assert token not in caplog.text


async def test_a_tool_that_asks_for_no_token_gets_none_and_no_header_whoever_else_calls(
    store: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "_internal_client_extension_factories", [])
    rc = Raincheck(tools="slow_*", store=store, policy=Policy(caller_claims=("tenant",)))

    @rc.operation(mode="task", caller_claims=("tenant",))
    async def known(context: TaskContext) -> dict[str, Any]:
        """Who calls."""
        caller = context.caller
        return {"subject": caller.subject, "claims": dict(caller.claims), "token": caller.token, "seen": whose()}

    @rc.operation(mode="task", required_scopes=("read",))
    async def readers_only() -> str:
        """For readers."""
        return "read"

    async with (
        serving(free_port, rc) as url,
        client_of(url, "ann's-secret-token") as ann,
        client_of(url, "ben's-secret-token") as ben,
    ):
        assert "readers_only" in {tool.name for tool in await ann.list_tools()}
        assert "readers_only" not in {tool.name for tool in await ben.list_tools()}
        assert (await end_of(ann, "readers_only"))["result"] == "read"
        for tool, given in (("readers_only", {}), ("initiate_background_task", {"operation_type": "readers_only"})):
            with pytest.raises(ToolError, match="'readers_only' is not open to you: your token lacks the scope read"):
                await ben.call_tool(tool, given)
        nothing = {"token": None, "headers": {}}
        for tool in ("slow_whose", "slow_in_a_thread"):
            assert (await end_of(ann, tool))["result"] == nothing
        told = (await end_of(ann, "known"))["result"]
        assert (told["subject"], told["claims"], told["token"]) == ("ann", {"tenant": "acme"}, None)
        assert told["seen"]["token"] is None


async def test_a_declared_operation_finds_the_headers_that_it_asks_for_alone(
    store: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "_internal_client_extension_factories", [])
    rc = Raincheck(store=store, settings=encrypting(monkeypatch))

    @rc.operation(mode="task", forward_headers=("X-Region",))
    def tasked() -> dict[str, Any]:
        """As a task."""
        return whose()

    @rc.operation(mode="inline")
    async def at_once() -> dict[str, Any]:
        """Within its call."""
        return whose()

    async with serving(free_port, rc) as url, client_of(url, "ann's-secret-token") as ann:
        region = {"token": None, "headers": {"x-region": "region of ann"}}
        assert (await end_of(ann, "tasked"))["result"] == region
        assert (await ann.call_tool("at_once", {})).structured_content == {"token": None, "headers": {}}


async def test_a_token_that_expires_before_the_tool_runs_is_a_clear_failure(
    store: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "_internal_client_extension_factories", [])
    LATER["short-secret-token"]["expires_at"] = int(time.time()) + 2
    rc = Raincheck(store=store, settings=encrypting(monkeypatch), policy=Policy(mode="task", caller_token=True))

    asked = {"go": {"mode": "form", "message": "Go?", "requestedSchema": {"type": "object", "properties": {}}}}

    @rc.operation(mode="task", caller_token=True, ask_first=asked)
    async def patient() -> str:
        """Waits for its user first."""
        return "done"

    async with serving(free_port, rc) as url:
        async with client_of(url, "short-secret-token") as client:
            start = {"operation_type": "patient", "parameters": {}}
            ref = (await client.call_tool("initiate_background_task", start)).structured_content["task_ref"]
        registry = (await rc.started()).registry
        while (task := await registry.get(ref, scope=OPERATOR)).status != "input_required":
            await asyncio.sleep(0.05)
        while time.time() <= LATER["short-secret-token"]["expires_at"]:
            await asyncio.sleep(0.05)
        await registry.provide_input(ref, {task.inputs[0].key: {"action": "accept", "content": {}}}, scope=OPERATOR)
        task = await registry.wait(ref, scope=OPERATOR, seconds=20)
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert task.outcome.error.message.startswith("The caller's token expired")
