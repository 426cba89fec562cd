"""Answers of the handle tools: tickets and statuses, compact for models or full for programs, with one next step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from mcp.server.context import ServerRequestContext

from raincheck.domain.task import Task, TaskStatus
from raincheck.domain.task_json import compact_status_of, status_of
from raincheck.mcp.surfaces.holds import Holds
from raincheck.mcp.surfaces.host_elicitation import Answerer, HostElicitation
from raincheck.mcp.wire import tool_results
from raincheck.polling.advisor import PollAdvisor
from raincheck.tasks.registry import Submission
from raincheck.timing.clock import utc_now

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


class HandleAnswers:
    """Makes tickets and statuses, each with the hint and the offer for its caller.

    Args:
        advisor: Says when callers ask again.
        holds: Says how long the next call waits.
        elicitation: Says who answers a task's questions.
        full: Whether an answer is in its full form where the call says nothing of it.
        clock: The wall clock.
    """

    def __init__(
        self,
        advisor: PollAdvisor,
        holds: Holds,
        elicitation: HostElicitation,
        *,
        full: bool = False,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._advisor = advisor
        self._holds = holds
        self._elicitation = elicitation
        self._full = full
        self._clock = clock

    async def ticket(
        self,
        submission: Submission,
        ctx: ServerRequestContext[Any, Any],
        *,
        waited: bool = False,
        full: bool | None = None,
    ) -> dict[str, Any]:
        """The tool result with the ticket of an accepted call."""
        task = submission.task
        fresh = not submission.deduplicated and not waited
        full = self._full if full is None else full
        hint = self._hint(task, task.created_at if fresh else self._clock(), full=full) or 0.0
        return tool_results.json_result(
            ticket_answer(
                task,
                await self._offer(ctx, hint),
                deduplicated=submission.deduplicated,
                fresh=fresh,
                full=full,
                poll_after_seconds=hint,
            )
        )

    async def status(
        self, task: Task, ctx: ServerRequestContext[Any, Any], *, full: bool | None = None, again: bool = True
    ) -> dict[str, Any]:
        """The tool result with the task's status."""
        now = self._clock()
        full = self._full if full is None else full
        hint = self._hint(task, now, full=full)
        return tool_results.json_result(
            status_answer(
                task,
                await self._offer(ctx, hint),
                now=now,
                full=full,
                poll_after_seconds=hint,
                eta_seconds=self._advisor.eta(task, now),
                again=again,
                answerer=self._elicitation.answerer(ctx, task),
            )
        )

    def _hint(self, task: Task, now: datetime, *, full: bool) -> float | None:
        # Programs read the full form.
        return (self._advisor.for_program if full else self._advisor.for_model)(task, now)

    async def _offer(self, ctx: ServerRequestContext[Any, Any], hint: float | None) -> Offer:
        seconds, known = await self._holds.offered(ctx)
        return Offer(seconds, None if known else self._holds.longest, hint)


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
