"""Ends of tasks, made up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from raincheck.domain.task import Outcome, Task, TaskError
from raincheck.domain.transitions import Cancel, Claim, Event, Settle, transition
from raincheck.errors import OperationFailed, RaincheckError, TaskTimeout
from raincheck.polling.history import End, History

__all__ = ["NOW", "after", "cancelled", "ended", "failed", "history_of", "pending", "processing", "timed_out"]

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def pending(**members: Any) -> Task:
    given: dict[str, Any] = {
        "task_ref": "t",
        "scope": "ada",
        "operation_type": "report",
        "arguments": {},
        "created_at": NOW,
        "updated_at": NOW,
        "deadline_at": after(10**6),
        "ttl_seconds": 3600,
    }
    return Task(**{**given, **members})


def processing(waited: float = 0.0, **members: Any) -> Task:
    at = after(waited)
    return transition(pending(**members), Claim(worker_id="w", lease_until=after(10**6)), at)


def _after(task: Task, event: Event, ran: float) -> Task:
    assert task.started_at is not None
    return transition(task, event, task.started_at + timedelta(seconds=ran))


def ended(ran: float, *, waited: float = 0.0, **members: Any) -> Task:
    task = processing(waited, **members)
    return _after(task, Settle(fence=task.fence, outcome=Outcome(value=1)), ran)


def failed(ran: float, error: RaincheckError | None = None, **members: Any) -> Task:
    task = processing(**members)
    outcome = Outcome(error=TaskError.from_exception(error or OperationFailed("no paper")))
    return _after(task, Settle(fence=task.fence, outcome=outcome), ran)


def timed_out(ran: float) -> Task:
    return failed(ran, TaskTimeout("late", details={"limit": "timeout"}))


def cancelled(ran: float) -> Task:
    return _after(processing(), Cancel(), ran)


def history_of(tasks: Sequence[Task]) -> History:
    history = History(operation_type="report")
    for task in tasks:
        history.add(End.of(task))
    return history
