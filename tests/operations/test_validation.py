"""Parameters that are made to be costly: checked in linear time, or refused in one line, whatever declares them."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from raincheck.errors import ConfigurationError, InvalidParameters
from raincheck.operations.bounded_work import TooMuchWork, bounded_work
from raincheck.operations.formats import FORMATS
from raincheck.operations.http.json_path import JsonPath
from raincheck.operations.json_equality import canonical
from raincheck.operations.operation import Operation
from raincheck.operations.python.executor import python_operation
from raincheck.operations.schema import ParameterSchema
from raincheck.operations.validation import LARGE_BYTES, ParameterChecks

GENEROUS_SECONDS = 4.0
"""Of the processor. What is tried here took from seven seconds to more than the age of the universe."""


def schema_of(part: Any, definitions: Mapping[str, Any] | None = None) -> ParameterSchema:
    return ParameterSchema({"type": "object", "properties": {"x": part}, "$defs": definitions or {}}, "op")


def refusal(schema: ParameterSchema, value: Any) -> str:
    """Why the schema refuses the value of its parameter x, "" where it takes it; within the bound."""
    message = ""
    with bounded_work(GENEROUS_SECONDS):
        try:
            schema.validate({"x": value})
        except InvalidParameters as error:
            message = error.message
    assert "\n" not in message
    assert len(message) < 700
    return message


FITTING: dict[str, tuple[list[str], list[str]]] = {
    "date-time": (
        ["2026-11-30T10:00:00Z", "2026-11-30t10:00:00.25+02:00", "1990-12-31T23:59:60Z"],
        [
            "soon",
            "2026-11-30",
            "2026-11-30T10:00:00",
            "2026-02-30T10:00:00Z",
            "2026-11-30T25:00:00Z",
            "2026-11-30T10:00:00Z\n",
        ],
    ),
    "date": (["2026-11-30"], ["2026-11-31", "30.11.2026"]),
    "time": (["10:00:00Z", "10:00:00-05:30"], ["10:00", "24:00:00Z"]),
    "duration": (["P1D", "PT1H30M", "P3W"], ["P", "PT", "1D", "P1D2W"]),
    "email": (["a@example.com"], ["a"]),
    "hostname": (["a", "a-b.example.com"], ["-a", "a..b", "a_b", "a" * 64, "a." * 127 + "a"]),
    "ipv4": (["127.0.0.1"], ["127.0.0.256"]),
    "ipv6": (["::1"], ["1"]),
    "uri": (["https://example.com/a?b=%20#c", "urn:a:b"], ["example.com", "https://a b", "a:%2"]),
    "uri-reference": (["../a", "#b", ""], ["a b"]),
    "uuid": (["2eb8aa08-aa98-11ea-b4aa-73b441d16380"], ["2eb8"]),
    "json-pointer": (["", "/a~1b"], ["a", "/~2"]),
    "relative-json-pointer": (["0#", "1/a"], ["/a", "01"]),
}


@pytest.mark.parametrize("name", FITTING)
def test_a_format_that_may_be_declared_is_checked(name: str) -> None:
    fitting, others = FITTING[name]
    schema = schema_of({"type": "string", "format": name})
    assert [refusal(schema, text) for text in fitting] == [""] * len(fitting)
    for text in others:
        assert f'x: should be in the format "{name}"' in refusal(schema, text), text


def test_a_format_that_would_not_be_checked_is_refused_when_it_is_declared() -> None:
    assert set(FITTING) | {"idn-email", "regex"} == set(FORMATS)
    for part in ({"format": "int64"}, {"items": {"anyOf": [{"format": "uri-template"}]}}):
        with pytest.raises(
            ConfigurationError, match=r"format .* would not be checked; allowed: date, date-time, "
        ) as told:
            schema_of(part)
        assert "\n" not in str(told.value)
    assert refusal(schema_of({"const": {"format": "int64"}}), {"format": "int64"}) == ""


@pytest.mark.parametrize("wrong", ["int", ["string", "float"]])
def test_a_type_that_json_schema_has_not_is_refused_with_those_that_it_has(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.type: is .*; allowed: array, boolean, integer, null"):
        schema_of({"type": wrong})


def nested(levels: int, inner: Any, name: str = "l") -> Any:
    return functools.reduce(lambda value, _: {name: value}, range(levels), inner)


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, 1.0], False),
        ([1, True, "1", [1], [True], {"a": 1}, {"a": True}, None, "null", 0, False, "", [], {}], True),
        ([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1.0}], False),
        ([{"a": 1, "b": 2}, {"a": 2, "b": 1}], True),
        ([[1, 2], [2, 1]], True),
        ([2**53, 2**53 + 1, 2.0**53 + 2], True),
        ([2**53, float(2**53)], False),
        ([-0.0, 0], False),
        (["1", '"1'], True),
        ([1e300, int(1e300)], False),
    ],
)
def test_items_are_equal_as_json_schema_says(items: list[Any], unique: bool) -> None:
    assert (refusal(schema_of({"uniqueItems": True}), items) == "") is unique
    assert (len({canonical(each) for each in items}) == len(items)) is unique


EXPRESSION = {"$ref": "#/$defs/e"}
TREE = {
    "e": {
        "anyOf": [
            {"type": "object", "properties": {"l": EXPRESSION, "op": {"const": op}}, "required": ["op"]} for op in "ab"
        ]
    }
}
TWICE = {
    "e": {"unevaluatedProperties": False, "properties": {"l": EXPRESSION}, "allOf": [{"$ref": "#/$defs/f"}]},
    "f": {"properties": {"l": EXPRESSION}},
}
MANY = 20_000

# A schema, its definitions, a value that made it slow, and a part of the refusal: "" where the value fits.
COSTLY: dict[str, tuple[Any, Any, Any, str]] = {
    "unique objects": ({"uniqueItems": True}, None, [{"a": i, "b": str(i)} for i in range(MANY)], ""),
    "unique objects, the last twice": (
        {"uniqueItems": True},
        None,
        [*({"a": i} for i in range(MANY)), {"a": 0}],
        "twice",
    ),
    "unique numbers of one hash": ({"uniqueItems": True}, None, [i * (2**61 - 1) for i in range(MANY)], ""),
    "nested quantifiers": ({"pattern": "^(a+)+$"}, None, "a" * 50 + "!", "should match"),
    "nested quantifiers in names": (
        {"patternProperties": {"^(a|aa)+$": {}}, "additionalProperties": False},
        None,
        {"a" * 60 + "!": 1},
        "unknown member",
    ),
    "a caller's pattern": ({"format": "regex"}, None, "(?i)" + "[\0-\U0010ffff]" * 1000, ""),
    "a long enum": ({"items": {"enum": [{"n": i} for i in range(5000)]}}, None, [{"n": 4999.0}] * MANY, ""),
    "unevaluated items": ({"contains": {"type": "integer"}, "unevaluatedItems": False}, None, [1] * MANY, ""),
    "unevaluated names": (
        {"patternProperties": {"^k": {}}, "unevaluatedProperties": False},
        None,
        {f"k{i}": 1 for i in range(MANY)},
        "",
    ),
    "branches of a recursive schema": (EXPRESSION, TREE, nested(50, 1), "does not fit 'anyOf'"),
    "parts of a recursive schema": (EXPRESSION, TWICE, nested(50, {}), ""),
    "parts of a recursive schema, at their end wrong": (
        EXPRESSION,
        TWICE,
        nested(50, {"z": 1}),
        "unevaluatedProperties",
    ),
    "errors of every item": (
        {"anyOf": [{"items": {"type": "string"}}, {"items": {"type": "boolean"}}]},
        None,
        [1] * 300_000,
        "anyOf",
    ),
    "a schema that names its dialect": (
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "uniqueItems": True},
        None,
        [{"a": i} for i in range(MANY)],
        "",
    ),
    "a price": ({"multipleOf": 0.01}, None, 19.99, ""),
    "no price": ({"multipleOf": 0.01}, None, 19.995, "multiple of 0.01"),
    "a multiple in decimal": ({"multipleOf": 0.1}, None, 0.3, ""),
    "no multiple in decimal": ({"multipleOf": 0.1}, None, 0.35, "multiple of 0.1"),
    "a multiple of a huge number": ({"multipleOf": 1e-300}, None, 1e300, ""),
    "a number beyond a double": ({"multipleOf": 0.1}, None, 10**400, "x: a number beyond ±1.8e308"),
    "deep": (EXPRESSION, TREE, nested(180, 1), "x: nested too deeply; at most 64 levels"),
}


@pytest.mark.parametrize("what", COSTLY)
def test_what_is_costly_to_check_by_pairs_or_backtracking_is_checked_in_linear_time(what: str) -> None:
    part, definitions, value, expected = COSTLY[what]
    found = refusal(schema_of(part, definitions), value)
    assert expected in found
    assert bool(expected) is bool(found)


EVALUATED: list[Any] = [
    {"properties": {"a": {}}, "unevaluatedProperties": False},
    {"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False},
    {"if": {"required": ["a"]}, "then": {"properties": {"a": {}}}, "unevaluatedProperties": False},
    {"dependentSchemas": {"a": {"properties": {"a": {}}}}, "unevaluatedProperties": False},
    {"oneOf": [{"required": ["a"], "properties": {"a": {}}}, {"required": ["b"]}], "unevaluatedProperties": False},
    {"$ref": "#/$defs/a", "unevaluatedProperties": False},
    {"patternProperties": {"^a$": {}}, "unevaluatedProperties": {"type": "string"}},
]


@pytest.mark.parametrize("part", EVALUATED)
def test_what_other_keywords_have_evaluated_is_known(part: dict[str, Any]) -> None:
    schema = schema_of(part, {"a": {"properties": {"a": True}}})
    assert refusal(schema, {"a": 1}) == ""
    assert "unevaluatedProperties" in refusal(schema, {"a": 1, "b": 1})


def test_what_other_keywords_have_evaluated_of_an_array_is_known() -> None:
    schema = schema_of({"prefixItems": [True], "contains": {"const": "c"}, "unevaluatedItems": {"type": "boolean"}})
    assert refusal(schema, [1, "c", True, "c"]) == ""
    assert "unevaluatedItems" in refusal(schema, [1, "c", 2])


@pytest.mark.parametrize(
    ("pattern", "why"),
    [("(?=a)b", "look-ahead"), (r"(a)\1", "backreferences"), ("(?<!a)b", "look-")],
)
@pytest.mark.parametrize("where", ["{}", "items", "names", "behind a reference"])
def test_a_pattern_that_the_engine_cannot_match_is_refused_when_it_is_declared(
    pattern: str, why: str, where: str
) -> None:
    parts: dict[str, Any] = {
        "{}": {"pattern": pattern},
        "items": {"anyOf": [{"items": {"not": {"pattern": pattern}}}]},
        "names": {"patternProperties": {pattern: {}}},
        "behind a reference": {"$ref": "#/$defs/p"},
    }  # fmt: skip
    with pytest.raises(ConfigurationError) as refused:
        schema_of(parts[where], {"p": {"pattern": pattern}})
    message = str(refused.value)
    assert message.startswith("operation 'op': parameters: pattern ")
    assert why in message
    assert "\n" not in message


def test_a_value_that_only_looks_like_a_pattern_is_none() -> None:
    schema = schema_of({"const": {"pattern": "(?=a)"}, "default": {"pattern": "(?=a)"}})
    assert refusal(schema, {"pattern": "(?=a)"}) == ""


class Compiled(BaseModel):
    model_config = ConfigDict(regex_engine="python-re")
    name: Annotated[str, Field(pattern="^(a+)+$")]


def by_a_compiled_pattern(x: Annotated[str, Field(pattern=re.compile("^(a+)+$"))]) -> None: ...
def by_a_model(x: list[Compiled]) -> None: ...
def by_the_callers(x: re.Pattern[str] | None = None) -> None: ...
def by_looking_ahead(x: Annotated[str, Field(pattern="(?=a)b")]) -> None: ...


@pytest.mark.parametrize(
    ("function", "part"),
    [
        (by_a_compiled_pattern, 'pattern "^(a+)+$" would be matched by re'),
        (by_a_model, "would be matched by re"),
        (by_the_callers, "a parameter is a re.Pattern"),
        (by_looking_ahead, 'pattern "(?=a)b" cannot be matched: look-around'),
    ],
)
def test_a_function_whose_patterns_a_text_can_hold_up_is_refused(function: Any, part: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(part)) as refused:
        python_operation(function)
    assert function.__name__ in str(refused.value)
    assert "\n" not in str(refused.value)


class Sum(BaseModel):
    op: Literal["sum"]
    l: Expression  # noqa: E741


class Product(BaseModel):
    op: Literal["product"]
    l: Expression  # noqa: E741


Expression = Sum | Product | int
Sum.model_rebuild()
Product.model_rebuild()


class Leaf(BaseModel):
    kind: Literal["leaf"]


class Node(BaseModel):
    kind: Literal["node"]
    l: Annotated[Node | Leaf, Field(discriminator="kind")]  # noqa: E741


def tried(x: Expression) -> None: ...
def told_apart(x: Node) -> None: ...
def whole_numbers(x: set[int]) -> None: ...
def keyed(x: dict[int, int]) -> None: ...
def pairs(x: set[tuple[int, int]]) -> None: ...


def test_a_union_that_is_tried_at_each_level_is_nested_only_as_deeply_as_can_be_tried() -> None:
    operation = python_operation(tried)
    deep = functools.reduce(lambda value, _: {"op": "product", "l": value}, range(40), 1)
    with pytest.raises(InvalidParameters, match="x: nested too deeply to be checked"):
        operation.executor.validate({"x": deep})
    shallow = functools.reduce(lambda value, _: {"op": "product", "l": value}, range(8), 1)
    assert operation.executor.validate({"x": shallow}) == {"x": shallow}
    known = functools.reduce(lambda value, _: {"kind": "node", "l": value}, range(40), {"kind": "leaf"})
    assert python_operation(told_apart).executor.validate({"x": known}) == {"x": known}


ALIKE = [i * (2**61 - 1) for i in range(3000)]


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (whole_numbers, ALIKE),
        (whole_numbers, [str(each) for each in ALIKE]),
        (keyed, {str(each): 1 for each in ALIKE}),
        (pairs, [[each, 1] for each in ALIKE]),
    ],
)
def test_numbers_that_are_chosen_to_have_one_hash_are_refused(function: Any, value: Any) -> None:
    executor = python_operation(function).executor
    with pytest.raises(InvalidParameters, match="x: more than 100 numbers with the same hash"):
        executor.validate({"x": value})
    many: dict[Any, Any] = {
        whole_numbers: list(range(3000)), keyed: {str(i): 1 for i in range(3000)}, pairs: [[i, 1] for i in range(3000)]
    }  # fmt: skip
    assert executor.validate({"x": many[function]})


class Slow:
    """An executor whose check takes as long as it is let."""

    parameters_schema: Mapping[str, Any] = {"type": "object"}

    def __init__(self) -> None:
        self.at_once, self.most_at_once = 0, 0

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            return ParameterSchema({"properties": {"x": {"items": {"type": "integer"}}}}, "slow").validate(arguments)
        finally:
            self.at_once -= 1

    async def run(self, arguments: Mapping[str, Any], context: Any) -> Any:
        raise AssertionError("nobody runs it")


async def test_large_parameters_are_checked_off_the_loop_few_at_once_and_within_a_bound_of_time() -> None:
    slow = Slow()
    operation = Operation(operation_type="slow", description="", executor=slow)
    checks = ParameterChecks(10**7, longest_seconds=0.2)
    large = {"x": [1] * 400_000}
    calls = [asyncio.create_task(checks.checked(operation, large, scope=str(n))) for n in range(5)]
    beats = 0
    while not all(call.done() for call in calls):
        await asyncio.sleep(0.01)
        beats += 1
    assert beats > 10, "the loop stood still"
    for call in calls:
        with pytest.raises(InvalidParameters, match=r"\(all\): takes more than 0.2 s to check") as refused:
            await call
        assert refused.value.retryable is False
    assert slow.most_at_once <= 2


async def test_small_parameters_that_turn_out_to_be_costly_go_on_off_the_loop() -> None:
    slow = Slow()
    operation = Operation(operation_type="slow", description="", executor=slow)
    value = {"x": [1] * (LARGE_BYTES // 3)}
    with pytest.raises(TooMuchWork), bounded_work(0.02):
        slow.validate(value)
    assert await ParameterChecks(10**7).checked(operation, value, scope="a") == value


@pytest.mark.parametrize(
    ("path", "document", "found"),
    [
        ("$[?match(@.s, '(a+)+')].s", [{"s": "a" * 60 + "!"}, {"s": "aaa"}], "aaa"),
        ("$[?search(@.s, '(a|aa)+$')].s", [{"s": "a" * 60 + "!"}, {"s": "!aaa"}], "!aaa"),
        ("$.all[?match(@, $.pattern)]", {"all": ["a" * 60 + "!", "aa"], "pattern": "(a+)+"}, "aa"),
        ("$[?match(@, 'a.c')]", ["a\nc", "a\rc", "xabc", "abc"], "abc"),
        ("$[?match(@, 'a[.]c')]", ["abc", "a.c"], "a.c"),
        ("$[?match(@, 'a\\\\.c')]", ["abc", "a.c"], "a.c"),
        ("$[?match(@, '(?=a)a')]", ["a"], None),
    ],
)
def test_no_text_of_an_upstream_holds_up_the_patterns_of_a_json_path(path: str, document: Any, found: Any) -> None:
    assert JsonPath(path, place="here").first(document) == found
