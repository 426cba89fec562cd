"""JSON of others: one bound of depth and of numbers wherever it comes in, and one line where it is passed."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operations.running import run

from raincheck.errors import InvalidParameters, OperationFailed, UpstreamError
from raincheck.operations.argument_repairs import object_of
from raincheck.operations.command.executor import command_operation
from raincheck.operations.http.client import Reply
from raincheck.operations.python.executor import python_operation
from raincheck.operations.untrusted_json import DEEPEST, BeyondBounds, NestedTooDeeply, NotJson, plain_json, read_json

HUGE = ["1e999", "-1E+400", "1" * 400, "-" + "9" * 309, "1" * 310 + ".0", "9" * 250 + "e99", "1" * 5000, "1e0000309"]
FITTING = [
    "1e308",
    "1e-999",
    "9" * 308,
    "0." + "1" * 400,
    "1e0000300",
    "-0.0",
    "1" * 200,
    '"1e999"',
    '"' + "7" * 400 + '"',
]


def deep(levels: int) -> Any:
    return functools.reduce(lambda inner, _: [inner], range(levels - 1), list[Any]())


def text_of(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("form", ["{}", '{{"a": [1.5, {}]}}'])
def test_a_number_beyond_a_double_is_refused(number: str, form: str) -> None:
    text = form.replace("{{", "{").replace("}}", "}").replace("{}", number) if "a" in form else number
    for given_text in (text, text.encode()):
        with pytest.raises(BeyondBounds, match=r"^a number beyond ±1\.8e308, "):
            read_json(given_text)


@pytest.mark.parametrize("number", FITTING)
def test_any_other_number_is_read(number: str) -> None:
    assert read_json(f"[{number}]") == json.loads(f"[{number}]")


def test_nesting_is_taken_up_to_its_bound() -> None:
    assert read_json(text_of(DEEPEST)) == deep(DEEPEST)
    beside = "[" + ",".join(["[]"] * 500) + "]"
    assert len(read_json(beside)) == 500
    assert read_json(json.dumps(["[" * 500])) == ["[" * 500]
    for text in (text_of(DEEPEST + 1), text_of(180), text_of(100_000), '{"a":' * 65 + "1" + "}" * 65):
        with pytest.raises(NestedTooDeeply, match=r"^nested too deeply; at most 64 levels are allowed$"):
            read_json(text)


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", "-Infinity", "[1,]", "'a'", b"\xff", "1 2"])
def test_what_is_no_json_is_told_in_one_short_line(text: str | bytes) -> None:
    with pytest.raises(NotJson) as refused:
        read_json(text)
    assert not isinstance(refused.value, BeyondBounds)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**300), 10**300) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(plain)
def test_every_other_value_is_read_as_it_was_written(value: Any) -> None:
    assert read_json(json.dumps(value)) == value
    assert plain_json(value)[0] == value


def test_parameters_name_what_is_at_fault() -> None:
    def take(first: Any = None, second: Any = None) -> None: ...

    executor = python_operation(take).executor
    assert executor.validate({"first": deep(DEEPEST - 1)})
    for value, why in ((deep(DEEPEST), "nested too deeply"), (10**400, "a number beyond"), (float("inf"), "infinity")):
        with pytest.raises(InvalidParameters, match=f"parameters of 'take': second: .*{why}"):
            executor.validate({"first": 1, "second": value})


async def test_a_result_nested_too_deeply_fails_with_one_line() -> None:
    def dig(levels: int) -> Any:
        return deep(levels)

    operation = python_operation(dig)
    assert await run(operation, levels=DEEPEST) == deep(DEEPEST)
    with pytest.raises(OperationFailed, match=r"that JSON cannot hold: nested too deeply; at most 64 levels"):
        await run(operation, levels=DEEPEST + 1)


async def test_a_commands_output_is_read_within_the_bounds() -> None:
    async def printed(text: str) -> Any:
        operation = command_operation(
            "say",
            argv=[sys.executable, "-c", "import sys; print(sys.argv[1])", "{text}"],
            parameters={"properties": {"text": {"enum": [text]}}},
            description="Say it.",
        )
        return await asyncio.wait_for(run(operation, text=text), 60)

    assert await printed('{"n": [1]}') == {"n": [1]}
    # What no JSON reader could read as a number stays a text: the work is done, and its output is not lost.
    assert await printed("1" * 400) == "1" * 400
    with pytest.raises(OperationFailed, match=r"the output of command .* is nested too deeply; at most 64 levels"):
        await printed(text_of(180))


def test_an_upstreams_answer_is_read_within_the_bounds() -> None:
    def answered(body: str) -> Any:
        headers = {"content-type": "application/json"}
        return Reply(host="api", status=200, headers=headers, body=body.encode()).value

    assert answered('{"n": 1e300}') == {"n": 1e300}
    for body, why in (
        (text_of(180), "nested too deeply"),
        ('{"n": 1e999}', "a number beyond"),
        ("1" * 400, "a number"),
    ):
        with pytest.raises(UpstreamError, match=f"api answered with JSON that is not taken: {why}"):
            answered(body)
    with pytest.raises(UpstreamError, match="broken JSON"):
        answered("{")


def test_a_text_in_an_objects_place_is_read_within_the_bounds() -> None:
    assert object_of('{"n": 1}') == {"n": 1}
    assert object_of('{"n": 1e999}') is None
    assert object_of('{"n":' * 65 + "1" + "}" * 65) is None
