"""The rules of a task's life: one pure table, `(task, event, now) -> task`.

Every store applies the result by compare-and-set on `Task.version`, so these rules exist once. docs/how-it-works.md
draws the table; a test compares the drawing with `TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from raincheck.domain.task import InputRequest, Outcome, Progress, Task, TaskError, TaskStatus
from raincheck.domain.unicode_text import well_formed, well_formed_json
from raincheck.errors import TaskTimeout, WorkerLost


class Refused(Exception):
    """The event does not apply to the task as it is: the typed outcome of the losing writer.

    Attributes:
        task: The task as it was found.
        event: What was refused.
        reason: "terminal", "fenced" (the writer's lease is gone) or "status".
    """

    def __init__(self, task: Task, event: Event, reason: str) -> None:
        super().__init__(f"{type(event).__name__} refused for a {task.status} task: {reason}")
        self.task = task
        self.event = event
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A worker takes a pending task."""

    worker_id: str
    lease_until: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportProgress:
    """The worker says how far it is."""

    fence: int
    progress: Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class AwaitExternal:
    """The operation hands the task's end over to a holder of its token: from now on its code is not started again."""

    fence: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveCheckpoint:
    """The operation saves what it can go on from: from now on a lost worker is no reason to fail."""

    fence: int
    checkpoint: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class AskInput:
    """The worker asks the caller; the task parks until every question is answered. No question: nothing changes."""

    fence: int
    requests: tuple[InputRequest, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProvideInput:
    """The caller answers. Unknown and answered keys are ignored; the rest may follow later."""

    responses: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settle:
    """The worker has the outcome."""

    fence: int
    outcome: Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class CompleteExternally:
    """The holder of the task's one-time token brings the outcome, whatever its worker does."""

    outcome: Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """The worker gives the task up (a clean shutdown): as a lost lease, at once."""

    fence: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseExpired:
    """The sweeper found that the worker no longer renews.

    Attributes:
        gone: The worker whose process is known to be dead. Its lease counts as over whatever time it has left; a task
            that another worker has by now is none of its.
    """

    gone: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadlinePassed:
    """The sweeper or the worker found that the deadline is over.

    Attributes:
        repeatable: Whether running the task's operation twice is declared harmless, beside `Task.retry_when_lost`.
    """

    repeatable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancel:
    """The caller wants no result any more."""


Event = (
    Claim
    | ReportProgress
    | SaveCheckpoint
    | AwaitExternal
    | AskInput
    | ProvideInput
    | Settle
    | CompleteExternally
    | Release
    | LeaseExpired
    | DeadlinePassed
    | Cancel
)


def transition(task: Task, event: Event, now: datetime) -> Task:
    """The task after `event`, with the next version.

    Raises:
        Refused: The event does not apply; the task stays as it is.
    """
    if task.terminal:
        raise Refused(task, event, "terminal")
    rule = TABLE.get((task.status, type(event)))
    if rule is None:
        raise Refused(task, event, "status")
    return rule(task, event, now)


def _next(task: Task, now: datetime, **changes: Any) -> Task:
    # A clock that steps back must not make the last change look older than the one before.
    return replace(task, version=task.version + 1, updated_at=max(now, task.updated_at), **changes)


def _held(task: Task, event: ReportProgress | SaveCheckpoint | AwaitExternal | AskInput | Settle | Release) -> None:
    if event.fence != task.fence:
        raise Refused(task, event, "fenced")


def _settled(task: Task, now: datetime, status: TaskStatus, outcome: Outcome) -> Task:
    at = max(now, task.updated_at)
    return _next(
        task,
        now,
        status=status,
        outcome=outcome,
        settled_at=at,
        expires_at=at + timedelta(seconds=task.ttl_seconds),
        worker_id=None,
        lease_until=None,
        # Questions whose answer would not be heard are withdrawn.
        inputs=tuple(request for request in task.inputs if request.response is not None),
    )


def _claim(task: Task, event: Claim, now: datetime) -> Task:
    return _next(
        task,
        now,
        status=TaskStatus.PROCESSING,
        attempt=task.attempt + 1,
        fence=task.fence + 1,
        worker_id=event.worker_id,
        lease_until=event.lease_until,
        started_at=now,
        progress=None,
    )


def _progress(task: Task, event: ReportProgress, now: datetime) -> Task:
    _held(task, event)
    message = event.progress.message
    clean = event.progress if message is None else replace(event.progress, message=well_formed(message))
    return _next(task, now, progress=clean)


def _checkpoint(task: Task, event: SaveCheckpoint, now: datetime) -> Task:
    _held(task, event)
    return task if event.checkpoint == task.checkpoint else _next(task, now, checkpoint=event.checkpoint)


def _await_external(task: Task, event: AwaitExternal, now: datetime) -> Task:
    _held(task, event)
    return task if task.awaiting_external else _next(task, now, awaiting_external=True)


def _ask(task: Task, event: AskInput, now: datetime) -> Task:
    _held(task, event)
    # Who asks again, since the store's answer was lost, asks once.
    asked = {request.key for request in task.inputs}
    requests = tuple(
        replace(request, params=well_formed_json(request.params))
        for request in event.requests
        if request.key not in asked
    )
    if not requests:
        return task
    return _next(task, now, status=TaskStatus.INPUT_REQUIRED, inputs=task.inputs + requests)


def _provide(task: Task, event: ProvideInput, now: datetime) -> Task:
    inputs = tuple(
        replace(request, response=event.responses[request.key])
        if request.response is None and request.key in event.responses
        else request
        for request in task.inputs
    )
    if inputs == task.inputs:
        return task
    waiting = any(request.response is None for request in inputs)
    return _next(task, now, inputs=inputs, status=TaskStatus.INPUT_REQUIRED if waiting else TaskStatus.PROCESSING)


def _settle(task: Task, event: Settle, now: datetime) -> Task:
    _held(task, event)
    return _call_back(task, event, now)


def _call_back(task: Task, event: Settle | CompleteExternally, now: datetime) -> Task:
    outcome, error = event.outcome, event.outcome.error
    if error is None:
        # The last report was of the work under way. Where it failed or was cancelled it still says how far it came.
        done = task.progress and Progress(fraction=1.0)
        return _settled(replace(task, progress=done), now, TaskStatus.COMPLETED, outcome)
    # Of what succeeds the text was looked through when it was measured (`raincheck.tasks.results.outcome_of`).
    clean = replace(error, message=well_formed(error.message), details=well_formed_json(error.details))
    return _settled(task, now, TaskStatus.FAILED, replace(outcome, error=clean))


def shown_when_lost(task: Task) -> Task:
    """A task as callers are told of it while its attempt is lost and that is not written yet.

    How far the lost attempt had come says nothing any more. What starts again is `pending` already; what does not was
    started, so that it stays `processing`: `pending` would say that it has had no effect, and its end is not written.
    """
    if task.status is TaskStatus.PROCESSING and _may_go_on(task) and task.attempt < task.max_attempts:
        return replace(task, status=TaskStatus.PENDING, progress=None, started_at=None)
    return replace(task, progress=None)


def _may_go_on(task: Task) -> bool:
    return task.retry_when_lost or task.resumable


def _lost(task: Task, now: datetime, why: str, *, killed_it: bool) -> Task:
    may_go_on = _may_go_on(task)
    # A shutdown says nothing against a task: one with a checkpoint may see any number of them.
    spared = task.resumable and not killed_it
    if may_go_on and (spared or task.attempt < task.max_attempts):
        return _next(
            task,
            now,
            status=TaskStatus.PENDING,
            worker_id=None,
            lease_until=None,
            started_at=None,
            # The next attempt begins anew: how far this one had come must not be taken for work under way.
            progress=None,
            inputs=tuple(request for request in task.inputs if request.response is not None),
        )
    if may_go_on:
        message = f"The task was given up after {task.attempt} starts: {why} each time."
    else:
        message = f"The task was started and then {why}; it may have taken effect and was not run again."
    lost = WorkerLost(message, retryable=task.retry_when_lost, details={"attempts": task.attempt})
    error = TaskError.from_exception(lost)
    return _settled(task, now, TaskStatus.FAILED, Outcome(error=error))


def _release(task: Task, event: Release, now: datetime) -> Task:
    _held(task, event)
    return _lost(task, now, "its worker was shut down", killed_it=False)


def _lease_expired(task: Task, event: LeaseExpired, now: datetime) -> Task:
    if task.lease_until is None or (task.lease_until > now and event.gone is None):
        raise Refused(task, event, "status")
    if event.gone not in (None, task.worker_id):
        raise Refused(task, event, "fenced")
    return _lost(task, now, "its worker was lost", killed_it=True)


def _deadline(task: Task, event: DeadlinePassed, now: datetime) -> Task:
    if task.deadline_at > now:
        raise Refused(task, event, "status")
    seconds = round((task.deadline_at - task.created_at).total_seconds(), 3)
    error = TaskTimeout(
        f"The task was not settled within {seconds:g} s of its acceptance (deadline); it was {task.status}.",
        retryable=event.repeatable or task.retry_when_lost or not task.attempt,
        details={"limit": "deadline", "phase": str(task.status), "seconds": seconds},
    )
    return _settled(task, now, TaskStatus.FAILED, Outcome(error=TaskError.from_exception(error)))


def _cancel(task: Task, event: Cancel, now: datetime) -> Task:
    return _settled(task, now, TaskStatus.CANCELLED, Outcome())


Rule = Callable[[Task, Any, datetime], Task]

TABLE: Mapping[tuple[TaskStatus, type[Event]], Rule] = {
    (TaskStatus.PENDING, Claim): _claim,
    (TaskStatus.PENDING, CompleteExternally): _call_back,
    (TaskStatus.PENDING, DeadlinePassed): _deadline,
    (TaskStatus.PENDING, Cancel): _cancel,
    (TaskStatus.PROCESSING, ReportProgress): _progress,
    (TaskStatus.PROCESSING, SaveCheckpoint): _checkpoint,
    (TaskStatus.PROCESSING, AwaitExternal): _await_external,
    (TaskStatus.PROCESSING, AskInput): _ask,
    (TaskStatus.PROCESSING, Settle): _settle,
    (TaskStatus.PROCESSING, CompleteExternally): _call_back,
    (TaskStatus.PROCESSING, Release): _release,
    (TaskStatus.PROCESSING, LeaseExpired): _lease_expired,
    (TaskStatus.PROCESSING, DeadlinePassed): _deadline,
    (TaskStatus.PROCESSING, Cancel): _cancel,
    (TaskStatus.INPUT_REQUIRED, AskInput): _ask,
    (TaskStatus.INPUT_REQUIRED, ProvideInput): _provide,
    (TaskStatus.INPUT_REQUIRED, SaveCheckpoint): _checkpoint,
    (TaskStatus.INPUT_REQUIRED, AwaitExternal): _await_external,
    (TaskStatus.INPUT_REQUIRED, Settle): _settle,
    (TaskStatus.INPUT_REQUIRED, CompleteExternally): _call_back,
    (TaskStatus.INPUT_REQUIRED, Release): _release,
    (TaskStatus.INPUT_REQUIRED, LeaseExpired): _lease_expired,
    (TaskStatus.INPUT_REQUIRED, DeadlinePassed): _deadline,
    (TaskStatus.INPUT_REQUIRED, Cancel): _cancel,
}
"""Which events apply in which status. Whatever is not here is refused; terminal statuses have no row."""
