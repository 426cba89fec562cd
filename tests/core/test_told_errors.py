"""What a failed attempt tells is held to what results are held to: JSON values, within bounds, and unwrapped."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tenacity
from mcp.shared.exceptions import MCPError
from operations.running import Recorder, context_for

from raincheck.domain.task import Outcome, Task
from raincheck.errors import OperationFailed
from raincheck.mcp.wire.protocol_errors import KeepsProtocolErrors
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Operation, Policy
from raincheck.operations.python.executor import python_operation
from raincheck.runtime.attempt import guarded
from raincheck.runtime.service import Service
from support.lab import BodyExecutor, Lab

DAY = datetime.date(2026, 11, 30)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Odd:
    def __str__(self) -> str:
        raise RuntimeError("not even this")


async def outcome_of(service: Service, name: str) -> Outcome:
    submission = await service.registry.submit(name, {}, scope="a")
    task: Task = await service.registry.wait(submission.task.task_ref, scope="a", seconds=20)
    assert task.outcome is not None
    return task.outcome


@pytest.mark.parametrize(
    ("details", "kept"),
    [
        ({"day": DAY, "of": {1}, "at": Path("/a")}, {"day": "2026-11-30", "of": [1], "at": "/a"}),
        ({"nan": float("nan"), "far": [float("-inf")]}, {"nan": "nan", "far": ["-inf"]}),
        (
            {"name": "caf\udce9", DAY: b"\xff", "odd": Odd()},
            {"name": "caf\ufffd", "2026-11-30": "b'\\xff'", "odd": "a Odd"},
        ),
        ({"n": 10**400}, {"n": str(10**400)}),
    ],
)
async def test_details_of_any_kind_keep_message_and_retryable(lab: Lab, details: Any, kept: Any) -> None:
    @lab.operation("broken")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise OperationFailed("no such café", retryable=True, details=details)

    async with lab.service() as service:
        error = (await outcome_of(service, "broken")).error
    assert error is not None
    assert (error.code, error.message, error.retryable) == ("operation_failed", "no such café", True)
    assert error.details == kept
    assert "NaN" not in json.dumps(error.public(), allow_nan=False)


async def test_details_that_hold_themselves_or_megabytes_are_shown_within_bounds(lab: Lab) -> None:
    within: dict[str, Any] = {"status": 3}
    within["self"] = within

    @lab.operation("broken")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise OperationFailed("too much", details={"status": 3, "body": "x" * 5_000_000, "rows": [1] * 100_000})

    @lab.operation("circular")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise OperationFailed("round", details=within)

    async with lab.service() as service:
        error = (await outcome_of(service, "broken")).error
        circular = (await outcome_of(service, "circular")).error
    assert error is not None
    assert error.details["status"] == 3
    assert len(json.dumps(error.details)) < 3000
    assert circular is not None
    assert circular.details == {"status": 3, "self": {"status": 3, "self": "…"}}


async def test_the_only_exception_of_a_group_is_the_attempts(lab: Lab) -> None:
    @lab.operation("grouped", retry_attempts=0)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        inner = OperationFailed("try again", retryable=True, details={"a": 1})
        raise ExceptionGroup("unhandled errors in a TaskGroup", [ExceptionGroup("and again", [inner])])

    async with lab.service() as service:
        error = (await outcome_of(service, "grouped")).error
    assert error is not None
    assert (error.message, error.retryable, error.details) == ("try again", True, {"a": 1})
    assert error.raised is not None
    assert error.raised.type == "OperationFailed"
    assert error.raised.at is not None
    assert error.raised.at.startswith(f"{__file__}:")


async def test_the_data_of_a_json_rpc_error_is_cleaned_and_capped_too(lab: Lab) -> None:
    async def refuse(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise MCPError(-32042, "no", {"days": {DAY}, "nan": float("nan"), "body": "x" * 5_000_000})

    executor = KeepsProtocolErrors(BodyExecutor(refuse))
    lab.operations["refuses"] = Operation(operation_type="refuses", description="", executor=executor)
    async with lab.service() as service:
        outcome = await outcome_of(service, "refuses")
    assert outcome.rpc_error is not None
    assert (outcome.rpc_error["code"], outcome.rpc_error["message"]) == (-32042, "no")
    assert outcome.rpc_error["data"]["days"] == ["2026-11-30"]
    assert len(json.dumps(outcome.rpc_error, allow_nan=False)) < 3000


def isolated_unprintable() -> None:
    raise Unprintable("no such quarter")


def isolated_group() -> None:
    details = {"day": DAY, "nan": float("nan"), "name": "caf\udce9"}
    raise ExceptionGroup("one", [OperationFailed("try caf\udce9 again", retryable=True, details=details)])


async def test_a_process_of_its_own_tells_the_same(lab: Lab) -> None:
    for function in (isolated_unprintable, isolated_group):
        lab.operations[function.__name__] = python_operation(function, isolation="process", policy=Policy())
    async with lab.service() as service:
        unprintable = (await outcome_of(service, "isolated_unprintable")).error
        grouped = (await outcome_of(service, "isolated_group")).error
    assert unprintable is not None
    assert (unprintable.message, unprintable.details) == ("no such quarter", {"type": "Unprintable"})
    assert grouped is not None
    assert (grouped.message, grouped.retryable) == ("try caf\ufffd again", True)
    assert grouped.details == {"day": "2026-11-30", "nan": "nan", "name": "caf\ufffd"}
    assert grouped.raised is not None
    assert grouped.raised.at is not None
    assert grouped.raised.at.startswith(f"{__file__}:")


@tenacity.retry(stop=tenacity.stop_after_attempt(1))
def called_by_a_library() -> None:
    raise KeyError("quarter")


async def test_what_a_library_wraps_is_told_by_its_cause(lab: Lab) -> None:
    lab.operations["retried"] = python_operation(called_by_a_library, policy=Policy(retry_attempts=0))
    async with lab.service() as service:
        error = (await outcome_of(service, "retried")).error
    assert error is not None
    assert error.raised is not None
    assert error.raised.type == "KeyError"
    assert error.raised.at is not None
    assert error.raised.at.startswith(f"{__file__}:")


class Unrepresentable:
    def __repr__(self) -> str:
        raise RuntimeError("not even this")


async def test_an_exit_with_what_cannot_be_shown_is_a_failure(lab: Lab) -> None:
    @lab.operation("leave")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        async with asyncio.TaskGroup() as group:
            group.create_task(leave())

    async def leave() -> None:
        raise SystemExit(Unrepresentable())

    async with lab.service() as service:
        outcome = await outcome_of(service, "leave")
    assert outcome.error is not None
    assert outcome.error.message == (
        "the operation called sys.exit(a value of type Unrepresentable); it must return or raise instead"
    )


async def test_an_order_to_stop_in_a_group_of_its_own_is_that_order() -> None:
    async def stop(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise BaseExceptionGroup("of a library", [asyncio.CancelledError()])

    operation = Operation(operation_type="stop", description="stop", executor=BodyExecutor(stop))
    with pytest.raises(asyncio.CancelledError):
        await guarded(operation, {}, context_for(operation, Recorder()), stop_requested=lambda: True)
