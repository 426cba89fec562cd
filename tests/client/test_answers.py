"""What the driver takes for a ticket, and how it reads the answers of servers with more or fewer members."""

from __future__ import annotations

from typing import Any

import pytest

from raincheck.client import PollingPolicy, TaskHandle, TaskPoller
from raincheck.client.parsing import is_ticket, read_answer, read_view
from raincheck.domain.task import Progress, TaskStatus
from raincheck.errors import CallError, InvalidParameters

STEP = "Call resolve_task_status with this task_ref: it waits for the result."
COMPACT = {"task_ref": "r", "status": "queued", "operation_type": "report", "next_step": STEP}
FULL = {
    **COMPACT,
    "deduplicated": False,
    "created_at": "2026-11-30T10:00:00.000Z",
    "deadline_at": "2026-11-30T11:00:00.000Z",
    "poll_after_seconds": 1.0,
}


def answer_of(structured: dict[str, Any], *, is_error: bool = False) -> Any:
    return read_answer({"content": [], "structuredContent": structured, "isError": is_error})


@pytest.mark.parametrize(
    "ticket",
    [
        COMPACT,
        {**COMPACT, "status": "processing", "deduplicated": True},
        {**COMPACT, "poll_after_seconds": 3.0, "next_step": "Call resolve_task_status with this task_ref in 3 s."},
        FULL,
        {**FULL, "a_member_of": "another server"},
    ],
)
def test_a_ticket_is_one_in_either_form(ticket: dict[str, Any]) -> None:
    assert is_ticket(answer_of(ticket))


@pytest.mark.parametrize(
    "result",
    [
        {"task_ref": "r", "status": "queued", "operation_type": "report"},
        {**COMPACT, "pages": 3},
        {**COMPACT, "status": "shipped"},
        {**COMPACT, "status": ["queued"]},
        {**COMPACT, "task_ref": ""},
        {**COMPACT, "operation_type": 7},
        {**COMPACT, "next_step": "Call the customer."},
        {**COMPACT, "next_step": None},
        {**FULL, "status": "shipped"},
    ],
)
def test_an_operations_own_result_is_no_ticket(result: dict[str, Any]) -> None:
    assert not is_ticket(answer_of(result))


def test_a_refusal_is_no_ticket() -> None:
    assert not is_ticket(answer_of(COMPACT, is_error=True))


def test_what_a_status_does_not_say_is_unknown() -> None:
    handle = TaskHandle(task_ref="r")
    going = read_view({"task_ref": "r", "status": "processing", "after": "k", "next_step": "…"}, handle)
    assert not going.terminal
    assert (going.progress, going.poll_after_seconds, going.eta_seconds, going.result) == (None, None, None, None)
    half = read_view({"task_ref": "r", "status": "processing", "progress": {"message": "page 4"}}, handle)
    assert half.progress == Progress(message="page 4")
    done = read_view({"task_ref": "r", "status": "completed", "result": [1]}, handle)
    assert (done.terminal, done.status, done.result) == (True, TaskStatus.COMPLETED, [1])


class ProtocolError(Exception):
    """As an SDK raises a JSON-RPC error."""

    def __init__(self) -> None:
        super().__init__("invalid params")
        self.error = type("Data", (), {"code": -32602, "message": "invalid params"})()


ProtocolError.__name__ = "McpError"


class Foreign:
    """Handle tools of another server, which take these parameters of `resolve_task_status` and no others.

    Args:
        takes: The optional parameters.
        refusal: How it refuses others: a tool's error, with or without a code, or an error of the protocol.
    """

    def __init__(self, takes: set[str], refusal: str) -> None:
        self._takes = takes
        self._refusal = refusal
        self.asked: list[dict[str, Any]] = []

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        others = {key: value for key, value in arguments.items() if key not in ("task_ref", "operation_type")}
        self.asked.append(others)
        if "no_such_word" in arguments.get("parameters", ()) or not others.keys() <= self._takes:
            return self._refused()
        if name == "initiate_background_task":
            return {"content": [], "structuredContent": dict(COMPACT)}
        over = len([each for each in self.asked if each.keys() <= self._takes]) > 2
        status = {"task_ref": "r", "status": "completed" if over else "processing", "result": "done"}
        return {"content": [], "structuredContent": status}

    def _refused(self) -> Any:
        if self._refusal == "protocol":
            raise ProtocolError
        error = {"error": {"code": "invalid_parameters", "message": "no such parameter"}}
        text = [{"type": "text", "text": "1 validation error"}]
        return {"content": text, "isError": True} | ({"structuredContent": error} if self._refusal == "code" else {})


@pytest.mark.parametrize("refusal", ["text", "code", "protocol"])
@pytest.mark.parametrize("takes", [set[str](), {"wait_seconds"}])
async def test_a_server_that_takes_no_detail_is_asked_without_it_from_then_on(takes: set[str], refusal: str) -> None:
    server = Foreign(takes, refusal)
    policy = PollingPolicy(initial_interval_seconds=0.01, hold_seconds=0.01)
    assert (await TaskPoller(policy).resume(server, "r")).value == "done"
    assert server.asked[0] == {"wait_seconds": 0.01, "detail": "full"}
    assert [set(each) for each in server.asked[-2:]] == [takes, takes]


@pytest.mark.parametrize("refusal", ["text", "code"])
async def test_parameters_that_are_wrong_for_another_reason_are_refused_as_ever(refusal: str) -> None:
    server = Foreign({"parameters", "idempotency_key", "detail"}, refusal)
    with pytest.raises(InvalidParameters if refusal == "code" else CallError):
        await TaskPoller().run(server, "report", {"no_such_word": 1})
    assert len({each["idempotency_key"] for each in server.asked}) == 1
