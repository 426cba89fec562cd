"""Operations of kind python: schema from the signature, checks before the ticket, results, sync and async."""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import functools
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Optional

import pytest
from operations.running import Recorder, context_for, run, soon, start, until
from pydantic import BaseModel, Field, SecretStr

from raincheck.domain.task import Outcome
from raincheck.errors import ConfigurationError, InvalidParameters, OperationFailed
from raincheck.operations.context import TaskCancelled, TaskContext
from raincheck.operations.python.executor import python_operation


def report(
    day: datetime.date,
    pages: Annotated[int, Field(ge=1, description="How many pages.")] = 3,
    kind: Literal["short", "long"] = "short",
    *,
    context: TaskContext,
) -> dict[str, Any]:
    """Build the report
    of one day.

    The rest is for people.
    """
    return {"year": day.year, "pages": pages, "kind": kind, "task": context.task_ref}


def refused(operation: Any, **arguments: Any) -> InvalidParameters:
    with pytest.raises(InvalidParameters) as caught:
        operation.executor.validate(arguments)
    assert "\n" not in caught.value.message
    return caught.value


def test_the_schema_comes_from_the_signature() -> None:
    operation = python_operation(report)

    assert operation.operation_type == "report"
    assert operation.description == "Build the report of one day."
    assert operation.executor.parameters_schema == {
        "type": "object",
        "additionalProperties": False,
        "required": ["day"],
        "properties": {
            "day": {"type": "string", "format": "date"},
            "pages": {"type": "integer", "minimum": 1, "default": 3, "description": "How many pages."},
            "kind": {"type": "string", "enum": ["short", "long"], "default": "short"},
        },
    }
    assert operation.output_schema == {"type": "object", "additionalProperties": True}


async def test_values_are_stored_as_json_and_run_in_the_annotated_types() -> None:
    operation = python_operation(report)

    assert operation.executor.validate({"day": "2026-03-01"}) == {"day": "2026-03-01"}
    assert await run(operation, day="2026-03-01", pages=7) == {
        "year": 2026,
        "pages": 7,
        "kind": "short",
        "task": "task-1",
    }


async def test_values_that_python_hands_over_are_stored_as_json() -> None:
    stored = python_operation(report).executor.validate({"day": datetime.date(2026, 3, 1)})

    assert json.loads(json.dumps(stored)) == {"day": "2026-03-01"}


async def test_a_secret_reaches_the_function_unmasked() -> None:
    def login(password: SecretStr) -> str:
        return password.get_secret_value()

    assert await run(python_operation(login), password="open sesame") == "open sesame"


def test_a_wrong_parameter_is_named_with_what_is_allowed() -> None:
    operation = python_operation(report)

    assert refused(operation).message == "parameters of 'report': day: required, and missing"
    assert (
        "pages: Input should be greater than or equal to 1 (got 0)"
        in refused(operation, day="2026-01-01", pages=0).message
    )
    assert (
        "kind: Input should be 'short' or 'long' (got \"huge\")"
        in refused(operation, day="2026-01-01", kind="huge").message
    )
    error = refused(operation, day="2026-01-01", colour="red")
    assert error.details == {
        "errors": [{"parameter": "colour", "problem": "unknown parameter; there are: day, pages, kind"}]
    }
    assert "unknown parameter" in refused(operation, day="2026-01-01", context="mine").message


def test_a_refusal_never_sends_a_large_payload_back() -> None:
    operation = python_operation(report)

    for value in ("x" * 1_000_000, ["x"] * 100_000, {"x" * 100_000: 1}):
        error = refused(operation, day=value, **{"y" * 100_000: value})
        assert len(error.message) < 800
        assert len(json.dumps(error.details)) < 2_000


def test_very_many_wrong_values_are_refused_by_the_first() -> None:
    def count(numbers: list[int]) -> None: ...

    error = refused(python_operation(count), numbers=["x"] * 200_000)

    assert error.message.startswith("parameters of 'count': numbers.0: Input should be a valid integer")
    # The rest is not even listed: listing it takes a second of the event loop.
    assert error.message.endswith("and 7 more")


def test_what_json_cannot_hold_is_refused_as_a_parameter() -> None:
    def anything(value: Any) -> None: ...

    operation = python_operation(anything)
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    for value, why in ((float("nan"), "NaN"), ("\ud800", "surrogate"), (deep, "deeply"), (object(), "not JSON")):
        assert why in refused(operation, value=value).message


async def test_a_context_is_injected_however_it_is_annotated() -> None:
    def optional(context: Optional[TaskContext] = None) -> str:  # noqa: UP045 - the old spelling is the subject
        assert context is not None
        return context.task_ref

    def union(context: TaskContext | None = None) -> str:
        assert context is not None
        return context.task_ref

    def text(context: "Annotated[TaskContext, 1]") -> str:  # noqa: UP037 - a string within strings
        return context.task_ref

    for function in (optional, union, text):
        operation = python_operation(function)
        assert operation.executor.parameters_schema["properties"] == {}
        assert await run(operation) == "task-1"


async def test_names_that_pydantic_keeps_for_itself_are_ordinary_parameters() -> None:
    def call(schema: str, copy: int, _hidden: int, model_name: str) -> list[Any]:
        return [schema, copy, _hidden, model_name]

    operation = python_operation(call)

    assert list(operation.executor.parameters_schema["properties"]) == ["schema", "copy", "_hidden", "model_name"]
    assert await run(operation, schema="s", copy=1, _hidden=2, model_name="m") == ["s", 1, 2, "m"]


async def test_methods_partials_and_callable_objects_are_operations() -> None:
    class Shop:
        def buy(self, thing: str) -> str:
            return f"bought {thing}"

        async def __call__(self, thing: str) -> str:
            return f"called {thing}"

    def add(a: int, b: int) -> int:
        return a + b

    assert await run(python_operation(Shop().buy), thing="tea") == "bought tea"
    assert await run(python_operation(Shop(), operation_type="shop"), thing="tea") == "called tea"
    assert await run(python_operation(functools.partial(add, b=2)), a="1") == 3
    assert await run(python_operation(functools.partial(Shop().__call__, thing="x"), operation_type="x")) == "called x"


def test_functions_that_cannot_be_operations_are_refused_by_name() -> None:
    def stars(*args: int) -> None: ...
    def double_stars(**kwargs: int) -> None: ...
    def positional(a: int, /) -> None: ...
    def unknown(a: "Nowhere") -> None: ...  # type: ignore[name-defined] # noqa: F821, UP037 # pyright: ignore
    def odd(fine: int, a: threading.Thread) -> None: ...
    def nested(fine: int, _a: dict[str, list[threading.Thread]]) -> None: ...
    def untold(fine: int, model_config: Callable[[int], int]) -> None: ...

    cases: list[tuple[Any, str]] = [
        (stars, r"\*args"),
        (double_stars, r"\*\*kwargs"),
        (positional, "positional-only a"),
        (unknown, "annotation of 'a'"),
        (odd, r"parameter 'a' is of type threading\.Thread, which has no schema$"),
        (nested, r"parameter '_a' is of type dict\[str, list\[threading\.Thread\]\], which has no schema$"),
        (
            untold,
            r"parameter 'model_config' is of type collections\.abc\.Callable\[.*\], which JSON Schema cannot tell$",
        ),
    ]
    for function, why in cases:
        with pytest.raises(ConfigurationError, match=rf"{function.__name__}: .*{why}"):
            python_operation(function)
    with pytest.raises(ConfigurationError, match="give operation_type"):
        python_operation(lambda: 1)
    with pytest.raises(ConfigurationError, match="not a str"):
        python_operation("report")  # type: ignore[arg-type] # pyright: ignore
    with pytest.raises(ConfigurationError, match='"none", "process"'):
        python_operation(report, isolation="thread")  # type: ignore[arg-type] # pyright: ignore


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    at: datetime.datetime


class Page(BaseModel):
    number: int
    colour: Colour = Field(default=Colour.RED, serialization_alias="hue")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: None, None),
        (lambda: Point(1, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)), {"x": 1, "at": "2026-01-01T00:00:00Z"}),
        (lambda: [Page(number=1)], [{"number": 1, "hue": "red"}]),
        (lambda: {Colour.RED}, ["red"]),
        (lambda: b"text", "text"),
        (lambda: {1: (n for n in range(2))}, {"1": [0, 1]}),
    ],
)
async def test_results_become_plain_json_values(make: Any, expected: Any) -> None:
    async def later() -> Any:
        return make()

    assert await run(python_operation(make, operation_type="make")) == expected
    assert await run(python_operation(later)) == expected


async def test_a_result_fits_its_return_annotation_and_its_output_schema() -> None:
    def page(number: Any) -> Page:
        return {"number": number}  # type: ignore[return-value] # pyright: ignore

    operation = python_operation(page)

    assert operation.output_schema is not None
    assert set(operation.output_schema["properties"]) == {"number", "hue"}
    assert await run(operation, number=3) == {"number": 3, "hue": "red"}
    with pytest.raises(OperationFailed, match="does not fit its return annotation at number"):
        await run(operation, number="many")


@dataclass
class Found:
    name: str


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("caf\udce9", "caf\ufffd"),
        ({"\udce9": ["\ud83d\ude00", "\ud83d"]}, {"\ufffd": ["\U0001f600", "\ufffd"]}),
        (Found("\udce9"), {"name": "\ufffd"}),
    ],
)
async def test_a_lone_surrogate_in_a_result_is_a_replacement_character(value: Any, told: Any) -> None:
    def untyped():
        return value

    def typed() -> Found:
        return Found("caf\udce9")

    assert await run(python_operation(untyped, operation_type="odd")) == told
    assert await run(python_operation(typed, operation_type="odd")) == {"name": "caf\ufffd"}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: float("inf"), "NaN, infinity"),
        (lambda: b"\xff", "not UTF-8"),
        (lambda: threading.Lock(), "an object of type _thread.lock"),
        (lambda: functools.reduce(lambda inner, _: [inner], range(400), 0), "nested too deeply"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_result_that_json_cannot_hold_fails_with_one_clear_line(make: Any, why: str, is_async: bool) -> None:
    async def later() -> Any:
        return make()

    operation = python_operation(later if is_async else make, operation_type="odd")
    with pytest.raises(OperationFailed, match=f"JSON cannot hold: .*{why}"):
        await run(operation)


async def test_a_socket_as_a_result_is_named_by_its_type() -> None:
    with socket.socket() as connection:
        operation = python_operation(lambda: [connection], operation_type="odd")
        with pytest.raises(OperationFailed, match=r"an object of type socket\.socket"):
            await run(operation)


async def test_an_outcome_is_handed_on_as_it_is() -> None:
    outcome = Outcome(value=1)
    assert await run(python_operation(lambda: outcome, operation_type="o")) is outcome


def test_no_operation_ends_the_event_loop_by_sys_exit_or_keyboard_interrupt() -> None:
    def leave() -> None:
        sys.exit("bye")

    async def leave_async() -> None:
        sys.exit(3)

    async def interrupt() -> None:
        raise KeyboardInterrupt

    def interrupt_in_thread() -> None:
        raise KeyboardInterrupt

    async def main() -> list[Any]:
        tasks = [
            asyncio.create_task(run(python_operation(function)))
            for function in (leave, leave_async, interrupt, interrupt_in_thread)
        ]
        return await asyncio.gather(*tasks, return_exceptions=True)

    # A loop of our own: pytest's would hide what asyncio does with SystemExit in a task.
    results = asyncio.run(main())

    assert all(isinstance(result, OperationFailed) for result in results)
    assert [str(result) for result in results] == [
        "the operation called sys.exit('bye'); it must return or raise instead",
        "the operation called sys.exit(3); it must return or raise instead",
        "the operation raised KeyboardInterrupt",
        "the operation raised KeyboardInterrupt",
    ]


async def test_an_operations_own_exception_comes_through_as_it_is() -> None:
    class Broken(Exception): ...

    def fail() -> None:
        raise Broken("the printer is on fire")

    async def fail_async() -> None:
        raise Broken("the printer is on fire")

    for function in (fail, fail_async):
        with pytest.raises(Broken, match="on fire"):
            await run(python_operation(function))


async def test_a_cancellation_that_nobody_asked_for_is_a_failure() -> None:
    async def cancels() -> None:
        raise asyncio.CancelledError

    def stops() -> None:
        raise TaskCancelled

    for function in (cancels, stops):
        with pytest.raises(OperationFailed, match="though nobody cancelled it"):
            await run(python_operation(function))


async def test_cancelling_an_async_operation_marks_its_context_and_lets_it_clean_up() -> None:
    started, cleaned = asyncio.Event(), asyncio.Event()

    async def slow(context: TaskContext) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    operation = python_operation(slow)
    context = context_for(operation)
    task = start(operation, context)
    await soon(started.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert cleaned.is_set()
    assert context.cancelled


async def test_a_synchronous_operation_reports_progress_from_its_thread_with_the_callers_context() -> None:
    tenant = contextvars.ContextVar("tenant", default="nobody")

    def work(context: TaskContext) -> dict[str, Any]:
        context.progress_sync(0.5, "half")
        return {"thread": threading.current_thread() is threading.main_thread(), "tenant": tenant.get()}

    backend = Recorder()
    tenant.set("acme")
    assert await run(python_operation(work), backend) == {"thread": False, "tenant": "acme"}
    assert [(p.fraction, p.message) for p in backend.reports] == [(0.5, "half")]


async def test_a_synchronous_function_that_returns_a_coroutine_is_awaited() -> None:
    async def inner() -> int:
        await asyncio.sleep(0)
        return 5

    def decorated() -> Any:
        return inner()

    assert await run(python_operation(decorated)) == 5


async def test_stored_parameters_that_no_longer_fit_fail_the_task() -> None:
    operation = python_operation(report)
    with pytest.raises(OperationFailed, match=r"as it is now: .*day: required"):
        await operation.executor.run({}, context_for(operation))


def bound(a: int, b: int) -> int:
    """Add them."""
    return a + b


BOUND = functools.update_wrapper(functools.partial(bound, 1), bound)


@functools.wraps(BOUND)
def around_a_partial(*given: Any, **named: Any) -> int:
    return BOUND(*given, **named)


@functools.wraps(bound)
def around(*given: Any, **named: Any) -> int:
    return bound(*given, **named)


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(bound, 1),
        BOUND,
        around_a_partial,
        functools.update_wrapper(functools.partial(around, 1), around),
    ],
)
async def test_a_partial_does_not_ask_for_what_is_bound_already(function: Any) -> None:
    operation = python_operation(function, operation_type="bound")
    assert operation.executor.parameters_schema["required"] == ["b"]
    assert await run(operation, b="2") == 3
    assert "unknown parameter" in refused(operation, a=1, b=2).message


async def yields_later() -> Any:
    yield 1


class YieldsLater:
    async def __call__(self) -> Any:
        yield 1


@pytest.mark.parametrize("function", [yields_later, functools.partial(yields_later), YieldsLater()])
def test_an_async_generator_is_refused_when_it_is_declared(function: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"ields_?[lL]ater: an async generator cannot be an operation") as told:
        python_operation(function, operation_type="later")
    assert "\n" not in str(told.value)


def counted(start: int) -> Iterator[int]:
    yield start
    yield start + 1


@pytest.mark.parametrize("isolation", ["none", "process"])
async def test_a_generator_gives_what_it_yields(isolation: Any) -> None:
    assert await run(python_operation(counted, isolation=isolation), start=1) == [1, 2]


@pytest.mark.parametrize("raises", [False, True])
async def test_what_a_thread_returns_after_it_was_told_to_stop_is_told_and_thrown_away(
    caplog: pytest.LogCaptureFixture, *, raises: bool
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        go_on.wait(20)
        if raises:
            raise ValueError("the secret")
        return "x" * 1000

    operation = python_operation(slow)
    running = start(operation, context_for(operation))
    await asyncio.to_thread(began.wait, 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    go_on.set()
    await until(lambda: "after it was told to stop" in caplog.text)
    told = "raised ValueError after" if raises else "its result is thrown away (1002 bytes as JSON)"
    assert told in caplog.text
    assert "the secret" not in caplog.text
    assert caplog.records[-1].__dict__["task_ref"] == "task-1"


def lax(
    n: int,
    numbers: list[int],
    sure: bool,
    at: datetime.datetime,
    once: set[int],
    price: Annotated[float, Field(multiple_of=0.01)],
) -> list[Any]:
    return [n, numbers, sure, at.year, sorted(once), price]


@pytest.mark.parametrize("isolation", ["none", "process"])
async def test_values_are_taken_as_pydantic_takes_them(isolation: Any) -> None:
    operation = python_operation(lax, isolation=isolation)
    given: dict[str, Any] = {
        "n": "3",
        "numbers": ["1", 2.0],
        "sure": "yes",
        "at": 1_700_000_000,
        "once": [1, 1, "1"],
        "price": 19.99,
    }
    assert operation.executor.validate(given) == given
    assert await run(operation, **given) == [3, [1, 2], True, 2023, [1], 19.99]
