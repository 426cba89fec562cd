"""The breaker's rules alone: when it opens, whom it lets try, when it closes; and the drawing of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pytest
from docs.pages import DOCS, block

from raincheck.errors import TaskTimeout, UpstreamError
from raincheck.limits.breaker import BreakerState, Phase, Result, admit, count, error_counts, from_json, to_json
from raincheck.operations.limits import BreakerPolicy
from raincheck.task import TaskError

POLICY = BreakerPolicy(failure_rate=0.5, window_seconds=10, min_calls=4, cool_down_seconds=5, probes=2)
T = 1_000_000.0


def counted(state: BreakerState, results: Iterable[bool | None], now: float = T) -> BreakerState:
    return count(state, POLICY, [Result(f"r{index}", failed) for index, failed in enumerate(results)], now)


def let_try(state: BreakerState, ref: str, now: float) -> BreakerState:
    state, wait = admit(state, POLICY, ref, now + 100, now)
    assert wait is None
    return state


OPEN = counted(BreakerState(), [True] * 4)


def test_it_opens_at_the_rate_and_not_before_enough_calls() -> None:
    assert counted(BreakerState(), [True] * 3).phase is Phase.CLOSED
    assert counted(BreakerState(), [True, False, False, False]).phase is Phase.CLOSED
    opened = counted(BreakerState(), [True, False, True, False])
    assert opened.phase is Phase.OPEN
    assert opened.opens_until == T + 5


def test_calls_add_up_over_the_window_and_older_ones_do_not_count() -> None:
    state = counted(BreakerState(), [True, True], T)
    assert counted(state, [True, True], T + 8).phase is Phase.OPEN
    assert counted(state, [True, True], T + 11).phase is Phase.CLOSED


def test_what_says_nothing_does_not_count() -> None:
    assert counted(BreakerState(), [None] * 20) == BreakerState()


def test_an_open_one_refuses_until_its_time_and_ignores_calls_from_before() -> None:
    assert admit(OPEN, POLICY, "a", T + 100, T + 2) == (OPEN, 3)
    assert counted(OPEN, [False] * 50, T + 1) is OPEN


def test_after_the_cool_down_as_many_may_try_as_there_are_probes() -> None:
    state = let_try(let_try(OPEN, "a", T + 5), "b", T + 5)
    refused, wait = admit(state, POLICY, "c", T + 100, T + 6)
    assert (refused, wait) == (state, 5)


def test_it_closes_when_all_probes_succeeded_and_forgets_what_was() -> None:
    state = let_try(let_try(OPEN, "a", T + 5), "b", T + 5)
    one = count(state, POLICY, [Result("a", False)], T + 6)
    assert (one.phase, one.passed, len(one.probes)) == (Phase.HALF_OPEN, 1, 1)
    assert admit(one, POLICY, "c", T + 100, T + 6)[1] == 5
    assert count(one, POLICY, [Result("b", False)], T + 6) == BreakerState()


def test_one_probe_that_fails_opens_it_again() -> None:
    state = let_try(OPEN, "a", T + 5)
    again = count(state, POLICY, [Result("a", True)], T + 6)
    assert (again.phase, again.opens_until) == (Phase.OPEN, T + 11)


def test_only_probes_count_while_they_try() -> None:
    state = let_try(OPEN, "a", T + 5)
    assert count(state, POLICY, [Result("old", True)] * 9, T + 6) is state


@pytest.mark.parametrize("lost", ["cancelled", "lapsed"])
def test_a_probe_that_says_nothing_makes_place_for_another(lost: str) -> None:
    state = let_try(let_try(OPEN, "a", T + 5), "b", T + 5)
    if lost == "cancelled":
        state = count(state, POLICY, [Result("a", None)], T + 6)
    later = T + 6 if lost == "cancelled" else T + 106
    assert {probe.ref for probe in let_try(state, "c", later).probes} >= {"c"}


def test_a_clock_that_jumps_back_closes_nothing_for_longer() -> None:
    assert admit(OPEN, POLICY, "a", 0.0, T - 5000)[1] == 5


def test_a_state_is_the_same_after_the_store() -> None:
    for state in (BreakerState(), counted(BreakerState(), [True, False]), OPEN, let_try(OPEN, "a", T + 5)):
        assert from_json(json.loads(json.dumps(to_json(state)))) == state


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (TaskError(code="operation_failed", message=""), True),
        (TaskError.from_exception(UpstreamError("", details={"status": 503})), True),
        (TaskError.from_exception(UpstreamError("", details={"status": 429})), True),
        (TaskError.from_exception(UpstreamError("", details={"status": 401})), True),
        (TaskError.from_exception(UpstreamError("", details={"status": 404})), False),
        (TaskError.from_exception(UpstreamError("refused the connection")), True),
        (TaskError.from_exception(TaskTimeout("", details={"limit": "timeout", "phase": "processing"})), True),
        (TaskError.from_exception(TaskTimeout("", details={"limit": "deadline", "phase": "processing"})), True),
        (TaskError.from_exception(TaskTimeout("", details={"limit": "deadline", "phase": "pending"})), None),
        (TaskError.from_exception(TaskTimeout("", details={"limit": "deadline", "phase": "input_required"})), None),
        (TaskError(code="invalid_parameters", message=""), None),
        (TaskError(code="worker_lost", message=""), False),
        (TaskError(code="result_too_large", message=""), False),
    ],
)
def test_what_counts_as_a_failed_call(error: TaskError, counts: bool | None) -> None:
    assert error_counts(error, POLICY) is counts


def test_codes_choose_what_counts() -> None:
    only = BreakerPolicy(codes=("worker_lost",))
    assert error_counts(TaskError(code="worker_lost", message=""), only) is True
    assert error_counts(TaskError(code="operation_failed", message=""), only) is False


def test_the_drawing_shows_every_change_there_is_and_no_other() -> None:
    drawing = block(DOCS / "limits.md", "breaker").code
    drawn = set(re.findall(r"^ +(\w+) --> (\w+): ", drawing, re.MULTILINE))
    trying = let_try(let_try(OPEN, "a", T + 5), "b", T + 5)
    halfway = count(trying, POLICY, [Result("a", False)], T + 6)
    seen: set[tuple[str, str]] = set()
    for state in (BreakerState(), OPEN, trying, halfway):
        for now in (T + 6, T + 6000):
            results = [Result(ref, failed) for ref in "abc" for failed in (True, False, None)]
            after = [
                counted(state, [True] * 4, now),
                counted(state, [False] * 4, now),
                admit(state, POLICY, "c", now + 1, now)[0],
                *(count(state, POLICY, [each], now) for each in results),
            ]
            seen |= {(str(state.phase), str(each.phase)) for each in after}
    assert drawn == {(before, after) for before, after in seen if before != after}
