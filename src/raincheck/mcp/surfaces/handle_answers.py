"""Answers of the handle tools: tickets and statuses, compact for models or full for programs, with one next step."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from raincheck.domain.task import Task, TaskStatus
from raincheck.domain.task_json import compact_status_of, status_of
from raincheck.mcp.surfaces.host_elicitation import Answerer
from raincheck.mcp.wire import tool_results

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LEAST_HOLD = 1.0


class Offer:
    """What a caller is offered for its next look at the task.

    Attributes:
        hold_seconds: How long the next call waits by itself.
        ask_seconds: The `wait_seconds` to pass; None where the call waits as long as it can without.
        poll_after_seconds: When to ask again, where the next call hardly waits.
    """

    __slots__ = ("ask_seconds", "hold_seconds", "poll_after_seconds")

    def __init__(self, hold_seconds: float, ask_seconds: float | None, poll_after_seconds: float | None) -> None:
        self.hold_seconds = hold_seconds
        self.ask_seconds = ask_seconds
        self.poll_after_seconds = poll_after_seconds

    @property
    def waits(self) -> bool:
        """Whether the next call waits."""
        return self.hold_seconds >= _LEAST_HOLD or self.ask_seconds is not None


def ticket_answer(
    task: Task, offer: Offer, *, deduplicated: bool, fresh: bool, full: bool, poll_after_seconds: float
) -> dict[str, Any]:
    """The ticket: what a caller holds until the result is ready (design.md §4)."""
    status = "queued" if fresh else task.status.value
    ticket: dict[str, Any]
    if full:
        ticket = tool_results.ticket_of(
            task, deduplicated=deduplicated, poll_after_seconds=poll_after_seconds, status=status
        )
    else:
        ticket = {"task_ref": task.task_ref, "status": status, "operation_type": task.operation_type}
        if deduplicated:
            ticket["deduplicated"] = True
    return ticket | {"next_step": next_step_of(task, offer, first=True)}


def status_answer(
    task: Task,
    offer: Offer,
    *,
    now: datetime,
    full: bool,
    poll_after_seconds: float | None,
    eta_seconds: float | None,
    again: bool = True,
    answerer: Answerer = "anyone",
) -> dict[str, Any]:
    """The answer of `resolve_task_status`, or, not `again`, of the other tools that answer with a status."""
    if full:
        answer = status_of(task, poll_after_seconds=poll_after_seconds, eta_seconds=eta_seconds)
    else:
        answer = compact_status_of(task)
    if task.terminal:
        return answer
    step = next_step_of(task, offer, answerer, again=again)
    return answer | {"after": _after(task, now), "next_step": step}


_QUESTION_STEPS: dict[Answerer, str] = {
    "asked": "The user is being asked. Call resolve_task_status with this after: it waits for the answer.",
    "user": "Only the user may answer. Call resolve_task_status with this after: it has them asked.",
    "elsewhere": "Only the user may answer, in a client that can ask them: say so. "
    "Then call resolve_task_status with this after: it waits.",
    "anyone": "Ask the user, then call provide_task_input with responses by these keys.",
}


def next_step_of(
    task: Task, offer: Offer, answerer: Answerer = "anyone", *, first: bool = False, again: bool = True
) -> str:
    """What a model does next with a task that is not settled."""
    if task.status is TaskStatus.INPUT_REQUIRED and not first:
        return _QUESTION_STEPS[answerer]
    tool = "again" if again and not first else "resolve_task_status"
    call = f"Call {tool} with this {'task_ref' if first else 'after'}"
    if offer.ask_seconds is not None:
        return f"{call}{' and' if first else ','} wait_seconds {offer.ask_seconds:g}."
    if offer.waits:
        return f"{call}: it waits for the result." if first else f"{call}: it waits."
    return f"{call} in {offer.poll_after_seconds or 1:g} s."


def _after(task: Task, now: datetime) -> str:
    """Another text at each moment: some hosts end a session when a call is the same for the fifth time."""
    number = max(0, round((now - task.created_at).total_seconds() * 1000))
    text = ""
    while number or not text:
        number, digit = divmod(number, len(_DIGITS))
        text = _DIGITS[digit] + text
    return text
