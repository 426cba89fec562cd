"""Admission: what each caller may have under way, on every method, protocol version and transport of real servers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from auth.callers import ACCEPT, LegacyCaller, ModernCaller, bearer, legacy, opening, over_sse
from mcp.client import Client

from raincheck.client import TaskPoller
from raincheck.config.settings import Settings
from raincheck.mcp.server.serve import make_server
from raincheck.operations.python.executor import python_operation
from support.serving import Caller, HttpServer, Refused, RpcError, Workplace
from support.waiting import PATIENCE

ADA, BOB = "ada-" + "a" * 28, "bob-" + "b" * 28
ENVIRONMENT = {"ADA": ADA, "BOB": BOB}
MIB = 1024 * 1024
TOML = """
[server.auth.tokens]
ada = "${ADA}"
bob = "${BOB}"

[operations.report]
kind = "python"
target = "ops:report"
description = "A report of that size."
mode = "task"

[operations.look]
kind = "python"
target = "ops:look"
description = "Look for something."
mode = "inline"

[operations.ask]
kind = "python"
target = "ops:ask"
description = "Ask the user."
mode = "task"
"""
FUNCTIONS = """
import os
import time

from raincheck import TaskContext

def report(size: int) -> str:
    return "x" * size

def look(found: str) -> str:
    while not os.path.exists(found):
        time.sleep(0.01)
    return "found"

async def ask(context: TaskContext) -> dict:
    return await context.elicit("Go on?", {"type": "object", "properties": {"yes": {"type": "boolean"}}})
"""

METHODS: list[tuple[str, Mapping[str, Any], str | None]] = [
    ("tools/list", {}, None),
    ("tools/call", {"name": "report", "arguments": {"size": 1}}, "report"),
    ("tools/call", {"name": "resolve_task_status", "arguments": {"task_ref": "x"}}, "resolve_task_status"),
    ("tools/call", {"name": "no_tool_of_this_server", "arguments": {}}, "no_tool_of_this_server"),
    ("resources/list", {}, None),
    ("resources/templates/list", {}, None),
    ("resources/read", {"uri": "raincheck://tasks/x/result"}, "raincheck://tasks/x/result"),
    ("resources/read", {"uri": "file:///x"}, "file:///x"),
    ("prompts/list", {}, None),
    ("prompts/get", {"name": "x"}, "x"),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {"name": "a", "value": ""}}, None),
    ("tasks/get", {"taskId": "x"}, "x"),
    ("tasks/cancel", {"taskId": "x"}, "x"),
]
MODERN: list[tuple[str, Mapping[str, Any], str | None]] = [
    ("server/discover", {}, None),
    ("tasks/update", {"taskId": "x", "inputResponses": {}}, "x"),
    ("subscriptions/listen", {"notifications": {"taskIds": ["x"]}}, None),
    ("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, None),
]
LEGACY: list[tuple[str, Mapping[str, Any], str | None]] = [
    ("ping", {}, None),
    ("tools/call", {"name": "report", "arguments": {"size": 1}, "task": {}}, None),
    ("tasks/result", {"taskId": "x"}, None),
    ("tasks/list", {}, None),
]


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
        yield client


def workplace_of(folder: Path, limits: str) -> Workplace:
    return Workplace(folder, f"{limits}\n{TOML}", FUNCTIONS)


def refusal_in(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a refused request is told, as a JSON-RPC error or in a tool's result."""
    if "error" in message:
        assert message["error"]["code"] == -32603, message
        return {**message["error"]["data"], "message": message["error"]["message"]}
    assert message["result"]["isError"], message
    return message["result"]["structuredContent"]["error"]


def assert_refused(message: Mapping[str, Any]) -> None:
    error = refusal_in(message)
    assert (error["code"], error["retryable"]) == ("rate_limited", True), message
    assert error["details"]["retry_after_seconds"] > 0


RATE = "[polling]\ncalls_per_second = 0.001\ncall_burst = 1\n"


async def test_every_method_of_both_protocol_eras_counts_against_calls_per_second(
    tmp_path: Path, client: httpx2.AsyncClient
) -> None:
    async with workplace_of(tmp_path, RATE).http(env=ENVIRONMENT) as server:
        ada, bob = ModernCaller(client, server.url, ADA), LegacyCaller(client, server.url, BOB)
        assert "result" in (await ada.send("tools/list", {})).json()
        for method, params, name in METHODS + MODERN:
            assert_refused((await ada.send(method, params, name, tasks=method.startswith(("tasks/", "sub")))).json())
        await bob.open()
        for method, params, _ in METHODS + LEGACY:
            assert_refused(await bob.ask(method, **params))
        refused = (await client.post(server.url, json=opening(), headers=ACCEPT | bearer(BOB))).text
        assert "rate_limited" in refused


@pytest.mark.parametrize("transport", ["stdio", "sse"])
async def test_the_rate_holds_on_the_transports_without_exchanges(
    transport: str, tmp_path: Path, client: httpx2.AsyncClient
) -> None:
    workplace = workplace_of(tmp_path, RATE)
    if transport == "stdio":
        async with workplace.stdio(env=ENVIRONMENT) as server:
            await server.request("tools/list", {})
            for method, params, _ in METHODS:
                if method == "tools/call":
                    assert_refused({"result": await server.request(method, params)})
                else:
                    with pytest.raises(RpcError, match="-32603: Too many calls"):
                        await server.request(method, params)
        return
    async with workplace.http(transport="sse", env=ENVIRONMENT) as served, over_sse(client, served.url, ADA) as ada:
        for method, params, _ in METHODS:
            assert_refused(await ada.ask(method, **params))


async def test_the_sessions_of_one_caller_are_bounded_and_others_open_theirs(
    tmp_path: Path, client: httpx2.AsyncClient
) -> None:
    async with workplace_of(tmp_path, "[limits]\nmax_sessions_per_scope = 3\n").http(env=ENVIRONMENT) as server:

        async def opened(token: str, **params: Any) -> httpx2.Response:
            return await client.post(server.url, json=opening(**params), headers=ACCEPT | bearer(token))

        for _ in range(2):
            assert (await opened(ADA)).status_code == 200
        # What says more of itself than is worth keeping is refused, and is a session all the same until it ends.
        large = await opened(ADA, clientInfo={"name": "x" * 100_000, "version": "1"})
        assert "at most 16384 bytes" in large.text
        for answer in [await opened(ADA) for _ in range(5)]:
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert_refused(answer.json())
        async with legacy(client, server.url, BOB) as bob:
            assert "result" in await bob.ask("tools/list")
        ended = {"mcp-session-id": large.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        assert (await client.delete(server.url, headers=ACCEPT | bearer(ADA) | ended)).status_code == 200
        async with asyncio.timeout(PATIENCE):
            while (answer := await opened(ADA)).status_code == 429:
                await asyncio.sleep(0.02)
        assert answer.status_code == 200
        # A request that is no opening takes no place for longer than it lasts.
        for _ in range(5):
            assert (await client.post(server.url, json={}, headers=ACCEPT | bearer(BOB))).status_code == 400
        async with legacy(client, server.url, BOB):
            pass


async def held(caller: Caller, ref: str) -> dict[str, Any]:
    """The status as it is at the end of a held call, once there is a place for it."""
    while True:
        try:
            return await caller.call("resolve_task_status", {"task_ref": ref, "wait_seconds": 20})
        except Refused as error:
            if error.code != "rate_limited":
                raise
            await asyncio.sleep(0.02)


async def asking(caller: Caller) -> str:
    """A task that is not over before it is cancelled."""
    return (await caller.submit("ask", max_wait_seconds=60))["task_ref"]


async def test_held_calls_and_streams_of_one_caller_are_bounded_and_end_with_their_callers(
    tmp_path: Path, client: httpx2.AsyncClient
) -> None:
    limits = "\n".join(
        ("[limits]", "max_calls_per_scope = 2", "max_inline_calls_per_scope = 1", "max_streams_per_scope = 1")
    )
    limits += "\n[execution]\nmax_concurrency = 0\n"
    async with workplace_of(tmp_path, limits).http(env=ENVIRONMENT) as server:
        ada, bob = (ModernCaller(client, server.url, token) for token in (ADA, BOB))
        ref, other = await asking(ada), await asking(bob)
        waiting = [asyncio.create_task(held(ada, ref)) for _ in range(2)]

        async def until_refused() -> Refused:
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        await ada.call("resolve_task_status", {"task_ref": ref, "wait_seconds": 0})
                    except Refused as error:
                        return error
                    await asyncio.sleep(0.02)

        error = await until_refused()
        assert error.code == "rate_limited"
        assert "max_calls_per_scope" in error.message
        assert (await bob.call("resolve_task_status", {"task_ref": other, "wait_seconds": 0}))["status"] == "pending"
        # A caller that hangs up gives its place back, and so does one that is answered.
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await ada.call("cancel_background_task", {"task_ref": ref})
                    break
                except Refused:
                    await asyncio.sleep(0.02)
        assert (await waiting[1])["status"] == "cancelled"
        looking = [asyncio.create_task(looked(ada, tmp_path / "there")) for _ in range(2)]
        done, _ = await asyncio.wait(looking, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        refused = [task.exception() for task in done]
        assert [error.code for error in refused if isinstance(error, Refused)] == ["rate_limited"]
        (tmp_path / "there").touch()
        await asyncio.wait(looking)
        assert sum(task.exception() is None for task in looking) == 1
        again = await asking(ada)
        async with client.stream("POST", server.url, json=ada_listens(again), headers=listening_headers(ADA)) as stream:
            lines = stream.aiter_lines()
            while "acknowledged" not in await anext(lines):
                pass
            assert_refused(
                (await ada.send("subscriptions/listen", {"notifications": {"taskIds": [again]}}, tasks=True)).json()
            )
            assert_refused(
                (await ada.send("subscriptions/listen", {"notifications": {"toolsListChanged": True}})).json()
            )
        await ada.call("cancel_background_task", {"task_ref": again})
        async with asyncio.timeout(PATIENCE):
            while (
                found := await ada.send("subscriptions/listen", {"notifications": {"taskIds": [again]}}, tasks=True)
            ).text.startswith("{"):
                await asyncio.sleep(0.02)
        assert "notifications/tasks" in found.text


async def looked(caller: Caller, found: Path) -> None:
    """A call that runs in its request until the file is there."""
    await caller.call("look", {"found": str(found)})


def ada_listens(ref: str) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}},
    }
    params = {"notifications": {"taskIds": [ref]}, "_meta": meta}
    return {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}


def listening_headers(token: str) -> dict[str, str]:
    return ACCEPT | bearer(token) | {"mcp-protocol-version": "2026-07-28", "mcp-method": "subscriptions/listen"}


def reader_that_takes_nothing(server: HttpServer, uri: str) -> socket.socket:
    """A connection on which that resource was asked for, and which is not read."""
    body = Caller.envelope(1, "resources/read", {"uri": uri})
    head = (
        f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {ADA}\r\naccept: application/json, text/event-stream\r\n"
        f"mcp-protocol-version: 2026-07-28\r\nmcp-method: resources/read\r\nmcp-name: {uri}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", server.port))
    # The operating system takes the first few megabytes for it, and requests that are refused in between are gone.
    reader.sendall((head.encode() + body) * 64)
    return reader


async def test_an_answer_counts_until_it_is_taken_and_its_bytes_are_bounded_for_each_caller(
    tmp_path: Path, client: httpx2.AsyncClient
) -> None:
    limits = f"[limits]\nmax_bytes_per_scope = {16 * MIB}\n"
    async with workplace_of(tmp_path, limits).http(env=ENVIRONMENT) as server:
        ada, bob = (ModernCaller(client, server.url, token) for token in (ADA, BOB))
        ref = (await ada.run("report", {"size": 15 * MIB}))["task_ref"]
        other = (await bob.run("report", {"size": MIB}))["task_ref"]
        page = f"raincheck://tasks/{ref}/result?offset=0&length={MIB}"

        async def read(caller: ModernCaller, uri: str) -> dict[str, Any]:
            return (await caller.send("resources/read", {"uri": uri}, uri)).json()

        assert "result" in await read(ada, page)
        readers = [reader_that_takes_nothing(server, page) for _ in range(30)]
        try:
            async with asyncio.timeout(60):
                while "error" not in (refused := await read(ada, page)):
                    await asyncio.sleep(0.05)
            assert_refused(refused)
            assert "max_bytes_per_scope" in refused["error"]["message"]
            # Once there are too many, nothing more is taken on for this caller, whatever it is.
            assert "result" in await read(bob, f"raincheck://tasks/{other}/result")
            assert (await bob.status(other))["status"] == "completed"
        finally:
            for reader in readers:
                reader.close()
        async with asyncio.timeout(PATIENCE):
            while "error" in await read(ada, page):
                await asyncio.sleep(0.05)


async def test_a_driver_waits_where_the_pages_of_a_large_result_come_too_fast(tmp_path: Path) -> None:
    polling = {"calls_per_second": 8, "call_burst": 4}
    settings = Settings.model_validate({"state": {"url": str(tmp_path / "tasks.db")}, "polling": polling})

    async def report() -> str:
        return "x" * (7 * MIB + 1)

    server, rc = make_server(settings, {"report": python_operation(report, operation_type="report", description="")})
    async with rc.running(), Client(server) as client:
        assert len((await TaskPoller().run(client, "report")).value) == 7 * MIB + 1


async def test_answers_on_sse_count_until_they_are_written(tmp_path: Path, client: httpx2.AsyncClient) -> None:
    limits = f"[limits]\nmax_bytes_per_scope = {4 * MIB}\n"
    async with workplace_of(tmp_path, limits).http(transport="sse", env=ENVIRONMENT) as server:
        async with over_sse(client, server.url, ADA) as ada:
            arguments = {"operation_type": "report", "parameters": {"size": MIB}}
            ticket = await ada.ask("tools/call", name="initiate_background_task", arguments=arguments)
            ref = ticket["result"]["structuredContent"]["task_ref"]
            await ada.ask("tools/call", name="resolve_task_status", arguments={"task_ref": ref, "wait_seconds": 10})
        async with client.stream("GET", server.url, headers=bearer(ADA)) as stream:
            lines = stream.aiter_lines()
            while not (line := await anext(lines)).startswith("data:"):
                pass
            endpoint = server.url.removesuffix("/sse") + line[5:].strip()

            async def post(message: dict[str, Any]) -> None:
                assert (await client.post(endpoint, json=message, headers=bearer(ADA))).status_code == 202

            await post(opening())
            await post({"jsonrpc": "2.0", "method": "notifications/initialized"})
            for number in range(40):
                params = {"uri": f"raincheck://tasks/{ref}/result"}
                await post({"jsonrpc": "2.0", "id": 100 + number, "method": "resources/read", "params": params})
            answers: list[dict[str, Any]] = []
            async with asyncio.timeout(PATIENCE):
                while len(answers) < 40:
                    if (line := await anext(lines)).startswith("data: {") and json.loads(line[6:]).get("id", 0) >= 100:
                        answers.append(json.loads(line[6:]))
        refused = [each for each in answers if "error" in each]
        assert refused
        for each in refused:
            assert_refused(each)
