"""The breaker's rules alone: when it opens, whom it lets try, when it closes; and the drawing of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pytest
from docs.pages import DOCS, block

from raincheck.domain.task import TaskError
from raincheck.errors import TaskTimeout, UpstreamError
from raincheck.limits.breaker_rules import BreakerState, Phase, Result, admit, count, error_counts, from_json, to_json
from raincheck.operations.limit_policy import BreakerPolicy

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


def of(*calls: tuple[str, str]) -> list[Result]:
    """Calls of scopes: "x" failed, "." did not."""
    told = [(scope, end) for scope, ends in calls for end in ends]
    return [Result(f"{scope}{index}", end == "x", scope) for index, (scope, end) in enumerate(told)]


@pytest.mark.parametrize(
    ("calls", "phase", "opened_by"),
    [
        ([("bob", "x" * 12)], Phase.OPEN, "bob"),
        ([("bob", "x" * 12), ("ada", ".")], Phase.CLOSED, ""),
        ([("bob", "x" * 12), ("ada", ".."), ("eve", "x")], Phase.CLOSED, ""),
        ([("bob", "x" * 12), ("ada", "x")], Phase.OPEN, ""),
        ([("bob", "x" * 12), ("ada", "."), ("eve", "x")], Phase.OPEN, ""),
        ([*((f"scope{n}", ".") for n in range(40)), ("bob", "x" * 400)], Phase.CLOSED, ""),
        ([(f"scope{n}", "x") for n in range(40)], Phase.OPEN, ""),
    ],
)
def test_one_scope_alone_opens_it_only_where_it_is_alone(
    calls: list[tuple[str, str]], phase: Phase, opened_by: str
) -> None:
    together = count(BreakerState(), POLICY, of(*calls), T)
    assert (together.phase, together.opened_by) == (phase, opened_by)
    state = BreakerState()
    for each in calls:
        state = count(state, POLICY, of(each), T)
        if state.phase is Phase.OPEN:
            break
    assert state.phase is phase or calls[0] == ("bob", "x" * 12), "in order, bob was alone at first"
    assert len(to_json(together)["slots"]) <= 12


def test_what_one_scope_opened_the_others_may_try_at_once() -> None:
    opened = count(BreakerState(), POLICY, of(("bob", "xxxx")), T)
    assert admit(opened, POLICY, "b", T + 100, T + 1, "bob")[1] == 4
    trying, wait = admit(opened, POLICY, "a", T + 100, T + 1, "ada")
    assert (trying.phase, wait) == (Phase.HALF_OPEN, None)
    assert admit(trying, POLICY, "b", T + 100, T + 1, "bob")[1] == 4, "not he"
    again = count(trying, POLICY, [Result("a", True, "ada")], T + 2)
    assert (again.phase, again.opened_by) == (Phase.OPEN, ""), "two have failed"
    assert admit(again, POLICY, "e", T + 100, T + 3, "eve")[1] == 4
    trying, _ = admit(trying, POLICY, "a2", T + 100, T + 2, "ada")
    assert count(trying, POLICY, [Result("a", False), Result("a2", False)], T + 3) == BreakerState()


def test_a_scope_that_goes_on_failing_does_not_keep_it_open_for_the_others() -> None:
    state, now = counted(BreakerState(), [True] * 4), T
    state = let_try_of(state, "b", now := now + 5, "bob")
    state = count(state, POLICY, [Result("b", True)], now)
    assert (state.phase, state.opened_by) == (Phase.OPEN, "bob")
    state = let_try_of(state, "a", now, "ada")
    state = let_try_of(state, "b", now := now + 5, "bob")
    state = count(state, POLICY, [Result("b", True)], now)
    assert (state.phase, [probe.ref for probe in state.probes]) == (Phase.HALF_OPEN, ["a"]), "hers goes on"
    state = let_try_of(count(state, POLICY, [Result("a", False)], now), "a2", now, "ada")
    assert count(state, POLICY, [Result("a2", False)], now) == BreakerState()
    for each in (state, count(state, POLICY, [Result("a2", True)], now)):
        assert from_json(json.loads(json.dumps(to_json(each)))) == each


def let_try_of(state: BreakerState, ref: str, now: float, scope: str) -> BreakerState:
    state, wait = admit(state, POLICY, ref, now + 100, now, scope)
    assert wait is None
    return state


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
