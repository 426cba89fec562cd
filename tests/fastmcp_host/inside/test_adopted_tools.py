"""Tools that `tools=` names on a FastMCP server: what it took without raincheck is taken with it, the same."""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import asyncio
import functools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.dependencies import Depends
from fastmcp.tools.function_tool import FunctionTool
from pydantic import BaseModel

from raincheck import Policy
from raincheck.fastmcp import Raincheck
from raincheck.tasks.views import OPERATOR
from support.checked_tools import at, by_re, count, letters, numbers, once, price, sure


class Page(BaseModel):
    number: int


class Office:
    def stamp(self, n: int) -> str:
        return repr(n)


def injected() -> str:
    return "injected"


async def page(page: Page, ctx: Context, by: str = Depends(injected)) -> str:
    return repr((page, by))


def pages(start: int) -> Iterator[int]:
    yield start


def add(a: int, b: int) -> str:
    return repr((a, b))


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("count", {"n": "3"}),
    ("count", {"n": "3 apples"}),
    ("count", {"n": 3, "unknown": 1}),
    ("count", {}),
    ("numbers", {"numbers": "[1, 2]"}),
    ("numbers", {"numbers": ["1", "2"]}),
    ("sure", {"sure": "yes"}),
    ("sure", {"sure": "perhaps"}),
    ("at", {"at": 1_700_000_000}),
    ("once", {"once": [1, 1, "1"]}),
    ("price", {"price": 19.99}),
    ("price", {"price": 19.995}),
    ("letters", {"text": "été"}),
    ("letters", {"text": "1"}),
    ("by_re", {"text": "aB\n"}),
    ("by_re", {"text": "a1"}),
    ("page", {"page": {"number": "4", "more": True}}),
    ("page", {"page": {"number": 4}, "by": "the caller"}),
    ("pages", {"start": "2"}),
    ("add_to_one", {"b": "2"}),
    ("add_to_one", {"a": 1, "b": 2}),
    ("stamp", {"n": "4"}),
    ("child_count", {"n": "3"}),
    ("child_count", {"n": "x"}),
]


def server_of(rc: Raincheck | None, *, strict: bool) -> FastMCP:
    server = FastMCP("test", strict_input_validation=strict)
    for tool in (count, numbers, sure, at, once, price, letters, by_re, page, pages, Office().stamp):
        server.tool(tool)
    server.add_tool(FunctionTool.from_function(functools.partial(add, 1), name="add_to_one"))
    child = FastMCP("child")
    child.tool(count)
    server.mount(child, "child")
    if rc is not None:
        server.add_extension(rc)
    return server


async def outcomes(server: FastMCP) -> dict[str, tuple[bool, str]]:
    """Of each call whether it failed, and what the function saw."""
    found: dict[str, tuple[bool, str]] = {}
    async with Client(server) as client:
        for name, arguments in CALLS:
            answer = await client.session.call_tool(name, arguments)
            text = "" if answer.is_error else answer.content[0].text
            found[f"{name} {json.dumps(arguments)}"] = (bool(answer.is_error), text)
    return found


@pytest.mark.parametrize("strict", [False, True])
async def test_the_same_arguments_have_the_same_outcome_with_and_without_raincheck(
    store: Path, *, strict: bool
) -> None:
    rc = Raincheck(tools="*", store=store, policy=Policy(without_tasks="wait"))
    assert await outcomes(server_of(rc, strict=strict)) == await outcomes(server_of(None, strict=strict))


async def test_what_the_tool_refuses_makes_no_task(store: Path) -> None:
    rc = Raincheck(tools="*", store=store)
    async with rc.running() as registry, Client(server_of(rc, strict=False)) as client:
        for name, arguments in [("count", {"n": "x"}), ("count", {}), ("by_re", {"text": "1"})]:
            answer = (await client.session.call_tool(name, arguments)).structured_content
            assert answer["error"]["code"] == "invalid_parameters"
            assert "\n" not in answer["error"]["message"]
        assert not await registry.list(scope=OPERATOR)


async def test_a_tool_runs_until_its_deadline_and_its_late_result_is_told(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rc = Raincheck(tools=["slow", "slwo_*"], store=store)
    server = FastMCP("test")
    server.add_extension(rc)
    began, go_on = threading.Event(), threading.Event()

    @server.tool
    def slow() -> str:
        began.set()
        go_on.wait(20)
        return "x" * 1000

    async with Client(server) as client:
        answer = await client.call_tool("initiate_background_task", {"operation_type": "slow", "max_wait_seconds": 1.5})
        ref = answer.structured_content["task_ref"]
        assert rc.operations["slow"].policy.timeout_seconds is None
        asked = {"task_ref": ref, "wait_seconds": 20, "detail": "full"}
        ended = (await client.call_tool("resolve_task_status", asked)).structured_content
        assert began.is_set()
        go_on.set()
        until = time.monotonic() + 20
        while "thrown away (1002 bytes as JSON)" not in caplog.text and time.monotonic() < until:
            await asyncio.sleep(0.05)
    assert (ended["error"]["code"], ended["error"]["retryable"]) == ("timeout", False)
    assert "thrown away (1002 bytes as JSON)" in caplog.text
    assert "default_max_wait_seconds of the operation" in caplog.text
    assert "tools = 'slwo_*' names no tool of this server; did you mean slow?" in caplog.text


async def test_what_a_tool_yields_is_work_of_its_thread_which_nothing_starts_beside(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy(timeout_seconds=0.3, retry_attempts=1, without_tasks="wait")
    rc = Raincheck(tools="slow_rows", store=store, policy=policy)
    server = FastMCP("test")
    server.add_extension(rc)
    at_work: list[int] = []
    beside: list[int] = []
    first = True

    @server.tool
    def slow_rows() -> Iterator[str]:
        nonlocal first
        beside.extend(at_work)
        at_work.append(1)
        if first:
            first = False
            time.sleep(1.5)
        at_work.pop()
        yield "x" * 1000

    async with Client(server) as client:
        assert (await client.call_tool("slow_rows")).content[0].text == json.dumps(["x" * 1000], separators=(",", ":"))
    assert beside == []
    assert "its result is thrown away (1004 bytes as JSON)" in caplog.text


async def test_tools_that_run_as_tasks_leave_threads_to_the_others(store: Path) -> None:
    rc = Raincheck(tools="slow", store=store, policy=Policy(mode="task"))
    server = FastMCP("test")
    server.add_extension(rc)
    go_on, at_work = threading.Event(), threading.Semaphore(0)

    @server.tool
    def slow() -> str:
        at_work.release()
        go_on.wait(30)
        return "done"

    @server.tool
    def quick() -> str:
        return "at once"

    async with Client(server) as client, asyncio.timeout(30):
        try:
            for _ in range(45):
                await client.call_tool("slow")
            for _ in range(45):
                assert await asyncio.to_thread(at_work.acquire, timeout=20)
            assert (await client.call_tool("quick")).data == "at once"
        finally:
            go_on.set()
