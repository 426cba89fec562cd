"""A user is asked by the host while a call waits: once, before any model, and without a second task."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ElicitResult, Implementation, InputRequiredResult, TextContent

from raincheck.config.settings import Settings
from raincheck.domain.task import TaskStatus
from raincheck.mcp.sdk_host import Raincheck
from raincheck.mcp.server.handle_fast_path import shorten
from raincheck.mcp.server.http_app import http_app
from raincheck.mcp.surfaces import client_elicitation, host_elicitation
from raincheck.operations.context import TaskContext
from raincheck.tasks.views import OPERATOR
from support.waiting import PATIENCE

COLOUR = {"type": "object", "properties": {"colour": {"type": "string"}}}
Asked = Callable[[Any, Any], Awaitable[Any]]


class User:
    """Answers the dialogs of a host, and keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.asked: list[str] = []
        self.thinks: asyncio.Event | None = None
        self._answers = itertools.cycle(answers or [ElicitResult(action="accept", content={"colour": "blue"})])

    async def __call__(self, context: Any, params: Any) -> Any:
        self.asked.append(params.message)
        if self.thinks is not None:
            await self.thinks.wait()
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Place:
    """A server with operations that ask, and clients of it.

    Attributes:
        runs: The operations that were begun.
    """

    def __init__(self, rc: Raincheck, server: MCPServer[Any], where: Any) -> None:
        self.rc, self.server, self.where = rc, server, where
        self.runs: list[str] = []
        self._stack = AsyncExitStack()

    def client(self, mode: str, user: User | None) -> Client:
        host = Implementation(name="a-host", version="1")
        return Client(self.where, mode=mode, elicitation_callback=user, client_info=host)

    async def tasks(self) -> list[Any]:
        return list(await (await self.rc.started()).registry.list(scope=OPERATOR))

    async def reaches(self, task_ref: str, status: TaskStatus) -> Any:
        registry = (await self.rc.started()).registry
        async with asyncio.timeout(PATIENCE):
            while (task := await registry.get(task_ref, scope=OPERATOR)).status is not status:
                await asyncio.sleep(0.01)
        return task

    def dialogs(self) -> int:
        """What is kept of open dialogs and rounds."""
        surfaces = self.rc._surfaces  # pyright: ignore[reportPrivateUsage]
        assert surfaces is not None
        elicitation = surfaces.elicitation
        return len(elicitation._dialogs) + len(elicitation._rounds)  # pyright: ignore[reportPrivateUsage]


def _declare(rc: Raincheck, runs: list[str]) -> None:
    @rc.operation(mode="task")
    async def paint(context: TaskContext) -> Any:
        runs.append("paint")
        answer = await context.elicit("Which colour?", COLOUR)
        return answer.get("content", {}).get("colour") or answer["action"]

    @rc.operation(inline_wait_seconds=3)
    async def paint_soon(wall: str, context: TaskContext) -> Any:
        runs.append("paint_soon")
        answer = await context.elicit("Which colour?", COLOUR)
        return f"{wall}: {answer.get('content', {}).get('colour')}"

    @rc.operation(without_tasks="wait")
    async def paint_now(context: TaskContext) -> Any:
        runs.append("paint_now")
        first = await context.elicit("Which colour?", COLOUR)
        second = await context.elicit("Really?", COLOUR)
        return [first["action"], second["action"]]

    @rc.operation(mode="task", answer_by="user")
    async def remove(context: TaskContext) -> Any:
        runs.append("remove")
        return (await context.elicit("Remove all?", COLOUR))["action"]

    @rc.operation(inline_wait_seconds=3)
    async def interrogate(context: TaskContext) -> int:
        for number in range(12):
            await context.elicit(f"Question {number}?", COLOUR)
        return 12


@pytest.fixture(params=["memory", "shortened", "http"])
async def place(make_raincheck: Callable[..., Raincheck], request: pytest.FixtureRequest) -> AsyncGenerator[Place]:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)
    place = Place(rc, server, server)
    _declare(rc, place.runs)
    if request.param == "shortened":
        shorten(server, rc)
    async with rc.running():
        if request.param != "http":
            yield place
            return
        async with _over_http(server) as place.where:
            yield place


@asynccontextmanager
async def _over_http(server: MCPServer[Any]) -> AsyncGenerator[str]:
    app = http_app(server, host="127.0.0.1")
    web = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="on"))
    serving = asyncio.create_task(web.serve())
    async with asyncio.timeout(PATIENCE):
        while not web.started:
            await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}/mcp"
    finally:
        web.should_exit = True
        await serving


@pytest.fixture(params=["legacy", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


async def _ok(client: Client, tool: str, **arguments: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return result.structured_content


async def test_a_held_status_has_the_user_asked_and_then_waits_for_the_end(place: Place, mode: str) -> None:
    user = User()
    async with place.client(mode, user) as client:
        ticket = await _ok(client, "paint")
        status = await _ok(client, "resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=10)
    assert (status["status"], status["result"]) == ("completed", "blue")
    assert user.asked == ["Which colour?"]
    assert place.runs == ["paint"]
    assert place.dialogs() == 0


async def test_an_inline_wait_has_the_user_asked_and_makes_one_task(place: Place, mode: str) -> None:
    user = User()
    async with place.client(mode, user) as client:
        result = await client.call_tool("paint_soon", {"wall": "north"})
    assert result.content[0].text == "north: blue"  # pyright: ignore
    assert user.asked == ["Which colour?"]
    assert len(await place.tasks()) == 1
    assert place.runs == ["paint_soon"]


async def test_a_call_that_waits_for_its_end_asks_one_question_after_the_other(place: Place, mode: str) -> None:
    user = User(ElicitResult(action="accept", content={}), ElicitResult(action="decline"))
    async with place.client(mode, user) as client:
        result = await client.call_tool("paint_now", {})
    assert result.content[0].text == '["accept","decline"]'  # pyright: ignore
    assert user.asked == ["Which colour?", "Really?"]
    assert len(await place.tasks()) == 1


async def test_a_user_who_declines_has_answered(place: Place, mode: str) -> None:
    user = User(ElicitResult(action="decline"))
    async with place.client(mode, user) as client:
        ticket = await _ok(client, "paint")
        status = await _ok(client, "resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=10)
    assert (status["result"], len(user.asked)) == ("decline", 1)


async def test_a_dialog_that_is_closed_leaves_the_question_to_whoever_may_answer(place: Place, mode: str) -> None:
    """So do hosts without a user (`claude -p`, `codex exec`): they declare elicitation, and cancel every dialog."""
    user = User(*[ElicitResult(action="cancel")] * 3)
    async with place.client(mode, user) as client:
        ref = (await _ok(client, "paint"))["task_ref"]
        given: dict[str, Any] = {}
        for _ in range(2):
            status = await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=10)
            assert (status["status"], len(user.asked)) == ("input_required", 1)
            assert status["next_step"].startswith("Ask the user, then call provide_task_input")
            given = {str(key): {"action": "accept", "content": {"colour": "red"}} for key in status["input_requests"]}
        await _ok(client, "provide_task_input", task_ref=ref, responses=given)
        assert (await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=10))["result"] == "red"


async def test_a_dialog_that_is_closed_has_answered_what_only_the_user_may_answer(place: Place, mode: str) -> None:
    user = User(ElicitResult(action="cancel"))
    async with place.client(mode, user) as client:
        ref = (await _ok(client, "remove"))["task_ref"]
        status = await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=10)
    assert (status["status"], len(user.asked)) == ("completed", 1)


async def test_a_dialog_that_is_closed_has_answered_a_call_that_waits_to_the_end(place: Place, mode: str) -> None:
    user = User(ElicitResult(action="cancel"), ElicitResult(action="decline"))
    async with place.client(mode, user) as client:
        result = await client.call_tool("paint_now", {})
    assert text_of(result) == '["cancel","decline"]'


async def test_a_client_without_elicitation_is_told_to_ask_itself(place: Place, mode: str) -> None:
    async with place.client(mode, None) as client:
        ticket = await _ok(client, "paint")
        ref = ticket["task_ref"]
        status = await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=10)
        assert status["status"] == "input_required"
        assert status["next_step"].startswith("Ask the user, then call provide_task_input")
        (key,) = status["input_requests"]
        given = {key: {"action": "accept", "content": {"colour": "red"}}}
        await _ok(client, "provide_task_input", task_ref=ref, responses=given)
        assert (await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=10))["result"] == "red"


async def test_nobody_is_asked_by_a_status_that_waits_for_nothing(place: Place, mode: str) -> None:
    user = User()
    async with place.client(mode, user) as client:
        ticket = await _ok(client, "paint")
        await place.reaches(ticket["task_ref"], TaskStatus.INPUT_REQUIRED)
        status = await _ok(client, "resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=0)
    assert (status["status"], user.asked) == ("input_required", [])


# Only the user.


async def test_what_only_the_user_may_answer_is_refused_from_a_model(place: Place, mode: str) -> None:
    async with place.client(mode, None) as client:
        ref = (await _ok(client, "remove"))["task_ref"]
        await place.reaches(ref, TaskStatus.INPUT_REQUIRED)
        began = asyncio.get_running_loop().time()
        status = await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=0.5)
        # A model that can do nothing is not to ask in a loop.
        assert asyncio.get_running_loop().time() - began > 0.4
        assert status["next_step"].startswith("Only the user may answer, in a client that can ask them")
        (key,) = status["input_requests"]
        for keys in ({key: {"action": "accept"}}, {"9-9": {"action": "accept"}}):
            result = await client.call_tool("provide_task_input", {"task_ref": ref, "responses": keys})
            assert result.is_error
            error = result.structured_content["error"]
            assert error["code"] == "invalid_parameters"
            assert error["message"].startswith("Only the user may answer this")
        assert (await place.reaches(ref, TaskStatus.INPUT_REQUIRED)).outstanding


async def test_what_only_the_user_may_answer_is_answered_through_the_host(place: Place, mode: str) -> None:
    user = User()
    async with place.client(mode, user) as client:
        ref = (await _ok(client, "remove"))["task_ref"]
        await place.reaches(ref, TaskStatus.INPUT_REQUIRED)
        looked = await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=0)
        assert looked["next_step"].startswith("Only the user may answer. Call resolve_task_status")
        assert (await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=10))["result"] == "accept"
    assert len(user.asked) == 1


async def test_tasks_of_operations_that_are_gone_may_be_answered_by_anyone(place: Place) -> None:
    registry = (await place.rc.started()).registry
    assert (registry.answer_by("remove"), registry.answer_by("paint"), registry.answer_by("gone")) == (
        "user",
        "anyone",
        "anyone",
    )


# Dialogs that take long (2025-11-25 and older).


async def test_a_wait_that_ends_before_the_user_has_answered_leaves_the_dialog_open(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_elicitation, "_UNKNOWN_PATIENCE", 0.3)
    user = User()
    user.thinks = asyncio.Event()
    async with place.client("legacy", user) as client:
        ref = (await _ok(client, "paint"))["task_ref"]
        for _ in range(3):
            status = await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=0.2)
            assert status["status"] == "input_required"
            assert status["next_step"].startswith("The user is being asked")
        # The model polls on: there is one dialog.
        assert user.asked == ["Which colour?"]
        user.thinks.set()
        assert (await place.reaches(ref, TaskStatus.COMPLETED)).outcome.value == "blue"
        assert user.asked == ["Which colour?"]
        async with asyncio.timeout(PATIENCE):
            while place.dialogs():
                await asyncio.sleep(0.01)


async def test_a_user_may_think_for_longer_than_the_answer_is_held(place: Place) -> None:
    user = User()
    user.thinks = asyncio.Event()
    async with place.client("legacy", user) as client:
        ref = (await _ok(client, "paint"))["task_ref"]
        asking = asyncio.create_task(_ok(client, "resolve_task_status", task_ref=ref, wait_seconds=0.5))
        await asyncio.sleep(1.0)
        assert not asking.done()
        user.thinks.set()
        assert (await asking)["result"] == "blue"


async def test_a_dialog_ends_with_its_question(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_elicitation, "_UNKNOWN_PATIENCE", 0.3)
    user = User()
    user.thinks = asyncio.Event()
    async with place.client("legacy", user) as client:
        ref = (await _ok(client, "paint"))["task_ref"]
        await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=0.2)
        assert place.dialogs() == 1
        given = {"1-1": {"action": "accept", "content": {"colour": "red"}}}
        await _ok(client, "provide_task_input", task_ref=ref, responses=given)
        assert (await place.reaches(ref, TaskStatus.COMPLETED)).outcome.value == "red"
        async with asyncio.timeout(PATIENCE):
            while place.dialogs():
                await asyncio.sleep(0.01)


async def test_the_dialogs_of_one_caller_are_bounded_and_further_questions_stay_open(
    make_raincheck: Callable[..., Raincheck], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_elicitation, "_UNKNOWN_PATIENCE", 0.3)
    monkeypatch.setattr(host_elicitation, "_MOST_DIALOGS", 2)
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)
    place = Place(rc, server, server)
    _declare(rc, place.runs)
    user = User()
    user.thinks = asyncio.Event()
    async with rc.running(), place.client("legacy", user) as client:
        for number in range(4):
            ref = (await _ok(client, "paint"))["task_ref"]
            await place.reaches(ref, TaskStatus.INPUT_REQUIRED)
            status = await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=0.2)
            asked = status["next_step"].startswith("The user is being asked")
            assert (status["status"], asked, place.dialogs()) == ("input_required", number < 2, min(number + 1, 2))
        user.thinks.set()


async def test_of_the_questions_that_were_put_only_the_last_ones_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_elicitation, "_MOST_REMEMBERED", 3)
    timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
    for number in range(5):
        host_elicitation._remember(timers, (f"task {number}", "1-1"), 3600)  # pyright: ignore[reportPrivateUsage]
    assert [ref for ref, _ in timers] == ["task 2", "task 3", "task 4"]
    for timer in timers.values():
        timer.cancel()


async def test_a_client_that_cannot_ask_after_all_leaves_the_question_to_others(place: Place) -> None:
    user = User(MCPError(-32603, "no window"))
    async with place.client("legacy", user) as client:
        ref = (await _ok(client, "paint"))["task_ref"]
        status = await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=5)
        assert (status["status"], len(user.asked)) == ("input_required", 1)
        assert status["next_step"].startswith("Ask the user")


async def test_dialogs_end_with_the_service(make_raincheck: Callable[..., Raincheck]) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc])
    place = Place(rc, server, server)
    _declare(rc, place.runs)
    user = User()
    user.thinks = asyncio.Event()
    async with place.client("legacy", user) as client:
        async with rc.running():
            ref = (await _ok(client, "paint"))["task_ref"]
            call = asyncio.create_task(_ok(client, "resolve_task_status", task_ref=ref, wait_seconds=5))
            async with asyncio.timeout(PATIENCE):
                while not place.dialogs():
                    await asyncio.sleep(0.01)
        await asyncio.gather(call, return_exceptions=True)
        assert not [each for each in asyncio.all_tasks() if each.get_name() == "raincheck-dialog"]


# Rounds (2026-07-28).


def text_of(result: CallToolResult) -> str:
    """The one text of a tool result."""
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def _first_round(client: Client, tool: str, **arguments: Any) -> tuple[str, InputRequiredResult]:
    asked = await client.session.call_tool(tool, arguments, allow_input_required=True)
    assert isinstance(asked, InputRequiredResult), asked
    assert asked.input_requests is not None
    (key,) = asked.input_requests
    return key, asked


BLUE: Any = {"action": "accept", "content": {"colour": "blue"}}


async def test_the_repeated_call_is_the_same_task_and_no_other_calls(place: Place) -> None:
    async with place.client("auto", User()) as client:
        key, _ = await _first_round(client, "paint_soon", wall="north")
        # Neither with other parameters nor by another operation, and never as a new task.
        for tool, arguments in (("paint_soon", {"wall": "south"}), ("paint_now", {})):
            result = await client.session.call_tool(tool, arguments, input_responses={key: BLUE})
            assert result.is_error
            assert "another call" in str(result.content)
        unknown = await client.session.call_tool("paint_soon", {"wall": "north"}, input_responses={f"x{key}": BLUE})
        assert unknown.structured_content["error"]["code"] == "task_not_found"
        assert len(await place.tasks()) == 1
        done = await client.session.call_tool("paint_soon", {"wall": "north"}, input_responses={key: BLUE})
        assert text_of(done) == "north: blue"
        # Sent again, it is still the same.
        again = await client.session.call_tool("paint_soon", {"wall": "north"}, input_responses={key: BLUE})
        assert text_of(again) == "north: blue"
    assert (place.runs, len(await place.tasks())) == (["paint_soon"], 1)


async def test_a_question_stands_in_one_answer_only_until_nothing_comes_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_elicitation, "_ROUND_SECONDS", 1.0)
    async with place.client("auto", User()) as client:
        ref = (await _ok(client, "paint"))["task_ref"]
        await _first_round(client, "resolve_task_status", task_ref=ref, wait_seconds=5)
        parallel = await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=0.3)
        assert parallel["next_step"].startswith("The user is being asked")
        await asyncio.sleep(1.0)
        await _first_round(client, "resolve_task_status", task_ref=ref, wait_seconds=5)


async def test_an_operation_with_many_questions_does_not_exhaust_the_rounds_of_a_call(place: Place) -> None:
    user = User()
    async with place.client("auto", user) as client:
        ticket = await _ok(client, "interrogate")
        assert len(user.asked) == client_elicitation._MOST_ROUNDS  # pyright: ignore[reportPrivateUsage]
        status = await _ok(client, "resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=10)
    assert (status["result"], len(user.asked)) == (12, 12)
    assert len(await place.tasks()) == 1


@pytest.mark.parametrize("responses", [{"nonsense": BLUE}, {"a.b": BLUE}, {"a.x.1-1": BLUE}, {"0-x": BLUE}])
async def test_responses_that_are_none_of_ours_are_passed_over(place: Place, responses: Any) -> None:
    async with place.client("auto", User()) as client:
        result = await client.session.call_tool(
            "paint_soon", {"wall": "west"}, input_responses=responses, allow_input_required=True
        )
    assert isinstance(result, InputRequiredResult)
    assert len(await place.tasks()) == 1


async def test_the_patience_of_a_known_client_bounds_a_dialog(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"polling": {"patience": {"a-host": 1}}, "execution": {"lease_seconds": 1, "drain_seconds": 0}}
    )
    rc = Raincheck(store=tmp_path / "tasks.db", settings=settings)
    server = MCPServer[Any]("test", extensions=[rc])
    place = Place(rc, server, server)
    _declare(rc, place.runs)
    user = User()
    user.thinks = asyncio.Event()
    async with rc.running(), place.client("legacy", user) as client:
        ref = (await _ok(client, "paint"))["task_ref"]
        began = asyncio.get_running_loop().time()
        status = await _ok(client, "resolve_task_status", task_ref=ref)
        assert 0.5 < asyncio.get_running_loop().time() - began < 1.0
        assert status["status"] == "input_required"
