"""The rules of a task's life: every status against every event, and what holds whatever happens."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raincheck.domain.task import TERMINAL, InputRequest, Outcome, Progress, Task, TaskError, TaskStatus
from raincheck.domain.transitions import (
    TABLE,
    AskInput,
    AwaitExternal,
    Cancel,
    Claim,
    CompleteExternally,
    DeadlinePassed,
    Event,
    LeaseExpired,
    ProvideInput,
    Refused,
    Release,
    ReportProgress,
    SaveCheckpoint,
    Settle,
    transition,
)

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
QUESTION = InputRequest(key="q1", method="elicitation/create", params={"message": "Which?"})
OTHER_QUESTION = InputRequest(key="q2", method="elicitation/create", params={"message": "And?"})
ANSWER = {"action": "accept", "content": {"n": 1}}
FAILURE = Outcome(error=TaskError(code="operation_failed", message="no"))


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def pending(*, retry: bool = False, max_attempts: int = 3) -> Task:
    return Task(
        task_ref="ref",
        scope="ada",
        operation_type="report",
        arguments={"a": 1},
        created_at=NOW,
        updated_at=NOW,
        deadline_at=after(100),
        ttl_seconds=60,
        retry_when_lost=retry,
        max_attempts=max_attempts,
    )


CLAIM = Claim(worker_id="worker", lease_until=after(30))
PATHS: dict[TaskStatus, tuple[Event, ...]] = {
    TaskStatus.PENDING: (),
    TaskStatus.PROCESSING: (CLAIM,),
    TaskStatus.INPUT_REQUIRED: (CLAIM, AskInput(fence=1, requests=(QUESTION,))),
    TaskStatus.COMPLETED: (CLAIM, Settle(fence=1, outcome=Outcome(value=1))),
    TaskStatus.FAILED: (CLAIM, Settle(fence=1, outcome=FAILURE)),
    TaskStatus.CANCELLED: (Cancel(),),
}
# One that applies where the table says so, at a time when lease and deadline are over.
EVENTS: dict[type[Event], Event] = {
    Claim: CLAIM,
    ReportProgress: ReportProgress(fence=1, progress=Progress(fraction=0.5)),
    SaveCheckpoint: SaveCheckpoint(fence=1, checkpoint={"job": 7}),
    AwaitExternal: AwaitExternal(fence=1),
    AskInput: AskInput(fence=1, requests=(OTHER_QUESTION,)),
    ProvideInput: ProvideInput(responses={"q1": ANSWER}),
    Settle: Settle(fence=1, outcome=Outcome(value=2)),
    CompleteExternally: CompleteExternally(outcome=Outcome(value=3)),
    Release: Release(fence=1),
    LeaseExpired: LeaseExpired(),
    DeadlinePassed: DeadlinePassed(),
    Cancel: Cancel(),
}
LATE = after(1000)


def in_status(status: TaskStatus, *, retry: bool = False, max_attempts: int = 3) -> Task:
    task = pending(retry=retry, max_attempts=max_attempts)
    for event in PATHS[status]:
        task = transition(task, event, after(1))
    assert task.status is status
    return task


def refusal(task: Task, event: Event, now: datetime) -> str:
    with pytest.raises(Refused) as refused:
        transition(task, event, now)
    assert refused.value.task is task
    assert refused.value.event is event
    return refused.value.reason


# What follows from what. Rows: status; a pair that is not here is refused.
EXPECTED: dict[tuple[TaskStatus, type[Event]], TaskStatus] = {
    (TaskStatus.PENDING, Claim): TaskStatus.PROCESSING,
    (TaskStatus.PENDING, CompleteExternally): TaskStatus.COMPLETED,
    (TaskStatus.PENDING, DeadlinePassed): TaskStatus.FAILED,
    (TaskStatus.PENDING, Cancel): TaskStatus.CANCELLED,
    (TaskStatus.PROCESSING, ReportProgress): TaskStatus.PROCESSING,
    (TaskStatus.PROCESSING, SaveCheckpoint): TaskStatus.PROCESSING,
    (TaskStatus.PROCESSING, AwaitExternal): TaskStatus.PROCESSING,
    (TaskStatus.PROCESSING, AskInput): TaskStatus.INPUT_REQUIRED,
    (TaskStatus.PROCESSING, Settle): TaskStatus.COMPLETED,
    (TaskStatus.PROCESSING, CompleteExternally): TaskStatus.COMPLETED,
    (TaskStatus.PROCESSING, Release): TaskStatus.FAILED,
    (TaskStatus.PROCESSING, LeaseExpired): TaskStatus.FAILED,
    (TaskStatus.PROCESSING, DeadlinePassed): TaskStatus.FAILED,
    (TaskStatus.PROCESSING, Cancel): TaskStatus.CANCELLED,
    (TaskStatus.INPUT_REQUIRED, SaveCheckpoint): TaskStatus.INPUT_REQUIRED,
    (TaskStatus.INPUT_REQUIRED, AwaitExternal): TaskStatus.INPUT_REQUIRED,
    (TaskStatus.INPUT_REQUIRED, AskInput): TaskStatus.INPUT_REQUIRED,
    (TaskStatus.INPUT_REQUIRED, ProvideInput): TaskStatus.PROCESSING,
    (TaskStatus.INPUT_REQUIRED, Settle): TaskStatus.COMPLETED,
    (TaskStatus.INPUT_REQUIRED, CompleteExternally): TaskStatus.COMPLETED,
    (TaskStatus.INPUT_REQUIRED, Release): TaskStatus.FAILED,
    (TaskStatus.INPUT_REQUIRED, LeaseExpired): TaskStatus.FAILED,
    (TaskStatus.INPUT_REQUIRED, DeadlinePassed): TaskStatus.FAILED,
    (TaskStatus.INPUT_REQUIRED, Cancel): TaskStatus.CANCELLED,
}


def test_every_kind_of_event_is_tried() -> None:
    assert set(EVENTS) == set(get_args(Event))
    assert set(EXPECTED) == set(TABLE)


@pytest.mark.parametrize("status", TaskStatus)
@pytest.mark.parametrize("kind", EVENTS)
def test_every_event_in_every_status_applies_or_is_refused_as_the_table_says(
    status: TaskStatus, kind: type[Event]
) -> None:
    task, event = in_status(status), EVENTS[kind]
    if (status, kind) in EXPECTED:
        changed = transition(task, event, LATE)
        assert changed.status is EXPECTED[status, kind]
        assert changed.version == task.version + 1
        assert changed.updated_at == LATE
    else:
        assert refusal(task, event, LATE) == ("terminal" if status in TERMINAL else "status")


@pytest.mark.parametrize("status", [TaskStatus.PROCESSING, TaskStatus.INPUT_REQUIRED])
@pytest.mark.parametrize("kind", [Release, LeaseExpired])
def test_a_lost_task_that_may_run_again_is_pending_again(status: TaskStatus, kind: type[Event]) -> None:
    task = replace(in_status(status, retry=True), progress=Progress(fraction=0.5))
    back = transition(task, EVENTS[kind], LATE)
    assert (back.status, back.progress) == (TaskStatus.PENDING, None)
    assert (back.worker_id, back.lease_until, back.started_at, back.outstanding) == (None, None, None, ())
    assert (back.attempt, back.fence, back.outcome, back.settled_at) == (1, 1, None, None)


# Who may write.


FENCED = [(status, event) for status, kind in TABLE if hasattr(event := EVENTS[kind], "fence")]


def test_all_that_a_worker_says_is_fenced() -> None:
    assert {type(event) for _, event in FENCED} == {
        ReportProgress,
        SaveCheckpoint,
        AwaitExternal,
        AskInput,
        Settle,
        Release,
    }


@pytest.mark.parametrize("fence", [0, 2])
@pytest.mark.parametrize(("status", "event"), FENCED)
def test_a_worker_with_another_fencing_number_can_write_nothing(status: TaskStatus, event: Event, fence: int) -> None:
    assert isinstance(event, ReportProgress | SaveCheckpoint | AwaitExternal | AskInput | Settle | Release)
    assert refusal(in_status(status), replace(event, fence=fence), LATE) == "fenced"


def test_a_worker_that_lost_its_lease_cannot_write_over_its_successor() -> None:
    first = in_status(TaskStatus.PROCESSING, retry=True)
    second = transition(transition(first, LeaseExpired(), after(31)), replace(CLAIM, worker_id="next"), after(32))
    assert (second.fence, second.attempt, second.worker_id) == (2, 2, "next")
    assert refusal(second, EVENTS[Settle], after(33)) == "fenced"
    done = transition(second, Settle(fence=2, outcome=Outcome(value="second")), after(34))
    assert refusal(done, EVENTS[Settle], after(35)) == "terminal"


# Checkpoints, and ends from outside.


def test_a_task_with_a_checkpoint_goes_on_when_its_worker_is_lost() -> None:
    task = transition(in_status(TaskStatus.PROCESSING), EVENTS[SaveCheckpoint], after(5))
    for number in range(1, 3):
        task = transition(task, LeaseExpired(), after(40 * number))
        assert (task.status, task.checkpoint) == (TaskStatus.PENDING, {"job": 7})
        task = transition(task, replace(CLAIM, lease_until=after(40 * number + 30)), after(40 * number))
    given_up = transition(task, LeaseExpired(), LATE)
    assert given_up.outcome is not None
    assert given_up.outcome.error is not None
    assert given_up.outcome.error.code == "worker_lost"
    assert "3 starts" in given_up.outcome.error.message


def test_shutdowns_do_not_count_against_a_task_with_a_checkpoint() -> None:
    task = transition(in_status(TaskStatus.PROCESSING), EVENTS[SaveCheckpoint], after(5))
    for number in range(10):
        task = transition(task, Release(fence=task.fence), after(10 + number))
        assert task.status is TaskStatus.PENDING
        task = transition(task, CLAIM, after(10 + number))


def test_the_same_checkpoint_again_changes_nothing() -> None:
    task = transition(in_status(TaskStatus.PROCESSING), EVENTS[SaveCheckpoint], after(5))
    assert transition(task, EVENTS[SaveCheckpoint], after(6)) is task


@pytest.mark.parametrize(
    ("outcome", "status"), [(Outcome(value=3), TaskStatus.COMPLETED), (FAILURE, TaskStatus.FAILED)]
)
@pytest.mark.parametrize("start", [TaskStatus.PENDING, TaskStatus.PROCESSING, TaskStatus.INPUT_REQUIRED])
def test_whoever_calls_back_needs_no_lease(start: TaskStatus, outcome: Outcome, status: TaskStatus) -> None:
    ended = transition(in_status(start), CompleteExternally(outcome=outcome), after(9))
    assert (ended.status, ended.outcome, ended.worker_id, ended.outstanding) == (status, outcome, None, ())


@pytest.mark.parametrize("end", [Settle, CompleteExternally])
def test_a_completed_task_does_not_stay_at_its_last_report(end: type[Settle | CompleteExternally]) -> None:
    def ended(outcome: Outcome, progress: Progress | None) -> Progress | None:
        event = Settle(fence=1, outcome=outcome) if end is Settle else CompleteExternally(outcome=outcome)
        return transition(replace(in_status(TaskStatus.PROCESSING), progress=progress), event, after(9)).progress

    reported = Progress(fraction=0.67, message="page 2 of 3")
    assert ended(Outcome(value=1), reported) == Progress(fraction=1.0)
    assert ended(Outcome(value=1), Progress(message="packing")) == Progress(fraction=1.0)
    assert ended(Outcome(value=1), None) is None
    assert ended(FAILURE, reported) == reported


# Claims.


def test_a_claim_names_the_worker_and_starts_anew() -> None:
    first = transition(pending(retry=True), CLAIM, after(5))
    assert (first.worker_id, first.lease_until, first.started_at) == ("worker", after(30), after(5))
    assert (first.attempt, first.fence) == (1, 1)
    reported = transition(first, EVENTS[ReportProgress], after(6))
    assert reported.progress == Progress(fraction=0.5)
    again = transition(transition(reported, Release(fence=1), after(7)), CLAIM, after(8))
    assert (again.attempt, again.fence, again.progress, again.started_at) == (2, 2, None, after(8))


# Lost workers.


def test_a_lease_that_is_not_over_is_not_lost() -> None:
    task = in_status(TaskStatus.PROCESSING)
    assert refusal(task, LeaseExpired(), after(29.999999)) == "status"
    assert transition(task, LeaseExpired(), after(30)).status is TaskStatus.FAILED


@pytest.mark.parametrize("status", [TaskStatus.PROCESSING, TaskStatus.INPUT_REQUIRED])
def test_a_worker_that_is_known_to_be_gone_has_no_lease_any_more(status: TaskStatus) -> None:
    task = in_status(status, retry=True)
    assert transition(task, LeaseExpired(gone="worker"), after(2)).status is TaskStatus.PENDING
    failed = transition(replace(task, retry_when_lost=False), LeaseExpired(gone="worker"), after(2))
    assert failed == transition(replace(task, retry_when_lost=False, lease_until=after(2)), LeaseExpired(), after(2))


@pytest.mark.parametrize("now", [after(2), LATE])
def test_a_worker_that_is_gone_takes_no_task_from_its_successor(now: datetime) -> None:
    task = in_status(TaskStatus.PROCESSING, retry=True)
    assert refusal(task, LeaseExpired(gone="an earlier worker"), now) == "fenced"
    assert refusal(pending(), LeaseExpired(gone="worker"), now) == "status"


def test_a_lost_task_that_may_not_run_again_has_failed_as_worker_lost() -> None:
    lost = transition(in_status(TaskStatus.PROCESSING), LeaseExpired(), after(31))
    assert lost.outcome is not None
    assert lost.outcome.error is not None
    assert (lost.outcome.error.code, lost.outcome.error.retryable) == ("worker_lost", False)
    assert lost.outcome.error.details == {"attempts": 1}
    assert "was not run again" in lost.outcome.error.message


@pytest.mark.parametrize("max_attempts", [1, 2, 3])
def test_a_task_that_loses_its_workers_is_given_up_after_so_many_starts(max_attempts: int) -> None:
    task = pending(retry=True, max_attempts=max_attempts)
    starts = 0
    while not task.terminal:
        task = transition(transition(task, CLAIM, after(1)), LeaseExpired(), after(31))
        starts += 1
        assert starts <= max_attempts
    assert starts == max_attempts
    assert task.status is TaskStatus.FAILED
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert (task.outcome.error.code, task.outcome.error.retryable) == ("worker_lost", True)
    assert task.outcome.error.details == {"attempts": max_attempts}
    assert f"given up after {max_attempts} starts" in task.outcome.error.message


@pytest.mark.parametrize(
    ("task", "event", "retryable"),
    [
        (pending(), DeadlinePassed(), True),
        (in_status(TaskStatus.PROCESSING), DeadlinePassed(), False),
        (in_status(TaskStatus.INPUT_REQUIRED), DeadlinePassed(), False),
        (in_status(TaskStatus.PROCESSING, retry=True), DeadlinePassed(), True),
        (in_status(TaskStatus.PROCESSING), DeadlinePassed(repeatable=True), True),
        (replace(pending(), attempt=1, checkpoint={"job": 7}), DeadlinePassed(), False),
    ],
)
def test_what_had_begun_invites_to_call_again_where_running_it_twice_is_declared_harmless(
    task: Task, event: Event, retryable: bool
) -> None:
    over = transition(task, event, LATE)
    assert over.outcome is not None
    assert over.outcome.error is not None
    assert (over.outcome.error.code, over.outcome.error.retryable) == ("timeout", retryable)


# Questions.


def test_a_task_goes_on_when_every_question_is_answered() -> None:
    task = transition(in_status(TaskStatus.PROCESSING), AskInput(fence=1, requests=(QUESTION, OTHER_QUESTION)), NOW)
    half = transition(task, ProvideInput(responses={"q2": ANSWER, "unknown": ANSWER}), after(2))
    assert half.status is TaskStatus.INPUT_REQUIRED
    assert half.outstanding == (QUESTION,)
    whole = transition(half, ProvideInput(responses={"q1": ANSWER}), after(3))
    assert whole.status is TaskStatus.PROCESSING
    assert [(request.key, request.response) for request in whole.inputs] == [("q1", ANSWER), ("q2", ANSWER)]
    assert (whole.worker_id, whole.fence, whole.lease_until) == (task.worker_id, task.fence, task.lease_until)


def test_answers_to_nothing_change_nothing() -> None:
    task = in_status(TaskStatus.INPUT_REQUIRED)
    assert transition(task, ProvideInput(responses={}), after(2)) is task
    assert transition(task, ProvideInput(responses={"unknown": ANSWER}), after(2)) is task


def test_the_first_answer_stands() -> None:
    task = transition(in_status(TaskStatus.PROCESSING), AskInput(fence=1, requests=(QUESTION, OTHER_QUESTION)), NOW)
    task = transition(task, ProvideInput(responses={"q1": ANSWER}), after(2))
    assert transition(task, ProvideInput(responses={"q1": {"action": "decline"}}), after(3)) is task


def test_a_settled_task_asks_nothing_and_keeps_what_was_answered() -> None:
    task = transition(in_status(TaskStatus.PROCESSING), AskInput(fence=1, requests=(QUESTION, OTHER_QUESTION)), NOW)
    task = transition(task, ProvideInput(responses={"q1": ANSWER}), after(2))
    for event in (Cancel(), DeadlinePassed(), Settle(fence=1, outcome=Outcome())):
        assert [request.key for request in transition(task, event, LATE).inputs] == ["q1"]


# The end.


@pytest.mark.parametrize("status", [TaskStatus.PENDING, TaskStatus.PROCESSING, TaskStatus.INPUT_REQUIRED])
def test_a_deadline_ends_in_a_timeout_that_says_where(status: TaskStatus) -> None:
    task = in_status(status)
    assert refusal(task, DeadlinePassed(), after(99.999999)) == "status"
    over = transition(task, DeadlinePassed(), after(100))
    assert over.outcome is not None
    assert over.outcome.error is not None
    assert over.outcome.error.code == "timeout"
    assert over.outcome.error.details == {"limit": "deadline", "phase": str(status), "seconds": 100.0}


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome(value=None), TaskStatus.COMPLETED),
        (Outcome(mcp_result={"isError": True}), TaskStatus.COMPLETED),
        (FAILURE, TaskStatus.FAILED),
    ],
)
def test_a_task_ends_as_its_outcome_says(outcome: Outcome, status: TaskStatus) -> None:
    done = transition(in_status(TaskStatus.PROCESSING), Settle(fence=1, outcome=outcome), after(2))
    assert (done.status, done.outcome) == (status, outcome)


@pytest.mark.parametrize("event", [Cancel(), DeadlinePassed(), Settle(fence=1, outcome=Outcome()), Release(fence=1)])
def test_retention_counts_from_settling(event: Event) -> None:
    done = transition(in_status(TaskStatus.PROCESSING), event, after(500))
    assert (done.settled_at, done.expires_at) == (after(500), after(560))
    assert (done.worker_id, done.lease_until) == (None, None)
    assert done.started_at == after(1)


def test_a_clock_that_steps_back_does_not_take_the_task_back() -> None:
    task = transition(pending(), CLAIM, after(10))
    reported = transition(task, EVENTS[ReportProgress], after(5))
    assert reported.updated_at == after(10)
    done = transition(reported, EVENTS[Settle], after(-50))
    assert (done.updated_at, done.settled_at, done.expires_at) == (after(10), after(10), after(70))


# Whatever happens.

fences = st.integers(min_value=0, max_value=4)
events = st.one_of(
    st.builds(Claim, worker_id=st.sampled_from(["a", "b"]), lease_until=st.integers(-50, 200).map(after)),
    st.builds(ReportProgress, fence=fences, progress=st.just(Progress(fraction=0.1))),
    st.builds(AskInput, fence=fences, requests=st.sampled_from([(QUESTION,), (OTHER_QUESTION,), ()])),
    st.builds(ProvideInput, responses=st.sampled_from([{}, {"q1": ANSWER}, {"q2": ANSWER}])),
    st.builds(Settle, fence=fences, outcome=st.sampled_from([Outcome(value=1), FAILURE])),
    st.builds(CompleteExternally, outcome=st.sampled_from([Outcome(value=1), FAILURE])),
    st.builds(AwaitExternal, fence=fences),
    st.builds(SaveCheckpoint, fence=fences, checkpoint=st.sampled_from([None, 1, {"job": 2}])),
    st.builds(Release, fence=fences),
    st.sampled_from([LeaseExpired(), DeadlinePassed(), Cancel()]),
)
histories = st.lists(st.tuples(events, st.integers(-50, 200).map(after)), max_size=30)
FIXED = {
    "task_ref",
    "scope",
    "operation_type",
    "arguments",
    "created_at",
    "deadline_at",
    "ttl_seconds",
    "max_attempts",
    "retry_when_lost",
    "idempotency_key",
    "fingerprint",
    "priority",
    "callback_url",
}


@given(history=histories, retry=st.booleans())
def test_whatever_happens_the_record_stays_sound(history: list[tuple[Event, datetime]], retry: bool) -> None:
    task, saved, shut_down = pending(retry=retry), False, 0
    for event, now in history:
        before = task
        try:
            task = transition(before, event, now)
        except Refused:
            continue
        if task is before:
            continue
        assert not before.terminal
        assert task.version == before.version + 1
        assert task.updated_at >= before.updated_at
        assert task.fence - before.fence == task.attempt - before.attempt == int(isinstance(event, Claim))
        saved = saved or task.checkpoint is not None
        shut_down += isinstance(event, Release)
        assert task.attempt <= (task.max_attempts + (shut_down if saved else 0) if retry or saved else 1)
        for field in fields(task):
            assert field.name not in FIXED or getattr(task, field.name) == getattr(before, field.name)
        assert task.terminal == (task.outcome is not None) == (task.settled_at is not None)
        assert task.terminal == (task.expires_at is not None)
        working = task.status in (TaskStatus.PROCESSING, TaskStatus.INPUT_REQUIRED)
        assert working == (task.worker_id is not None) == (task.lease_until is not None)
        if task.terminal:
            assert task.settled_at == task.updated_at
            assert task.outstanding == ()
        if task.status is TaskStatus.FAILED:
            assert task.outcome is not None
            assert task.outcome.error is not None


@given(history=histories, event=events, now=st.integers(-50, 10**6).map(after), start=st.sampled_from(sorted(TERMINAL)))
def test_a_terminal_task_never_changes(
    history: list[tuple[Event, datetime]], event: Event, now: datetime, start: TaskStatus
) -> None:
    task = in_status(start)
    for each, at in [*history, (event, now)]:
        assert refusal(task, each, at) == "terminal"
