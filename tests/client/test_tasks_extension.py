"""The tasks extension behind the SDK's unchanged `call_tool` (A21 to A23)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from client.office import ACCEPT, Office
from client.proxy import Proxy
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CallToolResult, ElicitRequestParams, ElicitResult, ErrorData

from raincheck.client import (
    BadAnswer,
    PollingPolicy,
    TaskHandle,
    TasksExtension,
    TaskView,
    TaskWasCancelled,
    WaitTimedOut,
)
from raincheck.domain.task import InputRequest, TaskStatus
from raincheck.errors import TaskNotFound
from support.waiting import PATIENCE

TASKS = "io.modelcontextprotocol/tasks"


def text_of(result: CallToolResult) -> str:
    (block,) = result.content
    assert block.type == "text"
    return block.text


Opened = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(params=["stdio", "http"])
def agent_of(request: pytest.FixtureRequest, office: Office) -> Opened:
    @asynccontextmanager
    async def opened(driver: TasksExtension, **options: Any) -> AsyncGenerator[Client]:
        if request.param == "stdio":
            async with Client(office.stdio_parameters(), extensions=[driver], **options) as agent:
                yield agent
        else:
            async with (
                office.place.http() as server,
                Client(server.url, extensions=[driver], **options) as agent,
            ):
                yield agent

    return opened


async def test_call_tool_takes_either_result(agent_of: Opened, office: Office) -> None:
    handles: list[TaskHandle] = []
    office.open_gate("a")
    async with agent_of(TasksExtension(on_submitted=handles.append)) as agent:
        assert text_of(await agent.call_tool("hello")) == "good day"
        assert not handles
        result = await agent.call_tool("gated", {"name": "a"})
    assert result.structured_content == {"gate": "a"}
    assert [handle.operation_type for handle in handles] == ["gated"]


async def test_a_tool_that_reports_an_error_gives_its_result_as_ever(agent_of: Opened) -> None:
    async with agent_of(TasksExtension()) as agent:
        result = await agent.call_tool("fail")
    assert result.is_error
    assert result.structured_content is not None
    assert result.structured_content["error"]["message"] == "The printer has no paper."


async def test_progress_is_told_as_the_status_message_changes(agent_of: Opened, office: Office) -> None:
    told: list[str] = []

    def tell(view: TaskView) -> None:
        if view.progress is not None and not view.terminal:
            told.append(view.progress.message or "")
            office.open_gate(told[-1].split(": ")[-1])

    async with agent_of(TasksExtension(on_progress=tell)) as agent:
        await agent.call_tool("steps", {"names": ["one", "two"]})
    assert told == ["0%: one", "50%: two"]


async def test_the_clients_own_callback_answers_each_question_once(agent_of: Opened) -> None:
    asked: list[str] = []

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"amount": len(asked)})

    async with agent_of(TasksExtension(), elicitation_callback=answer) as agent:
        result = await agent.call_tool("ask")
    assert asked == ["How much?", "Sure?"]
    assert '"amount":1' in text_of(result)


async def test_a_callback_of_the_driver_answers_before_the_clients(agent_of: Opened) -> None:
    async def never(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        raise AssertionError("not asked")

    def answer(request: InputRequest) -> dict[str, Any]:
        return ACCEPT

    async with agent_of(TasksExtension(on_input=answer), elicitation_callback=never) as agent:
        assert not (await agent.call_tool("ask")).is_error


async def test_a_callback_that_refuses_ends_the_call_as_it_would_for_a_direct_request(agent_of: Opened) -> None:
    handles: list[TaskHandle] = []

    async def refuse(context: ClientRequestContext, params: ElicitRequestParams) -> ErrorData:
        return ErrorData(code=-1, message="nobody is here")

    driver = TasksExtension(on_submitted=handles.append)
    async with agent_of(driver, elicitation_callback=refuse) as agent:
        with pytest.raises(MCPError, match="nobody is here"):
            await agent.call_tool("ask")
        assert (await driver.status(agent, handles[0])).status is TaskStatus.INPUT_REQUIRED


async def test_cancel_ends_the_task_and_the_call_that_waits_for_it(agent_of: Opened) -> None:
    submitted: asyncio.Future[TaskHandle] = asyncio.get_running_loop().create_future()
    driver = TasksExtension(on_submitted=submitted.set_result)
    async with agent_of(driver) as agent:
        call = asyncio.create_task(agent.call_tool("gated", {"name": "never"}))
        handle = await asyncio.wait_for(submitted, PATIENCE)
        await driver.cancel(agent, handle)
        with pytest.raises(TaskWasCancelled) as cancelled:
            await asyncio.wait_for(call, PATIENCE)
        await driver.cancel(agent, handle.task_ref)
    assert cancelled.value.handle == handle


@pytest.mark.parametrize("bounds", [{"max_total_seconds": 0.2}, {"max_attempts": 2}])
async def test_a_call_that_reaches_the_bounds_leaves_the_task_running(
    bounds: dict[str, Any], agent_of: Opened, office: Office
) -> None:
    async with agent_of(TasksExtension(PollingPolicy(**bounds))) as agent:
        with pytest.raises(WaitTimedOut) as timed_out:
            await agent.call_tool("gated", {"name": "a"})
        handle = timed_out.value.handle
        assert handle is not None
        office.open_gate("a")
        result = await TasksExtension().resume(agent, handle.task_ref)
    assert result.structured_content == {"gate": "a"}
    assert office.starts("gated") == 1


async def test_a_cancelled_call_leaves_the_task_running(agent_of: Opened, office: Office) -> None:
    submitted: asyncio.Future[TaskHandle] = asyncio.get_running_loop().create_future()
    driver = TasksExtension(on_submitted=submitted.set_result)
    async with agent_of(driver) as agent:
        call = asyncio.create_task(agent.call_tool("gated", {"name": "a"}))
        handle = await asyncio.wait_for(submitted, PATIENCE)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not (await driver.status(agent, handle)).terminal
        office.open_gate("a")
        assert (await driver.resume(agent, handle)).structured_content == {"gate": "a"}


async def test_an_unknown_task_is_not_found(agent_of: Opened) -> None:
    driver = TasksExtension()
    async with agent_of(driver) as agent:
        with pytest.raises(TaskNotFound):
            await driver.resume(agent, "no-such-task")


async def test_every_request_declares_the_extension_and_every_task_request_names_its_task(
    proxy: Proxy,
) -> None:
    handles: list[TaskHandle] = []
    driver = TasksExtension(on_submitted=handles.append, on_input=lambda _: ACCEPT)
    async with Client(proxy.url, extensions=[driver]) as agent:
        await agent.call_tool("ask")
        await driver.cancel(agent, handles[0])
    for name, headers, message in proxy.seen:
        declared = message["params"]["_meta"][CLIENT_CAPABILITIES_META_KEY]["extensions"]
        assert declared[TASKS] == {}, name
        if name.startswith("tasks/"):
            assert headers["mcp-method"] == name
            assert headers["mcp-name"] == message["params"]["taskId"] == handles[0].task_ref
            assert ("inputResponses" in message["params"]) == (name == "tasks/update")
    assert {"tasks/get", "tasks/update", "tasks/cancel"} <= set(proxy.names())


class Scripted:
    """Calls an operation whose first answers of `tasks/get` are not the server's but these."""

    def __init__(self, proxy: Proxy, *answers: dict[str, Any], **options: Any) -> None:
        self.proxy = proxy
        self.answers = answers
        self.driver = TasksExtension(PollingPolicy(jitter=0, call_retries=1), on_submitted=self._script, **options)

    def _script(self, handle: TaskHandle) -> None:
        at = "2026-11-22T10:00:00Z"
        base = {
            "resultType": "complete",
            "taskId": handle.task_ref,
            "createdAt": at,
            "lastUpdatedAt": at,
            "ttlMs": None,
        }
        self.proxy.results["tasks/get"] = [{**base, **answer} for answer in self.answers]

    async def call(self) -> CallToolResult:
        outcome: CallToolResult | Exception
        async with Client(self.proxy.url, extensions=[self.driver]) as agent:
            try:
                outcome = await agent.call_tool("gated", {"name": "a"})
            except Exception as error:
                outcome = error  # the SDK's client would wrap it into a group on the way out
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_the_interval_that_the_server_gives_is_kept(proxy: Proxy, office: Office) -> None:
    office.open_gate("a")
    await Scripted(proxy, {"status": "working", "pollIntervalMs": 400}).call()
    first, second = (at for name, at in zip(proxy.names(), proxy.times, strict=True) if name == "tasks/get")
    assert second - first >= 0.4


async def test_a_failed_task_raises_the_error_that_the_call_would_have_raised(proxy: Proxy) -> None:
    error = {"code": -32050, "message": "out of order", "data": {"since": "noon"}}
    with pytest.raises(MCPError, match="out of order") as failure:
        await Scripted(proxy, {"status": "failed", "error": error, "statusMessage": "no"}).call()
    assert (failure.value.code, failure.value.data) == (-32050, {"since": "noon"})


async def test_a_question_that_is_shown_again_is_not_asked_again(proxy: Proxy, office: Office) -> None:
    office.open_gate("a")
    asked: list[str] = []

    def answer(request: InputRequest) -> dict[str, Any]:
        asked.append(request.key)
        return ACCEPT

    question = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {"type": "object"}}}
    first = {"status": "input_required", "inputRequests": {"one": question}}
    both = {"status": "input_required", "inputRequests": {"one": question, "two": question}}
    await Scripted(proxy, first, first, both, on_input=answer).call()
    assert asked == ["one", "two"]
    updates = [message["params"]["inputResponses"] for name, _, message in proxy.seen if name == "tasks/update"]
    assert updates == [{"one": ACCEPT}, {"one": ACCEPT}, {"one": ACCEPT, "two": ACCEPT}]


async def test_a_task_that_makes_no_sense_once_is_asked_for_again(proxy: Proxy, office: Office) -> None:
    office.open_gate("a")
    assert (await Scripted(proxy, {"status": "sideways"}).call()).structured_content == {"gate": "a"}


@pytest.mark.parametrize(
    "answers",
    [
        [{"status": "sideways"}, {"status": "sideways"}],
        [{"status": "working", "taskId": "another"}],
        [{"status": "completed"}],
        [{"status": "completed", "result": {"content": "text"}}],
        [{"status": "failed"}],
        [{"status": "input_required", "inputRequests": {"k": {"method": "mind/read", "params": {}}}}],
    ],
)
async def test_a_task_that_makes_no_sense_ends_the_call_and_says_which_it_was(
    answers: list[dict[str, Any]], proxy: Proxy
) -> None:
    with pytest.raises(BadAnswer) as bad:
        await Scripted(proxy, *answers).call()
    assert bad.value.handle is not None
