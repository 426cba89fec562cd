"""The handle tools as a client of the official SDK sees them, to the letter of design.md §4."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer

from raincheck.mcp.sdk_host import Raincheck
from raincheck.mcp.server.handle_fast_path import shorten
from raincheck.mcp.surfaces.handle_definitions import HANDLE_TOOLS
from raincheck.operations.context import TaskContext
from support.waiting import PATIENCE

FULL_TICKET = {
    *("task_ref", "status", "operation_type", "deduplicated", "created_at", "deadline_at", "poll_after_seconds"),
    "next_step",
}
FULL_STATUS = {
    *("task_ref", "operation_type", "status", "terminal", "created_at", "updated_at", "deadline_at", "progress"),
    *("poll_after_seconds", "result", "error"),
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Caller:
    """Calls tools and hands back `(structured, is_error)`, having checked that the text says the same."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, tool: str, **arguments: Any) -> tuple[dict[str, Any], bool]:
        result = await self.client.call_tool(tool, arguments)
        assert json.loads(result.content[0].text) == result.structured_content  # pyright: ignore
        return result.structured_content, result.is_error

    async def ok(self, tool: str, **arguments: Any) -> dict[str, Any]:
        payload, is_error = await self(tool, **arguments)
        assert not is_error, payload
        return payload

    async def error(self, tool: str, **arguments: Any) -> dict[str, Any]:
        payload, is_error = await self(tool, **arguments)
        assert is_error, payload
        assert set(payload["error"]) == {"code", "message", "retryable", "details"}
        return payload["error"]


@pytest.fixture
def release() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture(params=["legacy", "auto", "shortened"])
async def call(
    make_raincheck: Callable[..., Raincheck], release: asyncio.Event, request: pytest.FixtureRequest
) -> AsyncIterator[Caller]:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @rc.operation
    async def report(quarter: int, context: TaskContext) -> dict[str, Any]:
        """Build the quarterly report."""
        await context.progress(0.4, "page 4 of 10")
        await release.wait()
        return {"quarter": quarter, "pages": 10}

    @rc.operation(timeout_seconds=0.1)
    async def endless() -> None:
        await asyncio.sleep(60)

    @rc.operation
    def nothing() -> None: ...

    @rc.operation
    async def ask(context: TaskContext) -> Any:
        return await context.elicit("Which colour?", {"type": "object", "properties": {"colour": {"type": "string"}}})

    mode = request.param
    if mode == "shortened":  # the same answers by the short way of `raincheck serve`
        shorten(server, rc)
        mode = "auto"
    ready: asyncio.Future[Caller] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def connected() -> None:
        # The client must be left by the task that entered it, which a fixture's two halves need not share.
        async with Client(server, mode=mode) as client:
            ready.set_result(Caller(client))
            await done.wait()

    connection = asyncio.create_task(connected())
    yield await ready
    release.set()
    done.set()
    await connection


async def begun(call: Caller) -> str:
    """The task_ref of a report that has told its progress and goes on."""
    ticket = await call.ok("initiate_background_task", operation_type="report", parameters={"quarter": 3})
    ref: str = ticket["task_ref"]
    async with asyncio.timeout(PATIENCE):
        while "progress" not in await call.ok("resolve_task_status", task_ref=ref, wait_seconds=0):
            pass
    return ref


async def test_the_ticket_says_what_a_model_needs_and_no_more(call: Caller) -> None:
    ticket = await call.ok("initiate_background_task", operation_type="report", parameters={"quarter": 3})
    assert set(ticket) == {"task_ref", "status", "operation_type", "next_step"}
    assert ticket["status"] == "queued"
    assert ticket["operation_type"] == "report"
    assert "resolve_task_status" in ticket["next_step"]
    assert len(ticket["task_ref"]) >= 22  # 128 bits in base64


async def test_the_full_ticket_has_the_members_that_the_contract_names(call: Caller) -> None:
    given = {"operation_type": "report", "parameters": {"quarter": 3}, "detail": "full"}
    ticket = await call.ok("initiate_background_task", **given)
    assert set(ticket) == FULL_TICKET
    assert ticket["status"] == "queued"
    assert ticket["deduplicated"] is False
    assert ticket["poll_after_seconds"] == 1.0
    assert TIME.fullmatch(ticket["created_at"])
    assert TIME.fullmatch(ticket["deadline_at"])


async def test_a_task_goes_from_ticket_to_result(call: Caller, release: asyncio.Event) -> None:
    ref = await begun(call)
    status = await call.ok("resolve_task_status", task_ref=ref, wait_seconds=0)
    assert set(status) == {"task_ref", "status", "progress", "after", "next_step"}
    assert status["status"] == "processing"
    assert status["progress"] == {"fraction": 0.4, "message": "page 4 of 10"}
    release.set()
    status = await call.ok("resolve_task_status", task_ref=ref, wait_seconds=5)
    assert status == {"task_ref": ref, "status": "completed", "result": {"quarter": 3, "pages": 10}}


async def test_the_full_status_has_the_members_that_the_contract_names(call: Caller, release: asyncio.Event) -> None:
    ref = await begun(call)
    status = await call.ok("resolve_task_status", task_ref=ref, wait_seconds=0, detail="full")
    assert set(status) == FULL_STATUS | {"after", "next_step"}
    assert (status["status"], status["terminal"]) == ("processing", False)
    assert (status["result"], status["error"]) == (None, None)
    release.set()
    status = await call.ok("resolve_task_status", task_ref=ref, wait_seconds=5, detail="full")
    assert set(status) == FULL_STATUS
    assert (status["status"], status["terminal"]) == ("completed", True)
    assert status["result"] == {"quarter": 3, "pages": 10}
    assert (status["error"], status["poll_after_seconds"]) == (None, None)


async def test_five_answers_in_a_row_have_five_different_after(call: Caller) -> None:
    ref = await begun(call)
    told: list[str] = []
    for _ in range(5):
        given = {"after": told[-1]} if told else {}
        answer = await call.ok("resolve_task_status", task_ref=ref, wait_seconds=0.01, **given)
        assert "this after" in answer["next_step"]
        told.append(answer["after"])
    assert len(set(told)) == 5


@pytest.mark.parametrize("after", ["stale", "", "0"])
async def test_any_after_will_do(call: Caller, after: str) -> None:
    answer = await call.ok("resolve_task_status", task_ref=await begun(call), wait_seconds=0, after=after)
    assert answer["status"] == "processing"


async def test_every_answer_that_is_not_the_end_has_one_next_step_and_is_short(call: Caller) -> None:
    waiting = await begun(call)
    ticket = await call.ok("initiate_background_task", operation_type="ask")
    asking = await call.ok("resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=5)
    for answer in (
        ticket,
        asking,
        await call.ok("resolve_task_status", task_ref=waiting),
        await call.ok("resolve_task_status", task_ref=waiting, wait_seconds=0),
        await call.ok("resolve_task_status", task_ref=waiting, wait_seconds=0, detail="full"),
    ):
        step = answer["next_step"]
        assert len(re.findall(r"[Cc]all (\w+)", step)) == 1
        assert ("provide_task_input" in step) == (answer is asking)
        if "progress" in answer:
            # Without its message, and with a number of two digits: none is longer.
            short = {**answer, "progress": {"fraction": 0.45}}
            assert "terminal" in answer or len(json.dumps(short, separators=(",", ":"))) <= 170


async def test_a_failed_task_is_a_successful_answer_about_a_failed_task(call: Caller) -> None:
    ticket = await call.ok("initiate_background_task", operation_type="endless")
    status = await call.ok("resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=5)
    assert set(status) == {"task_ref", "status", "error"}
    assert status["status"] == "failed"
    assert set(status["error"]) == {"code", "message", "retryable", "details"}
    assert status["error"]["code"] == "timeout"
    assert status["error"]["details"]["limit"] == "timeout"
    full = await call.ok("resolve_task_status", task_ref=ticket["task_ref"], detail="full")
    assert (full["terminal"], full["result"], full["error"]) == (True, None, status["error"])


async def test_a_result_of_null_stands_in_the_answer(call: Caller) -> None:
    ticket = await call.ok("initiate_background_task", operation_type="nothing")
    status = await call.ok("resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=5)
    assert status == {"task_ref": ticket["task_ref"], "status": "completed", "result": None}


async def test_a_key_used_again_gives_the_same_task_and_its_present_status(call: Caller) -> None:
    given = {"operation_type": "report", "parameters": {"quarter": 1}, "idempotency_key": "Q1"}
    first = await call.ok("initiate_background_task", **given)
    await call.ok("cancel_background_task", task_ref=first["task_ref"])
    second = await call.ok("initiate_background_task", **given)
    assert second["task_ref"] == first["task_ref"]
    assert (second["deduplicated"], second["status"]) == (True, "cancelled")
    error = await call.error("initiate_background_task", **{**given, "parameters": {"quarter": 2}})
    assert error["code"] == "idempotency_conflict"


async def test_cancelling_is_idempotent_and_answers_with_the_status(call: Caller) -> None:
    ticket = await call.ok("initiate_background_task", operation_type="report", parameters={"quarter": 3})
    first = await call.ok("cancel_background_task", task_ref=ticket["task_ref"])
    second = await call.ok("cancel_background_task", task_ref=ticket["task_ref"])
    assert first == second == {"task_ref": ticket["task_ref"], "status": "cancelled", "result": None}
    full = await call.ok("cancel_background_task", task_ref=ticket["task_ref"], detail="full")
    assert set(full) == FULL_STATUS
    assert (full["status"], full["terminal"], full["result"], full["error"]) == ("cancelled", True, None, None)


async def test_a_task_that_asks_gets_its_answer(call: Caller) -> None:
    ticket = await call.ok("initiate_background_task", operation_type="ask")
    status = await call.ok("resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=5)
    assert status["status"] == "input_required"
    ((key, request),) = status["input_requests"].items()
    assert request["method"] == "elicitation/create"
    assert request["params"]["message"] == "Which colour?"
    answer = {"action": "accept", "content": {"colour": "green"}}
    assert "provide_task_input" in status["next_step"]
    given = {"task_ref": ticket["task_ref"], "responses": {key: answer}, "detail": "full"}
    answered = await call.ok("provide_task_input", **given)
    assert "terminal" in answered
    assert answered["terminal"] or "resolve_task_status" in answered["next_step"]
    status = await call.ok("resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=5)
    assert status["result"] == answer


async def test_null_is_taken_for_every_argument_that_may_be_left_out(call: Caller) -> None:
    ref = (await call.ok("initiate_background_task", operation_type="report", parameters={"quarter": 3}))["task_ref"]
    given: dict[str, Any] = {"operation_type": "nothing", "task_ref": ref, "responses": {}}
    for tool in HANDLE_TOOLS:
        optional = dict.fromkeys({*tool.properties, *tool.unlisted} - set(tool.required) - {"wait_seconds"})
        held = {"wait_seconds": 0} if "wait_seconds" in tool.properties else {}
        assert await call.ok(tool.name, **optional, **held, **{name: given[name] for name in tool.required})
    assert (await call.ok("list_background_tasks", limit=None, status=None))["tasks"]


async def test_a_lost_ticket_is_found_in_the_list(call: Caller) -> None:
    ticket = await call.ok("initiate_background_task", operation_type="report", parameters={"quarter": 3})
    await call.ok("initiate_background_task", operation_type="ask")
    listed = (await call.ok("list_background_tasks", limit=10))["tasks"]
    assert [task["operation_type"] for task in listed] == ["ask", "report"]
    assert listed[1]["task_ref"] == ticket["task_ref"]
    await call.ok("cancel_background_task", task_ref=ticket["task_ref"])
    cancelled = (await call.ok("list_background_tasks", status="cancelled"))["tasks"]
    assert [task["task_ref"] for task in cancelled] == [ticket["task_ref"]]


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("initiate_background_task", {}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "repotr"}, "unknown_operation"),
        ("initiate_background_task", {"operation_type": "report"}, "invalid_parameters"),
        (
            "initiate_background_task",
            {"operation_type": "report", "parameters": {"quarter": "x"}},
            "invalid_parameters",
        ),
        ("initiate_background_task", {"operation_type": "report", "parameters": {"q": 1}}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "report", "parameters": [1]}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": 7}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "ask", "max_wait_seconds": 0}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "ask", "max_wait_seconds": -5}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "ask", "max_wait_seconds": 1e15}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "ask", "max_wait_seconds": "ten"}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "ask", "max_wait_seconds": True}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "ask", "idempotency_key": ""}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "ask", "idempotency_key": 5}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "ask", "surprise": 5}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "ask", "parameters": {"x": "y" * 2**21}}, "payload_too_large"),
        ("resolve_task_status", {}, "invalid_parameters"),
        ("resolve_task_status", {"task_ref": "unknown"}, "task_not_found"),
        ("resolve_task_status", {"task_ref": ""}, "invalid_parameters"),
        ("resolve_task_status", {"task_ref": None}, "invalid_parameters"),
        ("resolve_task_status", {"task_ref": "\0" * 5000}, "task_not_found"),
        ("resolve_task_status", {"task_ref": "x", "wait_seconds": -1}, "invalid_parameters"),
        ("resolve_task_status", {"task_ref": "x", "wait_seconds": "soon"}, "invalid_parameters"),
        ("resolve_task_status", {"task_ref": "x", "detail": "some"}, "invalid_parameters"),
        ("resolve_task_status", {"task_ref": "x", "detail": 3}, "invalid_parameters"),
        ("initiate_background_task", {"operation_type": "ask", "detail": "all"}, "invalid_parameters"),
        ("cancel_background_task", {"task_ref": "x", "detail": ["full"]}, "invalid_parameters"),
        ("provide_task_input", {"task_ref": "x", "responses": {}, "detail": "Full"}, "invalid_parameters"),
        ("list_background_tasks", {"detail": "full"}, "invalid_parameters"),
        ("cancel_background_task", {"task_ref": "unknown"}, "task_not_found"),
        ("provide_task_input", {"task_ref": "unknown", "responses": {}}, "task_not_found"),
        ("provide_task_input", {"task_ref": "unknown", "responses": {"a": 1}}, "invalid_parameters"),
        ("list_background_tasks", {"status": "sleeping"}, "invalid_parameters"),
        ("list_background_tasks", {"limit": 0}, "invalid_parameters"),
    ],
)
async def test_bad_input_gets_a_clear_error_and_leaves_no_trace(
    call: Caller, tool: str, arguments: dict[str, Any], code: str
) -> None:
    error = await call.error(tool, **arguments)
    assert error["code"] == code
    assert "\n" not in error["message"]
    assert len(error["message"]) < 500
    assert (await call.ok("list_background_tasks"))["tasks"] == []


async def test_the_handle_tools_are_listed_with_hints_and_are_short(call: Caller) -> None:
    tools = {tool.name: tool for tool in (await call.client.list_tools()).tools}
    assert {tool.name for tool in HANDLE_TOOLS} <= set(tools)
    for tool in HANDLE_TOOLS:
        shown = tools[tool.name]
        assert shown.input_schema == tool.input_schema()
        assert "detail" not in shown.input_schema["properties"]
        assert (shown.title, shown.output_schema) == (None, None)
        assert (shown.annotations is not None and bool(shown.annotations.read_only_hint)) is tool.read_only
    shown = [tools[tool.name].model_dump(by_alias=True, mode="json", exclude_none=True) for tool in HANDLE_TOOLS]
    # They stand in every conversation.
    assert len("".join(json.dumps(tool, separators=(",", ":"), ensure_ascii=False) for tool in shown).encode()) <= 1800


async def test_an_error_inside_tells_a_correlation_id_and_nothing_else(
    make_raincheck: Callable[..., Raincheck], caplog: pytest.LogCaptureFixture
) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @rc.operation
    async def quick() -> None: ...

    def broken(arguments: Any) -> Any:
        raise ZeroDivisionError("the secret inside")

    rc.operations["quick"].executor.validate = broken  # pyright: ignore
    async with Client(server) as client:
        error = await Caller(client).error("initiate_background_task", operation_type="quick")
    assert error["code"] == "internal"
    assert "secret" not in json.dumps(error)
    assert error["details"]["correlation_id"] in caplog.text
    assert "the secret inside" in caplog.text


async def test_the_short_way_answers_as_the_long_one(make_raincheck: Callable[..., Raincheck]) -> None:
    answers: list[dict[str, Any]] = []
    for short in (False, True):
        rc = make_raincheck()
        server = MCPServer[Any]("test", version="7", extensions=[rc], lifespan=rc.lifespan)
        if short:
            shorten(server, rc)
            rc.intercept_tool_call = None  # pyright: ignore[reportAttributeAccessIssue]  the long way's only door
        async with Client(server) as client:
            result = await client.call_tool("resolve_task_status", {"task_ref": "unknown"})
            answers.append(result.model_dump(by_alias=True, mode="json"))
    assert answers[0] == answers[1]
    assert answers[0]["_meta"]["io.modelcontextprotocol/serverInfo"]["version"] == "7"
