"""The rules of permits alone: how many at once, how fast, who comes first, and whose permits the dead leave."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raincheck.domain.task import Outcome, Task, TaskError, TaskStatus
from raincheck.domain.transitions import Cancel, Claim, LeaseExpired, Release, Settle, transition
from raincheck.limits.permit_rules import (
    Limit,
    PermitHolder,
    PermitLedger,
    Refusal,
    from_json,
    gone,
    released,
    taken,
    to_json,
)

T = 1_000_000.0
TWO = Limit(max_running=2, interval=0.0, burst=1)
PACED = Limit(max_running=0, interval=10.0, burst=3)


def take(
    ledger: PermitLedger, ref: str, limit: Limit = TWO, now: float = T, **how: bool
) -> tuple[PermitLedger, Refusal | None]:
    return taken(ledger, limit, ref, PermitHolder("me", 1, now), now, start=how.get("start", True))


def test_no_more_than_the_limit_at_once_and_one_more_after_each_that_is_given_back() -> None:
    ledger, _ = take(PermitLedger(), "a")
    ledger, _ = take(ledger, "b")
    full, refused = take(ledger, "c")
    assert full is ledger
    assert refused is not None
    assert refused.limit == "max_running"
    ledger = released(ledger, "a", "me", TWO, started=True)
    ledger, refused = take(ledger, "c")
    assert refused is None
    assert set(ledger.holders) == {"b", "c"}


def test_who_has_a_permit_may_take_it_again() -> None:
    ledger, _ = take(take(PermitLedger(), "a")[0], "b")
    assert take(ledger, "a", start=False)[1] is None
    assert taken(ledger, TWO, "a", PermitHolder("me", 2, T), T, start=True)[1] is None


def test_a_permit_of_another_process_for_the_same_start_is_left_to_it() -> None:
    ledger, _ = take(PermitLedger(), "a")
    same = taken(ledger, TWO, "a", PermitHolder("you", 1, T), T, start=True)[1]
    assert same is not None
    assert same.limit == "taken"
    later, refused = taken(ledger, TWO, "a", PermitHolder("you", 2, T), T, start=True)
    assert refused is None
    assert later.holders["a"].owner == "you"
    assert released(later, "a", "me", TWO, started=True) == later


def test_a_parked_task_comes_before_every_start_and_leaves_the_line_when_it_gives_up() -> None:
    ledger, _ = take(take(PermitLedger(), "a")[0], "b")
    ledger, refused = take(ledger, "suspended", start=False)
    assert refused is not None
    free = released(ledger, "a", "me", TWO, started=True)
    assert take(free, "new")[1] is not None
    assert take(free, "suspended", start=False)[1] is None
    assert take(released(free, "suspended", "me", TWO, started=True), "new")[1] is None
    assert take(free, "new", now=T + 6)[1] is None, "who waits says so again and again"


def test_a_permit_with_an_end_ends_by_itself() -> None:
    one = Limit(1, 0.0, 1)
    ledger, _ = taken(PermitLedger(), one, "call", PermitHolder("me", 0, T, T + 5), T, start=True)
    assert take(ledger, "a", one, T + 4)[1] is not None
    assert take(ledger, "a", one, T + 6)[1] is None


def test_starts_come_in_a_burst_and_then_evenly() -> None:
    ledger = PermitLedger()
    for ref in "abc":
        ledger, refused = take(ledger, ref, PACED)
        assert refused is None
    assert take(ledger, "d", PACED)[1] == Refusal("starts_per_minute", 10.0)
    assert take(ledger, "d", PACED, T + 4)[1] == Refusal("starts_per_minute", 6.0)
    ledger, refused = take(ledger, "d", PACED, T + 10)
    assert refused is None
    assert take(ledger, "e", PACED, T + 10)[1] is not None


def test_a_start_that_came_to_nothing_is_given_back_to_the_rate() -> None:
    one = Limit(0, 10.0, 1)
    ledger, _ = take(PermitLedger(), "a", one)
    assert take(released(ledger, "a", "me", one, started=True), "b", one)[1] is not None
    assert take(released(ledger, "a", "me", one, started=False), "b", one)[1] is None


def test_going_on_costs_no_start() -> None:
    ledger, _ = take(PermitLedger(), "a", Limit(5, 10.0, 1))
    assert take(ledger, "b", Limit(5, 10.0, 1), start=False)[1] is None


def test_a_clock_that_jumps_back_stops_no_start_for_longer_than_the_longest_wait() -> None:
    ledger = PermitLedger()
    for ref in "abc":
        ledger, _ = take(ledger, ref, PACED, T + 5000)
    assert take(ledger, "d", PACED, T)[1] == Refusal("starts_per_minute", 10.0)


@given(st.lists(st.floats(0, 20), min_size=1, max_size=60), st.integers(1, 5), st.floats(0.5, 10), st.floats(0, 60))
def test_no_window_holds_more_starts_than_the_rate_and_the_burst(
    pauses: list[float], burst: int, interval: float, window: float
) -> None:
    limit, ledger, now, starts = Limit(0, interval, burst), PermitLedger(), 0.0, list[float]()
    for number, pause in enumerate(pauses):
        now += pause
        ledger, refused = take(ledger, str(number), limit, now)
        if refused is None:
            starts.append(now)
    for first in starts:
        inside = [start for start in starts if first <= start <= first + window]
        assert len(inside) <= burst + window / interval + 1e-6


def test_a_book_is_the_same_after_the_store() -> None:
    ledger, _ = take(take(PermitLedger(), "a")[0], "b", PACED)
    ledger, _ = take(ledger, "p", Limit(1, 0, 1), start=False)
    assert from_json(json.loads(json.dumps(to_json(ledger)))) == ledger


NOW = datetime.fromtimestamp(T, UTC)
PENDING = Task(
    task_ref="a",
    scope="s",
    operation_type="o",
    arguments={},
    created_at=NOW,
    updated_at=NOW,
    deadline_at=NOW + timedelta(hours=1),
    ttl_seconds=60,
    retry_when_lost=True,
)
RUNNING = transition(PENDING, Claim(worker_id="w", lease_until=NOW), NOW)
DONE = transition(RUNNING, Settle(fence=1, outcome=Outcome()), NOW)
LOST = transition(RUNNING, Settle(fence=1, outcome=Outcome(error=TaskError(code="worker_lost", message="lost"))), NOW)
AGAIN = transition(RUNNING, LeaseExpired(), NOW + timedelta(seconds=1))


@pytest.mark.parametrize(
    ("task", "seconds", "dead"),
    [
        (PENDING, 19, False),
        (PENDING, 21, True),
        (None, 19, False),
        (None, 21, True),
        (transition(PENDING, Cancel(), NOW), 1, True),
        (RUNNING, 10_000, False),
        (DONE, 14, False),
        (DONE, 16, True),
        (LOST, 0, True),
        (AGAIN, 0, True),
        (transition(RUNNING, Release(fence=1), NOW), 0, True),
        (transition(AGAIN, Claim(worker_id="x", lease_until=NOW), NOW), 0, True),
        (replace(RUNNING, status=TaskStatus.INPUT_REQUIRED), 14, False),
        (replace(RUNNING, status=TaskStatus.INPUT_REQUIRED), 16, True),
    ],
)
def test_whose_permit_is_free_again(task: Task | None, seconds: float, dead: bool) -> None:
    assert gone(PermitHolder("other", 1, T), task, T + seconds) is dead
