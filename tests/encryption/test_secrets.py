"""Secret parameters and results: the operation and the caller have them, nobody else is shown them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.exceptions import MCPError
from operations.isolated_functions import tell
from pydantic import SecretStr

from raincheck.cli.task_views import print_task, task_json
from raincheck.domain.redaction import (
    REDACTED,
    mark_secret_members,
    redact_arguments,
    redact_error,
    redact_outcome,
    redacting,
    secret_properties,
    texts_of,
    unwrap_secrets,
    wrap_secrets,
)
from raincheck.domain.task import Outcome, Task, TaskError
from raincheck.domain.task_json import status_of
from raincheck.mcp.wire.protocol_errors import KeepsProtocolErrors
from raincheck.operations.command.output import StderrLines
from raincheck.operations.context import TaskContext
from raincheck.operations.http.client import Reply
from raincheck.operations.operation import Operation, Policy
from raincheck.operations.python.executor import python_operation
from raincheck.tasks.registry import Registry
from raincheck.webhooks.payload import message_of
from support.lab import BodyExecutor, Lab
from support.waiting import PATIENCE

KEY = "sk-live-0123456789"
PASSWORD = "correct-horse-battery"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("$secret"), inner),
    max_leaves=10,
)


# Envelopes.


@given(
    arguments=st.dictionaries(st.sampled_from(["a", "b", "c", "$secret"]), json_values),
    secret=st.sets(st.sampled_from(["a", "b", "z"])),
)
def test_what_was_put_into_envelopes_comes_out_as_it_was(arguments: dict[str, Any], secret: set[str]) -> None:
    stored = wrap_secrets(arguments, secret)
    assert unwrap_secrets(stored) == arguments
    shown = redact_arguments(stored)
    assert shown.keys() == arguments.keys()
    assert all(shown[name] == REDACTED for name in secret & arguments.keys())


def test_what_a_schema_marks_is_secret_wherever_the_mark_stands() -> None:
    schema = {
        "properties": {
            "plain": {"type": "string"},
            "token": {"type": "string", "writeOnly": True},
            "either": {"anyOf": [{"type": "null"}, {"type": "string", "writeOnly": True}]},
            "deep": {"type": "object", "properties": {"inner": {"$ref": "#/$defs/key"}}},
            "list": {"type": "array", "items": {"$ref": "#/$defs/key"}},
            "round": {"$ref": "#/$defs/round"},
        },
        "$defs": {"key": {"writeOnly": True}, "round": {"properties": {"round": {"$ref": "#/$defs/round"}}}},
    }
    assert secret_properties(schema) == {"token", "either", "deep", "list"}
    assert secret_properties(None) == secret_properties({"properties": 3}) == frozenset()


def test_an_error_is_told_without_the_secrets_in_whatever_form() -> None:
    stored = wrap_secrets(
        {"key": KEY, "pin": 123456, "quote": 'a"b\\cd', "short": "ab"}, {"key", "pin", "quote", "short"}
    )
    error = TaskError(
        code="operation_failed",
        message=f"bad key {KEY!r}, about 123456",
        details={"url": f"https://x/?k={KEY}", "pins": [123456, 7], "text": json.dumps({"q": 'a"b\\cd'}), KEY: "ab"},
    )
    told = redact_error(error, texts_of(stored))
    assert told.message == f"bad key '{REDACTED}', about {REDACTED}"
    assert told.details["pins"] == [REDACTED, 7]
    assert KEY not in json.dumps(told.details)
    assert 'a\\"b' not in told.details["text"]
    # A text of two letters stands in every other word.
    assert told.details[REDACTED] == "ab"


def test_a_secret_member_of_a_result_is_hidden_in_either_form() -> None:
    value = mark_secret_members(Outcome(value={"user": "ada", "password": PASSWORD}), {"password", "other"})
    assert value.secret == ("password",)
    assert redact_outcome(value).value == {"user": "ada", "password": REDACTED}
    structured = {"password": PASSWORD, "user": "ada"}
    tool = mark_secret_members(
        Outcome(
            mcp_result={"content": [{"type": "text", "text": json.dumps(structured)}], "structuredContent": structured}
        ),
        {"password"},
    )
    assert PASSWORD not in json.dumps(redact_outcome(tool).mcp_result)
    plain = Outcome(value=[PASSWORD])
    assert mark_secret_members(plain, {"password"}) is plain
    assert redact_outcome(plain) is plain


# In a running service.


async def log_in(api_key: SecretStr, user: str) -> dict[str, str]:
    """Log in."""
    if user == "nobody":
        raise ValueError(f"the key {api_key.get_secret_value()} is not good for {user}")
    return {"user": user, "password": PASSWORD, "length": str(len(api_key.get_secret_value()))}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "tasks.db")


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncGenerator[Registry]:
    lab = Lab(tmp_path / "tasks.db")
    policy = Policy(secrets=("password",), dedupe="inflight")
    lab.operations["log_in"] = python_operation(log_in, operation_type="log_in", policy=policy)
    async with lab.service() as service:
        yield service.registry


async def ended(registry: Registry, arguments: Mapping[str, Any]) -> Task:
    async with asyncio.timeout(PATIENCE):
        ref = (await registry.submit("log_in", arguments, scope="ada")).task.task_ref
        return await registry.wait(ref, scope="ada", seconds=PATIENCE)


async def test_the_operation_gets_its_secret_and_the_caller_the_result(registry: Registry) -> None:
    task = await ended(registry, {"api_key": KEY, "user": "ada"})
    told = status_of(task, poll_after_seconds=None)
    assert told["result"] == {"user": "ada", "password": PASSWORD, "length": str(len(KEY))}


async def test_lists_and_webhooks_show_neither(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    task = await ended(registry, {"api_key": KEY, "user": "ada"})
    print_task(task, full=True)
    shown = capsys.readouterr().out + json.dumps([task_json(task), message_of(task)])
    assert KEY not in shown
    assert PASSWORD not in shown
    assert shown.count(REDACTED) >= 4
    assert '"user": "ada"' in shown


async def test_a_failure_tells_and_logs_no_secret(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        task = await ended(registry, {"api_key": KEY, "user": "nobody"})
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert task.outcome.error.message == f"the key {REDACTED} is not good for nobody"
    formatted = logging.Formatter()
    assert KEY not in "\n".join(formatted.format(record) for record in caplog.records)
    assert any("operation failed" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("isolation", ["none", "process"])
async def test_no_cut_leaves_a_part_of_a_secret(lab: Lab, caplog: pytest.LogCaptureFixture, isolation: Any) -> None:
    lab.operations["tell"] = python_operation(tell, operation_type="tell", isolation=isolation)
    async with lab.service() as service, asyncio.timeout(PATIENCE):
        for how in ("message", "exit", "object", "details"):
            submitted = await service.registry.submit("tell", {"api_key": KEY, "how": how}, scope="ada")
            task = await service.registry.wait(submitted.task.task_ref, scope="ada", seconds=PATIENCE)
            told = json.dumps(status_of(task, poll_after_seconds=None))
            assert "xxx" in told
            assert KEY[:4] not in told
    assert KEY[:4] not in caplog.text


async def test_no_cut_of_a_json_rpc_errors_data_leaves_a_part_of_a_secret(lab: Lab) -> None:
    async def tell_data(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise MCPError(-32000, "no", {"req": "x" * 390 + arguments["api_key"], "dump": "y" * 100_000})

    executor = KeepsProtocolErrors(BodyExecutor(tell_data))
    policy = Policy(secrets=("api_key",))
    lab.operations["tell"] = Operation(operation_type="tell", description="tell", executor=executor, policy=policy)
    async with lab.service() as service, asyncio.timeout(PATIENCE):
        submitted = await service.registry.submit("tell", {"api_key": KEY}, scope="ada")
        task = await service.registry.wait(submitted.task.task_ref, scope="ada", seconds=PATIENCE)
    assert task.outcome is not None
    told = json.dumps(task.outcome.rpc_error)
    assert "xxx" in told
    assert KEY[:4] not in told


def test_no_tail_begins_within_a_secret() -> None:
    with redacting({KEY}):
        lines = StderrLines(None, command="c")
        for line in (b"w" * 4000 + b"\n", b"key: " + KEY.encode() + b"\n", b"x" * 4090 + b"\n"):
            lines.feed(line)
        tail = lines.tail()
        body = KEY + "x" * 2040
        refusal = Reply(status=500, headers={}, body=body.encode(), host="h").refusal()
    for told in (tail, refusal.details["body_tail"]):
        assert "xxx" in told
        assert KEY[-4:] not in told


async def test_equal_calls_are_equal_with_their_secrets(registry: Registry) -> None:
    first = await registry.submit("log_in", {"api_key": KEY, "user": "ada"}, scope="ada")
    other = await registry.submit("log_in", {"api_key": KEY + "x", "user": "ada"}, scope="ada")
    assert first.task.task_ref != other.task.task_ref


def test_an_operation_knows_its_secrets_from_schema_and_policy() -> None:
    operation: Operation = python_operation(log_in, operation_type="log_in", policy=Policy(secrets=("password",)))
    assert operation.secret_parameters == {"api_key", "password"}
    assert operation.secret_results == {"password"}


async def test_a_secret_that_comes_by_a_callback_is_hidden_too(tmp_path: Path) -> None:
    lab, tokens = Lab(tmp_path / "tasks.db"), asyncio.Queue[str]()

    @lab.operation("sign_up", secrets=("password",))
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> None:
        await tokens.put(await context.callback_token())
        await context.await_external()

    async with lab.service() as service, asyncio.timeout(PATIENCE):
        ref = (await service.registry.submit("sign_up", {}, scope="ada")).task.task_ref
        ended = await service.callbacks.settle(await tokens.get(), Outcome(value={"password": PASSWORD}))
        assert ended == "accepted"
        task = await service.registry.wait(ref, scope="ada", seconds=PATIENCE)
    assert task.outcome is not None
    assert task.outcome.value == {"password": PASSWORD}
    assert PASSWORD not in json.dumps([task_json(task), message_of(task)])
