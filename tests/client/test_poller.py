"""The driver for the handle tools, over stdio and HTTP, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from client.office import ACCEPT, Office

from raincheck import OperationFailed
from raincheck.client import (
    InputNeeded,
    PollingPolicy,
    ReconnectingSession,
    TaskHandle,
    TaskPoller,
    TaskView,
    TaskWasCancelled,
    WaitTimedOut,
    connect,
)
from raincheck.domain.task import InputRequest, TaskStatus
from raincheck.errors import IdempotencyConflict, InvalidParameters, TaskNotFound, TaskTimeout, UnknownOperation
from support.waiting import PATIENCE

POLLER = TaskPoller()


@pytest.fixture(params=["stdio", "http"])
async def session(request: pytest.FixtureRequest, office: Office) -> AsyncGenerator[ReconnectingSession]:
    if request.param == "stdio":
        async with office.stdio() as over_stdio:
            yield over_stdio
    else:
        async with office.place.http() as server, connect(server.url) as over_http:
            yield over_http


async def test_run_gives_the_value_of_the_operation(session: ReconnectingSession) -> None:
    result = await POLLER.run(session, "quick", {"word": "rain"})
    assert result.value == result.structured == {"word": "rain"}
    assert result.content == ({"type": "text", "text": '{"word":"rain"}'},)
    assert not result.is_error
    assert result.handle is not None
    assert result.handle.operation_type == "quick"


async def test_a_held_answer_comes_when_the_task_ends_and_not_at_the_next_poll(
    office: Office, session: ReconnectingSession
) -> None:
    asked: list[dict[str, Any]] = []

    class Counting:
        async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
            asked.append({"name": name, **arguments})
            if name == "resolve_task_status":
                office.open_gate("a")
            return await session.call_tool(name, arguments)

    await POLLER.run(Counting(), "gated", {"name": "a"})
    assert [each["name"] for each in asked] == ["initiate_background_task", "resolve_task_status"]
    assert asked[1]["wait_seconds"] == 20


async def test_a_failed_task_raises_the_error_of_its_code_with_all_that_it_says(session: ReconnectingSession) -> None:
    with pytest.raises(OperationFailed, match=r"The printer has no paper\.") as failure:
        await POLLER.run(session, "fail")
    assert failure.value.retryable
    assert failure.value.details["tray"] == 2
    assert len(failure.value.details["task_ref"]) > 20


async def test_a_deadline_of_the_caller_is_kept_by_the_server(session: ReconnectingSession) -> None:
    with pytest.raises(TaskTimeout) as failure:
        await POLLER.run(session, "gated", {"name": "never"}, max_wait_seconds=0.3)
    assert failure.value.details["limit"] == "deadline"


async def test_a_refused_call_raises_the_error_of_its_code(session: ReconnectingSession) -> None:
    with pytest.raises(UnknownOperation):
        await POLLER.run(session, "no_such_thing")
    with pytest.raises(InvalidParameters, match="word"):
        await POLLER.run(session, "quick", {"wort": 1})
    with pytest.raises(TaskNotFound):
        await POLLER.resume(session, "no-such-ref")
    await POLLER.submit(session, "quick", {"word": "a"}, idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        await POLLER.submit(session, "quick", {"word": "b"}, idempotency_key="k")


async def test_one_key_of_the_caller_is_one_task(office: Office, session: ReconnectingSession) -> None:
    runs = [POLLER.run(session, "quick", {"word": "once"}, idempotency_key="once") for _ in range(5)]
    results = await asyncio.gather(*runs)
    assert len({result.handle for result in results}) == 1
    assert office.starts("quick") == 1


async def test_two_runs_without_a_key_are_two_tasks(office: Office, session: ReconnectingSession) -> None:
    for _ in range(2):
        await POLLER.run(session, "quick", {"word": "twice"})
    assert office.starts("quick") == 2


async def test_progress_is_told_as_it_changes(office: Office, session: ReconnectingSession) -> None:
    told: list[tuple[str, float | None, str | None]] = []

    async def tell(view: TaskView) -> None:
        if view.progress is not None and not view.terminal:
            told.append((view.status, view.progress.fraction, view.progress.message))
            office.open_gate(view.progress.message or "")

    result = await POLLER.run(session, "steps", {"names": ["one", "two"]}, on_progress=tell)
    assert result.value == 2
    assert told == [("processing", 0.0, "one"), ("processing", 0.5, "two")]


async def test_each_question_is_asked_once_and_its_answer_reaches_the_operation(session: ReconnectingSession) -> None:
    asked: list[str] = []

    async def answer(request: InputRequest) -> dict[str, Any]:
        asked.append(request.params["message"])
        return {"action": "accept", "content": {"amount": len(asked)}}

    result = await POLLER.run(session, "ask", on_input=answer)
    assert asked == ["How much?", "Sure?"]
    assert [each["content"]["amount"] for each in result.value] == [1, 2]


async def test_a_question_that_nobody_answers_here_can_be_answered_elsewhere(session: ReconnectingSession) -> None:
    with pytest.raises(InputNeeded, match="How much") as needed:
        await POLLER.run(session, "ask")
    handle = needed.value.handle
    assert handle is not None
    (request,) = needed.value.requests
    assert (await POLLER.status(session, handle)).status is TaskStatus.INPUT_REQUIRED

    await POLLER.answer(session, handle.task_ref, {request.key: ACCEPT})
    result = await POLLER.resume(session, handle.task_ref, on_input=lambda _: {"action": "decline"})
    assert [each["action"] for each in result.value] == ["accept", "decline"]


async def test_cancel_ends_the_task_and_whoever_waits_for_it(office: Office, session: ReconnectingSession) -> None:
    handle = await POLLER.submit(session, "gated", {"name": "never"})
    waiting = asyncio.create_task(POLLER.resume(session, handle))
    view = await POLLER.cancel(session, handle)
    assert view.status is TaskStatus.CANCELLED
    with pytest.raises(TaskWasCancelled) as cancelled:
        await asyncio.wait_for(waiting, PATIENCE)
    assert cancelled.value.handle == handle
    assert (await POLLER.cancel(session, handle)).status is TaskStatus.CANCELLED


@pytest.mark.parametrize("policy", [{"max_total_seconds": 0.2}, {"max_attempts": 3, "hold_seconds": 0}])
async def test_a_wait_that_reaches_its_bounds_leaves_the_task_running(
    policy: dict[str, Any], office: Office, session: ReconnectingSession
) -> None:
    with pytest.raises(WaitTimedOut, match=next(iter(policy))) as timed_out:
        await TaskPoller(PollingPolicy(**policy)).run(session, "gated", {"name": "a"})
    handle = timed_out.value.handle
    assert handle is not None
    assert not (await POLLER.status(session, handle)).terminal
    office.open_gate("a")
    assert (await POLLER.resume(session, handle)).value == {"gate": "a"}
    assert office.starts("gated") == 1


async def test_a_cancelled_wait_leaves_the_task_running_and_says_so(
    office: Office, session: ReconnectingSession
) -> None:
    submitted: asyncio.Future[TaskHandle] = asyncio.get_running_loop().create_future()
    run = asyncio.create_task(POLLER.run(session, "gated", {"name": "a"}, on_submitted=submitted.set_result))
    handle = await asyncio.wait_for(submitted, PATIENCE)
    run.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await run
    assert any(handle.task_ref in note for note in cancelled.value.__notes__)
    assert not (await POLLER.status(session, handle)).terminal
    office.open_gate("a")
    assert (await POLLER.resume(session, handle)).value == {"gate": "a"}


async def test_a_typed_tools_answer_is_its_result_or_its_tickets(office: Office, session: ReconnectingSession) -> None:
    at_once = await POLLER.resolve_if_ticket(session, await session.call_tool("quick", {"word": "now"}))
    assert at_once.value == {"word": "now"}
    assert at_once.handle is None

    office.open_gate("a")
    later = await POLLER.resolve_if_ticket(session, await session.call_tool("gated", {"name": "a"}))
    assert later.value == {"gate": "a"}
    assert later.handle is not None

    with pytest.raises(OperationFailed, match="no paper"):
        await POLLER.resolve_if_ticket(session, await session.call_tool("fail", {}))


def test_a_handle_survives_as_text() -> None:
    handle = TaskHandle(task_ref="r", operation_type="report", idempotency_key="k")
    assert TaskHandle.from_json(handle.to_json()) == handle
    assert TaskHandle.from_json('{"task_ref": "r", "of_a_newer_raincheck": 1}') == TaskHandle(task_ref="r")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"task_ref": ""}', '{"task_ref": "r", "operation_type": 1}'])
def test_a_text_that_is_no_handle_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        TaskHandle.from_json(text)
