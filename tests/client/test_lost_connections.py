"""Requests and answers get lost, servers die and come back, answers make no sense: the work is done once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from client.office import Office
from client.proxy import BAD_GATEWAY, GARBAGE, LOSE_ANSWER, LOSE_REQUEST, Fault, Proxy
from mcp import Client

from raincheck.client import (
    BadAnswer,
    ConnectionLost,
    PollingPolicy,
    ReconnectingSession,
    TaskHandle,
    TaskPoller,
    TasksExtension,
    TaskView,
    connect,
    steady_http,
    transports,
)
from raincheck.config.sections.auth import hash_token
from support.serving import HttpServer

POLLER = TaskPoller()
TOKEN = "the-token-that-is-right"
SUBMIT, STATUS = "initiate_background_task", "resolve_task_status"


@pytest.fixture
async def session(proxy: Proxy) -> AsyncGenerator[ReconnectingSession]:
    async with connect(proxy.url) as over_proxy:
        yield over_proxy


@pytest.mark.parametrize("fault", [LOSE_REQUEST, LOSE_ANSWER, GARBAGE, BAD_GATEWAY])
@pytest.mark.parametrize("where", [SUBMIT, STATUS])
async def test_whatever_is_lost_on_the_way_the_work_is_done_once(
    where: str, fault: Fault, office: Office, proxy: Proxy, session: ReconnectingSession
) -> None:
    proxy.next(where, fault, fault)
    result = await POLLER.run(session, "quick", {"word": "rain"})
    assert result.value == {"word": "rain"}
    assert proxy.names().count(where) == 3
    assert office.starts("quick") == 1


@pytest.mark.parametrize(
    "payload",
    [
        {"content": []},
        {"content": [{"type": "text", "text": "<html>"}]},
        {"content": [], "structuredContent": {"task_ref": "another", "status": "completed", "result": 1}},
        {"content": [], "structuredContent": {"status": "sideways"}},
    ],
)
async def test_a_status_that_makes_no_sense_is_asked_for_again_and_then_said(
    payload: dict[str, Any], proxy: Proxy, session: ReconnectingSession
) -> None:
    handle = await POLLER.submit(session, "quick", {"word": "rain"})
    proxy.results[STATUS] = [{"resultType": "complete", **payload}]
    assert (await POLLER.resume(session, handle)).value == {"word": "rain"}

    proxy.results[STATUS] = [{"resultType": "complete", **payload}] * 2
    with pytest.raises(BadAnswer) as bad:
        await TaskPoller(PollingPolicy(call_retries=1)).resume(session, handle)
    assert bad.value.handle == handle


async def test_a_server_that_stays_away_ends_the_wait_with_the_handle(http: HttpServer) -> None:
    async with connect(http.url, outage_seconds=0.5) as session:
        handle = await POLLER.submit(session, "gated", {"name": "never"})
        await http.kill()
        with pytest.raises(ConnectionLost) as lost:
            await POLLER.resume(session, handle)
        assert any(handle.task_ref in note for note in lost.value.__notes__)


async def test_a_wrong_address_is_said_at_once() -> None:
    told = r"^http://127\.0\.0\.1:9/mcp does not answer: no answer from the server \(ConnectError\)$"
    with pytest.raises(ConnectionLost, match=told):
        async with asyncio.timeout(5), connect("http://me:password@127.0.0.1:9/mcp?key=1"):
            pass


@pytest.fixture
async def closed(office: Office) -> AsyncGenerator[HttpServer]:
    """A server that wants a token."""
    file = office.place.folder / "raincheck.toml"
    file.write_text(f'{file.read_text()}\n[server.auth.tokens]\nada = "{hash_token(TOKEN)}"\n')
    async with office.place.http() as server:
        yield server


async def test_a_token_that_is_not_accepted_is_one_error_at_once_in_a_script_too(
    office: Office, closed: HttpServer
) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    with pytest.raises(ConnectionLost) as refused:
        async with connect(closed.url, headers=wrong):
            pass
    assert refused.value.message == f"{closed.url}: 401: the token is not accepted"
    assert not refused.value.retryable

    script = f"from raincheck.client.sync import connect\nwith connect({closed.url!r}, headers={wrong}): pass"
    program = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stderr=asyncio.subprocess.PIPE)
    _, shown = await program.communicate()
    lines = shown.decode().splitlines()
    assert lines[-1] == f"raincheck.client.errors.ConnectionLost: {refused.value.message}"
    assert shown.count(b"Traceback") == 1
    assert b"ExceptionGroup" not in shown


async def test_a_token_that_is_not_accepted_any_more_ends_the_next_call(closed: HttpServer) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    connector = transports.connector(closed.url, headers=headers)
    tokens = [connector, transports.connector(closed.url, headers={"Authorization": "Bearer wrong"})]
    async with ReconnectingSession(lambda: tokens.pop(0)()) as session:
        handle = await POLLER.submit(session, "gated", {"name": "never"})
        await session._drop(session._connection)  # pyright: ignore[reportPrivateUsage, reportArgumentType]
        with pytest.raises(ConnectionLost, match="401: the token is not accepted"):
            await POLLER.resume(session, handle)


async def test_a_session_that_gives_up_before_the_hold_is_over_is_polled_instead(
    office: Office, http: HttpServer
) -> None:
    async with Client(http.url, read_timeout_seconds=0.5) as impatient:
        holds: list[float | None] = []

        class Watched:
            async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
                if name == STATUS:
                    holds.append(arguments.get("wait_seconds"))
                    if len(holds) == 3:
                        office.open_gate("a")
                return await impatient.call_tool(name, arguments)

        result = await POLLER.run(Watched(), "gated", {"name": "a"})
    assert result.value == {"gate": "a"}
    assert holds[0] == 20
    assert set(holds[1:]) == {None}


async def test_handle_tools_that_know_no_wait_seconds_are_polled_instead(
    office: Office, proxy: Proxy, session: ReconnectingSession
) -> None:
    refused = {"error": {"code": "invalid_parameters", "message": "no parameter 'wait_seconds'", "retryable": False}}
    answer: dict[str, Any] = {"resultType": "complete", "content": [], "structuredContent": refused, "isError": True}
    # With `detail` and without: which of the two is not known there is not said in a way that programs read.
    proxy.results[STATUS] = [answer, answer]
    assert (await POLLER.run(session, "quick", {"word": "rain"})).value == {"word": "rain"}
    asked = [message["params"]["arguments"] for name, _, message in proxy.seen if name == STATUS]
    assert ["wait_seconds" in arguments for arguments in asked] == [True, True, False]


async def test_a_stdio_server_that_dies_is_started_again(office: Office) -> None:
    async with office.stdio() as session:
        assert (await POLLER.run(session, "fall")).value == "up again"
    assert office.starts("fall") == 2


async def test_the_poller_goes_on_when_its_server_was_killed_and_started_again(office: Office) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(office.place.http())
        session = await stack.enter_async_context(connect(server.url))
        seen = asyncio.Event()

        def tell(view: TaskView) -> None:
            if view.progress is not None:
                seen.set()

        run = asyncio.create_task(POLLER.run(session, "gated", {"name": "a"}, on_progress=tell))
        await asyncio.wait_for(seen.wait(), 5)
        await server.kill()
        await stack.enter_async_context(office.place.http(port=server.port))
        office.open_gate("a")
        assert (await asyncio.wait_for(run, 20)).value == {"gate": "a"}
    assert office.starts("gated") == 2


async def test_call_tool_goes_on_when_its_server_was_killed_and_started_again(office: Office) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(office.place.http())
        submitted: asyncio.Future[TaskHandle] = asyncio.get_running_loop().create_future()
        driver = TasksExtension(on_submitted=submitted.set_result)
        agent = await stack.enter_async_context(Client(steady_http(server.url), extensions=[driver]))
        call = asyncio.create_task(agent.call_tool("gated", {"name": "a"}))
        await asyncio.wait_for(submitted, 5)
        await server.kill()
        await stack.enter_async_context(office.place.http(port=server.port))
        office.open_gate("a")
        result = await asyncio.wait_for(call, 20)
        assert result.structured_content == {"gate": "a"}


async def test_a_lost_call_of_a_tool_is_not_repeated_and_leaves_the_client_usable(proxy: Proxy) -> None:
    async with Client(steady_http(proxy.url), extensions=[TasksExtension()]) as agent:
        proxy.next("quick", LOSE_ANSWER)
        with pytest.raises(Exception, match="no answer"):
            await agent.call_tool("quick", {"word": "rain"})
        assert (await agent.call_tool("quick", {"word": "sun"})).structured_content == {"word": "sun"}
    assert proxy.names().count("quick") == 2


@pytest.mark.parametrize("fault", [LOSE_REQUEST, LOSE_ANSWER, GARBAGE, BAD_GATEWAY])
async def test_whatever_is_lost_of_tasks_get_call_tool_goes_on(fault: Fault, office: Office, proxy: Proxy) -> None:
    office.open_gate("a")
    async with Client(steady_http(proxy.url), extensions=[TasksExtension()]) as agent:
        proxy.next("tasks/get", fault, fault)
        result = await agent.call_tool("gated", {"name": "a"})
    assert result.structured_content == {"gate": "a"}
    assert office.starts("gated") == 1
