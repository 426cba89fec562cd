"""What is sent again, after which pause, and what a caller sees when it was in vain."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from raincheck.client import BadAnswer, ConnectionLost, TaskHandle
from raincheck.client.retries import with_retry
from raincheck.errors import CallError, InvalidParameters, RateLimited, TaskNotFound
from support.waiting import PATIENCE

HANDLE = TaskHandle(task_ref="ref")
BUSY = {"code": "rate_limited", "message": "busy", "retryable": True}


def busy(**details: Any) -> MCPError:
    return MCPError(-32603, "busy", {**BUSY, "details": details})


class Calls:
    """Raises its errors one after another, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.times: list[float] = []

    async def __call__(self) -> str:
        self.times.append(asyncio.get_running_loop().time())
        if self._errors:
            raise self._errors.pop(0)
        return "answer"

    async def answer(self, retries: int = 2) -> str:
        async with asyncio.timeout(PATIENCE):
            return await with_retry(self, "tasks/get", retries=retries, handle=HANDLE)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        BadAnswer("no status"),
        RateLimited("busy", retryable=True),
        busy(),
        MCPError(-32603, "busy", {"retryable": True}),
        MCPError(-32000, "connection closed"),
    ],
)
async def test_what_may_pass_is_sent_again(error: Exception) -> None:
    calls = Calls(error, error)
    assert await calls.answer() == "answer"
    first, second, third = calls.times
    assert third - second > second - first >= 0.1


@pytest.mark.parametrize(
    "error", [RateLimited("busy", retryable=True, details={"retry_after_seconds": 0.4}), busy(retry_after_seconds=0.4)]
)
async def test_a_server_that_asks_for_a_pause_gets_it_on_either_protocol(error: Exception) -> None:
    calls = Calls(error)
    assert await calls.answer() == "answer"
    first, second = calls.times
    assert second - first >= 0.4


@pytest.mark.parametrize(
    "error",
    [
        InvalidParameters("no"),
        CallError("no"),
        TaskNotFound("no"),
        ConnectionLost("the session tried long enough"),
        RateLimited("busy", retryable=True, details={"retry_after_seconds": 3600}),
        busy(retry_after_seconds=3600),
        MCPError(-32050, "out of order", {"since": "noon"}),
        ZeroDivisionError(),
    ],
)
async def test_what_will_not_pass_is_raised_at_once(error: Exception) -> None:
    calls = Calls(error)
    with pytest.raises(type(error)) as raised:
        await calls.answer()
    assert raised.value is error
    assert len(calls.times) == 1


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), busy()])
async def test_a_call_without_any_answer_says_how_often_it_was_sent_and_of_which_task(error: Exception) -> None:
    calls = Calls(error, error)
    told = rf"^tasks/get got no answer in 2 tries; the last one: {type(error).__name__}: {error}\.$"
    with pytest.raises(ConnectionLost, match=told) as lost:
        await calls.answer(retries=1)
    assert lost.value.handle == HANDLE
    assert lost.value.__cause__ is error


@pytest.mark.parametrize("error", [BadAnswer("no status"), RateLimited("busy", retryable=True)])
async def test_an_answer_that_stays_what_it_is_is_raised_itself(error: Exception) -> None:
    calls = Calls(error, error)
    with pytest.raises(type(error)) as raised:
        await calls.answer(retries=1)
    assert raised.value is error
    assert len(calls.times) == 2
