"""Slips of models are taken where they can mean one thing only."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer

from raincheck.errors import InvalidParameters
from raincheck.mcp.sdk_host import Raincheck
from raincheck.mcp.server.handle_fast_path import shorten
from raincheck.operations.context import TaskContext
from raincheck.operations.schema import ParameterSchema


@pytest.fixture(params=["legacy", "auto", "shortened"])
async def client(make_raincheck: Callable[..., Raincheck], request: pytest.FixtureRequest) -> AsyncGenerator[Any]:
    rc = make_raincheck(tools="slow_*")
    server = MCPServer[Any]("test", extensions=[rc])

    @server.tool()
    async def slow_add(
        number: int, factor: float = 1.0, exact: bool = False, text: str = "", code: int | str = 0
    ) -> Any:
        return json.dumps([number, factor, exact, text, code])

    @rc.operation
    async def add(number: int, factor: float = 1.0) -> list[Any]:
        return [number, factor]

    @rc.operation(mode="task")
    async def ask(context: TaskContext) -> Any:
        return (await context.elicit("Which?", {"type": "object"}))["action"]

    if request.param == "shortened":
        shorten(server, rc)
    mode = "auto" if request.param == "shortened" else request.param

    async def call(tool: str, **arguments: Any) -> tuple[Any, bool]:
        async with Client(server, mode=mode) as connected:
            result = await connected.call_tool(tool, arguments)
            return result.structured_content or result.content[0].text, bool(result.is_error)  # pyright: ignore

    async with rc.running():
        yield call


async def _ok(client: Any, tool: str, **arguments: Any) -> Any:
    answer, is_error = await client(tool, **arguments)
    assert not is_error, answer
    return answer


async def _refused(client: Any, tool: str, **arguments: Any) -> str:
    answer, is_error = await client(tool, **arguments)
    assert is_error, answer
    assert answer["error"]["code"] == "invalid_parameters"
    return answer["error"]["message"]


async def test_parameters_as_json_text_and_null_for_what_may_be_left_out(client: Any) -> None:
    ticket = await _ok(
        client,
        "initiate_background_task",
        operation_type="add",
        parameters='{"number": 3}',
        max_wait_seconds="60",
        idempotency_key=None,
        callback_url=None,
        detail="full",
    )
    ref = ticket["task_ref"]
    done = await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds="5", after=12, result_offset=None)
    assert done["result"] == [3, 1.0]


@pytest.mark.parametrize("form", [" {} ", '"{}"', "`{}`", "<{}>", "'{}'\n", ' `"{}"` '])
async def test_a_task_ref_with_something_around_it(client: Any, form: str) -> None:
    ref = (await _ok(client, "ask"))["task_ref"]
    status = await _ok(client, "cancel_background_task", task_ref=form.format(ref))
    assert status["task_ref"] == ref


async def test_responses_as_json_text(client: Any) -> None:
    for form in ('{"1-1": {"action": "accept"}}', {"1-1": '{"action": "accept"}'}):
        ref = (await _ok(client, "ask"))["task_ref"]
        await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=5)
        await _ok(client, "provide_task_input", task_ref=ref, responses=form)
        assert (await _ok(client, "resolve_task_status", task_ref=ref, wait_seconds=5))["result"] == "accept"


@pytest.mark.parametrize("limit", ["5", 5.0, " 5 ", None])
async def test_numbers_as_text(client: Any, limit: Any) -> None:
    assert await _ok(client, "list_background_tasks", limit=limit) == {"tasks": []}


@pytest.mark.parametrize("wrong", ["soon", "", "25 s", "1e400", "NaN", "0x10", "1_000", "٣", "9" * 5000, [], True])
async def test_what_is_no_number_is_refused(client: Any, wrong: Any) -> None:
    assert "wait_seconds" in await _refused(client, "resolve_task_status", task_ref="x", wait_seconds=wrong)
    assert "limit" in await _refused(client, "list_background_tasks", limit=wrong)


@pytest.mark.parametrize("wrong", ["", "null", "[1]", '"{}"', "{", "number=3", '{"a": NaN}', "[" * 100_000])
async def test_text_that_is_no_object_is_refused(client: Any, wrong: str) -> None:
    told = await _refused(client, "initiate_background_task", operation_type="add", parameters=wrong)
    assert told.startswith("parameters must be a JSON object")


@pytest.mark.parametrize("wrong", ["", "''", "` `", None, 5])
async def test_a_task_ref_that_is_none_is_refused(client: Any, wrong: Any) -> None:
    assert "task_ref" in await _refused(client, "resolve_task_status", task_ref=wrong)


# Operations' own parameters.


async def test_an_adopted_tool_takes_what_its_host_would_have_taken(client: Any) -> None:
    given = {"number": "5", "factor": "2.5", "exact": "true", "text": "7", "code": "8"}
    answer = await _ok(client, "slow_add", **given)
    # A parameter that may be a text stays one.
    assert json.loads(answer if isinstance(answer, str) else answer["result"]) == [5, 2.5, True, "7", "8"]
    assert "number" in await _refused(client, "slow_add", number="5 apples")


async def test_text_and_number_are_the_same_call_under_one_key(client: Any) -> None:
    for operation in ("add", "slow_add"):
        refs = {
            (
                await _ok(
                    client,
                    "initiate_background_task",
                    operation_type=operation,
                    parameters={"number": number},
                    idempotency_key=f"k-{operation}",
                )
            )["task_ref"]
            for number in (5, "5")
        }
        assert len(refs) == 1


SCHEMA = {
    "properties": {
        "whole": {"type": "integer", "maximum": 100},
        "number": {"type": "number"},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "listed": {"type": ["number", "null"]},
        "either": {"anyOf": [{"type": "integer"}, {"type": "number"}]},
        "both": {"type": ["integer", "string"]},
        "sure": {"type": "boolean"},
        "any": {},
        "inside": {"type": "object", "properties": {"whole": {"type": "integer"}}},
    }
}


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("whole", "5", 5),
        ("whole", "-5", -5),
        ("whole", "5.0", 5),
        ("number", "2.5", 2.5),
        ("number", "1e3", 1000.0),
        ("number", "2", 2),
        ("maybe", "5", 5),
        ("listed", "5", 5),
        ("sure", "true", True),
        ("sure", "false", False),
        ("both", "5", "5"),
        ("any", "5", "5"),
    ],
)
def test_a_text_is_taken_as_what_the_schema_declares(name: str, given: str, taken: Any) -> None:
    found = ParameterSchema(SCHEMA, "op").validate({name: given})[name]
    assert (found, type(found)) == (taken, type(taken))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("whole", "5.5"),
        ("whole", "1e2"),
        ("whole", "500"),
        ("whole", ""),
        ("whole", " 5"),
        ("whole", "05"),
        ("whole", "+5"),
        ("whole", "5 apples"),
        ("number", "1e400"),
        ("number", "inf"),
        ("number", ".5"),
        ("either", "5"),
        ("sure", "yes"),
        ("sure", "1"),
        ("sure", "True"),
        ("inside", {"whole": "5"}),
        ("inside", "{}"),
        ("number", True),
    ],
)
def test_what_is_ambiguous_or_no_number_is_refused(name: str, given: Any) -> None:
    with pytest.raises(InvalidParameters, match=name):
        ParameterSchema(SCHEMA, "op").validate({name: given})
