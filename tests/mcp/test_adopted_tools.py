"""Tools that `tools=` names: what the server took without raincheck is taken with it, and reaches them the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from pydantic import BaseModel, BeforeValidator, Field

from raincheck.cli.check import warnings
from raincheck.config.settings import Settings
from raincheck.errors import InvalidParameters
from raincheck.mcp.name_patterns import naming_none
from raincheck.mcp.sdk_host import Raincheck
from raincheck.operations.operation import Policy
from raincheck.operations.own_checks import OwnChecks
from raincheck.operations.validation import LARGE_BYTES
from raincheck.tasks.views import OPERATOR
from support.checked_tools import at, by_re, count, letters, numbers, once, price, sure
from support.in_process import Peer, in_memory

Make = Callable[..., Raincheck]


class Page(BaseModel):
    number: int


class User(BaseModel):
    user: str


def _broken(value: Any) -> Any:
    raise RuntimeError(f"a check of the user's that is broken: {value}")


def page(page: Page, also: int | str = 0) -> str:
    return repr((page, also))


def broken(value: Annotated[int, BeforeValidator(_broken)]) -> str:
    return repr(value)


TOOLS = (count, numbers, sure, at, once, price, letters, by_re, page, broken)
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("count", {"n": "3"}),
    ("count", {"n": 3.0}),
    ("count", {"n": "3 apples"}),
    ("count", {"n": 3, "unknown": 1}),
    ("count", {}),
    ("numbers", {"numbers": "[1, 2]"}),
    ("numbers", {"numbers": ["1", "2"]}),
    ("numbers", {"numbers": "1, 2"}),
    ("sure", {"sure": "yes"}),
    ("sure", {"sure": 1}),
    ("sure", {"sure": "perhaps"}),
    ("at", {"at": 1_700_000_000}),
    ("at", {"at": "2026-11-30"}),
    ("at", {"at": "soon"}),
    ("once", {"once": [1, 1, "1"]}),
    ("price", {"price": 19.99}),
    ("price", {"price": 19.995}),
    ("letters", {"text": "été"}),
    ("letters", {"text": "1"}),
    ("by_re", {"text": "aB\n"}),
    ("by_re", {"text": "a1"}),
    ("page", {"page": '{"number": "4"}', "also": "5"}),
    ("page", {"page": {"number": 4, "more": True}}),
    ("page", {"page": None}),
    ("broken", {"value": 1}),
]


def server_of(rc: Raincheck | None) -> MCPServer[Any]:
    server = MCPServer[Any]("test", extensions=[] if rc is None else [rc])
    for tool in TOOLS:
        server.add_tool(tool)
    return server


async def outcomes(server: MCPServer[Any]) -> list[tuple[bool, str]]:
    """Of each call whether it failed, and what the function saw."""
    async with Client(server) as client:
        answers = [await client.call_tool(name, arguments) for name, arguments in CALLS]
    return [(bool(each.is_error), "" if each.is_error else each.content[0].text) for each in answers]  # pyright: ignore


async def test_the_same_arguments_have_the_same_outcome_with_and_without_raincheck(make_raincheck: Make) -> None:
    rc = make_raincheck(tools="*", policy=Policy(without_tasks="wait"))
    plain = await outcomes(server_of(None))
    async with rc.running():
        ours = await outcomes(server_of(rc))
    assert dict(zip(map(json.dumps, CALLS), ours, strict=True)) == dict(zip(map(json.dumps, CALLS), plain, strict=True))


async def test_what_the_tool_refuses_makes_no_task_and_is_told_in_one_line(make_raincheck: Make) -> None:
    rc = make_raincheck(tools="*")
    async with rc.running() as registry, Client(server_of(rc)) as client:
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("count", {"n": "x"}),
            ("count", {}),
            ("page", {"page": {"number": ""}}),
        ]
        for name, arguments in wrong:
            answer = (await client.call_tool(name, arguments)).structured_content
            assert answer is not None
            assert answer["error"]["code"] == "invalid_parameters", answer
            assert "\n" not in answer["error"]["message"]
        assert not await registry.list(scope=OPERATOR)


class Tree(BaseModel):
    children: list[Tree | Page] = []
    other: dict[str, Tree | Page] = {}


Costly = Annotated[str, Field(pattern=re.compile(r"^(a+)+$"))]


def by_costly(x: Costly) -> None: ...
def by_looking_ahead(x: Annotated[str, Field(pattern=re.compile("(?=a)b"))]) -> None: ...
def whole(x: set[int]) -> None: ...


def checks_of(function: Callable[..., Any]) -> OwnChecks:
    """As of the SDK's tools."""
    from mcp.server.mcpserver.tools import Tool

    made = Tool.from_function(function)
    model = made.fn_metadata.arg_model
    core_schema, read = model.__pydantic_core_schema__, made.fn_metadata.pre_parse_json
    return OwnChecks(made.name, made.parameters, model.model_validate, core_schema, read)


ALIKE = [i * (2**61 - 1) for i in range(3000)]


@pytest.mark.parametrize(
    ("function", "value", "told"),
    [
        (by_costly, "a" * 60 + "!", "should match pattern"),
        (whole, ALIKE, "more than 100 numbers with the same hash"),
        # What the host reads from a text is as costly.
        (whole, json.dumps(ALIKE), "more than 100 numbers with the same hash"),
        (whole, "[" * 100 + "]" * 100, "nested too deeply"),
        (count, ["x"] * 300_000, "valid integer"),
        (numbers, ["x"] * 300_000, "and 99997 more|and 7 more"),
    ],
)
def test_a_caller_cannot_make_the_check_costly(function: Callable[..., Any], value: Any, told: str) -> None:
    name = next(iter(function.__annotations__))
    began = time.process_time()
    with pytest.raises(Exception, match=told) as refused:
        checks_of(function).validate({name: value})
    assert time.process_time() - began < 4
    assert len(str(refused.value)) < 700


def test_a_pattern_that_cannot_be_matched_in_linear_time_is_left_to_the_tool(caplog: pytest.LogCaptureFixture) -> None:
    assert checks_of(by_looking_ahead).validate({"x": "anything"}) == {"x": "anything"}
    assert "is left to the tool to check" in caplog.text


def checks_of_pattern(pattern: re.Pattern[str]) -> OwnChecks:
    def tool(x: str) -> None: ...

    tool.__annotations__["x"] = Annotated[str, Field(pattern=pattern)]
    return checks_of(tool)


@pytest.mark.parametrize("pattern", ["^a$|^b$", "(?:^a$|b$)", "^(a|b)$", r"^\\$", "^[a$]", "a+b", "^[^]$]"])
def test_what_the_tool_takes_by_its_pattern_is_accepted(pattern: str) -> None:
    checks = checks_of_pattern(re.compile(pattern))
    for value in ("a", "a\n", "b", "b\n", "\\", "\\\n", "xxab"):
        if re.search(pattern, value):
            assert checks.validate({"x": value}) == {"x": value}


def test_what_a_pattern_of_ascii_refuses_makes_no_task() -> None:
    with pytest.raises(InvalidParameters, match="should match pattern"):
        checks_of_pattern(re.compile(r"^\w+$", re.ASCII)).validate({"x": "ä"})


CHECKED_IN: list[str] = []


def recorded(value: Any) -> Any:
    CHECKED_IN.append(threading.current_thread().name)
    return value


def large(text: Annotated[str, BeforeValidator(recorded)]) -> int:
    return len(text)


async def test_large_arguments_are_checked_off_the_loop(make_raincheck: Make) -> None:
    rc = make_raincheck(tools="large", policy=Policy(without_tasks="wait"))
    server = MCPServer[Any]("test", extensions=[rc])
    server.add_tool(large)
    async with rc.running(), Client(server) as client:
        assert not (await client.call_tool("large", {"text": "x" * (LARGE_BYTES + 1)})).is_error
    assert CHECKED_IN[0].startswith("raincheck-validation")


# How long they run.


@pytest.mark.parametrize("own", [None, 0.2])
async def test_a_tool_has_no_timeout_but_its_deadline_unless_a_policy_says_one(
    make_raincheck: Make, own: float | None
) -> None:
    rc = make_raincheck(tools="slow", policy=None if own is None else Policy(timeout_seconds=own))
    server = MCPServer[Any]("test", extensions=[rc])

    @server.tool()
    async def slow() -> str:
        return "done"

    @rc.operation
    async def declared() -> str:
        return "done"

    async with rc.running():
        policy = rc.operations["slow"].policy
        assert policy.timeout_seconds == own
        assert policy.attempt_seconds == (own or policy.max_wait_ceiling_seconds)
        assert rc.operations["declared"].policy.timeout_seconds == (own or 120)


def test_a_tool_without_a_timeout_may_run_as_long_as_its_deadline_whatever_callers_may_ask_for() -> None:
    policy = Policy(max_wait_ceiling_seconds=600)
    assert policy.attempt_seconds == policy.default_max_wait_seconds == 3600


@pytest.mark.parametrize(
    ("annotations", "policy", "retryable"),
    [
        (None, {}, False),
        (ToolAnnotations(read_only_hint=True), {}, True),
        (ToolAnnotations(idempotent_hint=True), {}, True),
        (ToolAnnotations(destructive_hint=False), {}, False),
        (None, {"on_worker_lost": "retry"}, True),
    ],
)
async def test_a_timeout_invites_to_call_again_where_that_is_declared_harmless(
    make_raincheck: Make,
    caplog: pytest.LogCaptureFixture,
    annotations: ToolAnnotations | None,
    policy: dict[str, Any],
    retryable: bool,
) -> None:
    rc = make_raincheck(tools="slow", policy=Policy(timeout_seconds=0.1, without_tasks="wait", **policy))
    server = MCPServer[Any]("test", extensions=[rc])

    @server.tool(annotations=annotations)
    async def slow() -> str:
        await asyncio.sleep(60)
        return "done"

    async with rc.running() as registry, Client(server) as client:
        assert (await client.call_tool("slow")).is_error
        (summary,) = await registry.list(scope=OPERATOR)
        task = await registry.get(summary.task_ref, scope=OPERATOR)
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert (task.outcome.error.code, task.outcome.error.retryable) == ("timeout", retryable)
    (warned,) = [each for each in caplog.records if "raise its timeout_seconds" in each.getMessage()]
    assert warned.levelno == logging.WARNING
    assert warned.__dict__["task_ref"] == task.task_ref


async def test_a_result_that_comes_after_the_timeout_is_told_and_nothing_starts_beside_its_thread(
    make_raincheck: Make, caplog: pytest.LogCaptureFixture
) -> None:
    at_work: list[int] = []
    beside: list[int] = []
    policy = Policy(timeout_seconds=0.3, retry_attempts=1, without_tasks="wait")
    rc = make_raincheck(tools="slow", policy=policy)
    server = MCPServer[Any]("test", extensions=[rc])
    first = True

    @server.tool()
    def slow() -> str:
        nonlocal first
        beside.extend(at_work)
        at_work.append(1)
        if first:
            first = False
            time.sleep(1.5)
        at_work.pop()
        return "x" * 1000

    async with rc.running(), Client(server) as client:
        assert not (await client.call_tool("slow")).is_error
    assert beside == []
    assert "returned after it was told to stop: its result is thrown away (1002 bytes as JSON)" in caplog.text


@asynccontextmanager
async def cancelled_in_process(server: MCPServer[Any], rc: Raincheck, began: threading.Event) -> AsyncGenerator[None]:
    async with rc.running(), Client(server) as client:
        call = asyncio.create_task(client.call_tool("slow"))
        assert await asyncio.to_thread(began.wait, 20)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        yield


@asynccontextmanager
async def cancelled_on_the_wire(server: MCPServer[Any], rc: Raincheck, began: threading.Event) -> AsyncGenerator[None]:
    async with in_memory(server, rc) as channel:
        peer = await Peer(channel, modern=False).connect()
        await channel.tell({"jsonrpc": "2.0", "id": "a call", "method": "tools/call", "params": {"name": "slow"}})
        assert await asyncio.to_thread(began.wait, 20)
        cancel = {"requestId": "a call", "reason": "changed my mind"}
        await channel.tell({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel})
        await peer.send("tools/list", {})  # it has been heard of by then
        yield


@pytest.mark.parametrize("cancelled", [cancelled_in_process, cancelled_on_the_wire])
async def test_a_result_that_comes_after_an_inline_call_was_cancelled_is_told(
    make_raincheck: Make, caplog: pytest.LogCaptureFixture, cancelled: Callable[..., Any]
) -> None:
    rc = make_raincheck(tools="slow", policy=Policy(mode="inline"))
    server = MCPServer[Any]("test", extensions=[rc])
    began, go_on = threading.Event(), threading.Event()

    @server.tool()
    def slow() -> str:
        began.set()
        go_on.wait(20)
        return "x" * 1000

    async with cancelled(server, rc, began), asyncio.timeout(30):
        go_on.set()
        while "its result is thrown away (1002 bytes as JSON)" not in caplog.text:
            await asyncio.sleep(0.02)


async def test_tools_that_run_as_tasks_leave_threads_to_the_others(make_raincheck: Make) -> None:
    rc = make_raincheck(tools="slow", policy=Policy(mode="task"))
    server = MCPServer[Any]("test", extensions=[rc])
    go_on, at_work = threading.Event(), threading.Semaphore(0)

    @server.tool()
    def slow() -> str:
        at_work.release()
        go_on.wait(30)
        return "done"

    @server.tool()
    def quick() -> str:
        return "at once"

    async with rc.running(), Client(server) as client, asyncio.timeout(30):
        try:
            for _ in range(45):
                await client.call_tool("slow")
            for _ in range(45):
                assert await asyncio.to_thread(at_work.acquire, timeout=20)
            assert not (await client.call_tool("quick")).is_error
        finally:
            go_on.set()


# Patterns that name nothing.


def test_a_pattern_that_names_no_tool_is_told_with_the_near_miss() -> None:
    names = {"slow_report", "slow_summary", "quick", "Archive"}
    assert naming_none(["slow_*", "quick", "*report", "[aA]rchive"], names) == {}
    told = naming_none(["slwo_*", "slow_reprot", "archive", "zzz"], names)
    said = "tools = 'slwo_*' names no tool of this server; did you mean slow_report, slow_summary?"
    assert told["slwo_*"] == said
    assert "did you mean slow_report?" in told["slow_reprot"]
    assert "did you mean Archive?" in told["archive"]
    assert told["zzz"].endswith("; there are: Archive, quick, slow_report, slow_summary")
    assert naming_none([""], []) == {"": "tools = '' names no tool of this server: it has none"}


async def test_a_server_whose_pattern_names_no_tool_says_so_once_when_it_starts(
    make_raincheck: Make, caplog: pytest.LogCaptureFixture
) -> None:
    rc = make_raincheck(tools=["slwo_*", "co*"])
    async with rc.running(), Client(server_of(rc)) as client:
        await client.list_tools()
    assert caplog.text.count("tools = 'slwo_*' names no tool of this server") == 1
    assert "'co*'" not in caplog.text


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("token", "user"), ""),
        (("tokne",), "secrets names 'tokne', which is no parameter and no member of the result; did you mean token?"),
        (("zzz",), "there are: token, user"),
    ],
)
def test_a_secret_that_names_nothing_is_told_where_it_is_declared(
    make_raincheck: Make, caplog: pytest.LogCaptureFixture, names: tuple[str, ...], told: str
) -> None:
    rc = make_raincheck()

    @rc.operation(secrets=names)
    def sign_in(token: str) -> User:
        return User(user=token)

    @rc.operation(secrets=("anything",))
    def free(token: str) -> dict[str, Any]:
        return {"anything": token}

    warned = warnings(Settings(), rc.operations)
    assert [each for each in warned if "secrets names" in each] == [each.getMessage() for each in caplog.records]
    assert told in caplog.text
    assert bool(told) is bool(caplog.records)
