"""Hints: bounded, monotone, learned; and what is said of the end."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from itertools import pairwise

import pytest
from hints.histories import NOW, after, cancelled, ended, history_of, pending, processing
from hypothesis import given, settings
from hypothesis import strategies as st

from raincheck.composition.adapters import make_poll_advisor
from raincheck.config.settings import PollingSettings
from raincheck.domain.task import InputRequest, Task, scope_key
from raincheck.domain.transitions import AskInput, Claim, LeaseExpired, transition
from raincheck.operations.operation import Policy
from raincheck.polling.duration_sketch import DurationSketch
from raincheck.polling.hints import Hints
from raincheck.polling.history import Durations, End, History
from raincheck.polling.inline_wait import InlineWaits
from raincheck.polling.schedule import BackoffLadder, Schedule, schedule_of

ladders = st.tuples(
    st.floats(min_value=0.001, max_value=100),
    st.floats(min_value=1, max_value=1000),
    st.floats(min_value=1, max_value=100),
).map(lambda drawn: BackoffLadder(drawn[0], drawn[0] * drawn[1], drawn[2]))
sketches = st.lists(st.floats(min_value=0.001, max_value=1e8), min_size=1, max_size=40).map(DurationSketch)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def hints_for(history: History | None, ladder: BackoffLadder | None = None, clock: Clock | None = None) -> Hints:
    return Hints(ladder or BackoffLadder(), lambda name: history, monotonic=clock or Clock())


def learned(*lasted: float) -> Hints:
    return hints_for(history_of([ended(each) for each in lasted]))


@settings(max_examples=40)
@given(sketches, sketches, ladders, st.lists(st.floats(min_value=0, max_value=1e9), max_size=20))
def test_an_interval_is_within_the_bounds_and_the_next_look_never_comes_earlier_for_an_older_task(
    whole: DurationSketch, cut: DurationSketch, ladder: BackoffLadder, ages: list[float]
) -> None:
    schedule = schedule_of(Durations.of(whole, cut), ladder)
    assert list(schedule.moments) == sorted(schedule.moments)
    looks: list[float] = []
    ages += [moment + wake for moment in schedule.moments[:20] for wake in (-0.6 * ladder.initial, 0.0)]
    for age in sorted(age for age in ages if age >= 0):
        interval = schedule.interval(age)
        assert ladder.initial <= interval <= ladder.longest
        looks.append(age + interval)
    assert all(later >= earlier - 1e-6 * abs(earlier) for earlier, later in pairwise(looks))


def follow(hints: Hints, lasts: float) -> tuple[int, float]:
    """How often one who keeps to the hints asks for a task, and how late the last time is."""
    task, age, asked = processing(), 0.0, 0
    while age < lasts:
        interval = hints.poll_after(task, after(age))
        assert interval is not None
        age, asked = age + interval, asked + 1
    return asked, age - lasts


@pytest.mark.parametrize("seed", range(150))
def test_whatever_the_durations_there_is_a_look_when_the_longest_is_over(seed: int) -> None:
    rng = random.Random(seed)
    scale, width = rng.uniform(-1, 4), rng.uniform(0.05, 1.5)
    sketch = DurationSketch(rng.lognormvariate(scale, width) for _ in range(rng.randint(10, 60)))
    durations, ladder = Durations.of(sketch, DurationSketch()), BackoffLadder()
    assert schedule_of(durations, ladder).moments[-1] >= max(ladder.initial, durations.buckets[-1].upto)


def test_a_bug_in_the_hints_costs_the_hints_and_not_the_call(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(durations: Durations, ladder: BackoffLadder) -> Schedule:
        raise IndexError("a bug")

    monkeypatch.setattr("raincheck.polling.hints.schedule_of", broken)
    hints = learned(*[5.0] * 20)
    assert hints.poll_after(processing(), after(0)) == 1.0
    assert "no new hints were learned" in caplog.text


def test_before_ten_ends_the_hints_are_the_ladder() -> None:
    for hints in (learned(*[20.0] * 9), hints_for(None), Hints(BackoffLadder())):
        assert follow(hints, 20.0) == (5, 11.0)
        assert hints.eta(processing(), NOW) is None


def test_a_steady_operation_is_asked_for_once_just_after_its_end() -> None:
    asked, lag = follow(learned(*[20.0] * 10), 20.0)
    assert asked == 1
    assert 0 <= lag <= 0.02 * 20


def test_an_operation_of_two_kinds_is_asked_for_at_both() -> None:
    hints = learned(*[2.0] * 30, *[25.0] * 20)
    assert follow(hints, 2.0)[0] == 1
    asked, lag = follow(hints, 25.0)
    assert asked == 2
    assert lag < 1


def test_what_takes_longer_than_ever_is_asked_for_in_growing_intervals_up_to_the_longest() -> None:
    hints = learned(*[20.0] * 10)
    intervals = [hints.poll_after(processing(), after(age)) for age in (25, 40, 60, 100, 10**5)]
    assert intervals == [10.0, 16.0, 24.0, 30.0, 30.0]


def test_a_task_that_runs_is_judged_by_its_time_running() -> None:
    hints = learned(*[20.0] * 10)
    late = processing(waited=500.0)
    assert hints.poll_after(late, after(501.0)) == pytest.approx(19.2, abs=0.3)
    assert hints.eta(late, after(505.0)) == pytest.approx(15.0, abs=0.5)


def test_a_task_that_has_not_begun_is_not_asked_for_before_its_run_can_be_over() -> None:
    hints = learned(*[20.0] * 10)
    assert hints.poll_after(pending(), after(19.0)) == pytest.approx(20.2, abs=0.3)
    assert hints.eta(pending(), after(300.0)) == pytest.approx(20.0, abs=0.5)


def test_cancelled_tasks_do_not_make_it_look_shorter() -> None:
    tasks = [ended(60.0)] * 12 + [cancelled(3.0)] * 100
    assert hints_for(history_of(tasks)).eta(processing(), NOW) == pytest.approx(60.0, abs=1)


def test_eta_is_the_median_of_what_is_left_and_ends_where_nearly_all_had_ended() -> None:
    hints = learned(*range(10, 110))
    task = processing()
    assert hints.eta(task, NOW) == pytest.approx(59, abs=2)
    assert hints.eta(task, after(80)) == pytest.approx(15, abs=2)
    assert hints.eta(task, after(109)) is None
    assert hints.eta(ended(5.0), after(5)) is None
    assert hints.poll_after(ended(5.0), after(5)) is None


def test_a_task_that_waits_for_a_person_follows_the_ladder_without_eta() -> None:
    question = InputRequest(key="1-1", method="elicitation/create", params={})
    task = processing()
    asking = transition(task, AskInput(fence=task.fence, requests=(question,)), NOW)
    hints = learned(*[20.0] * 10)
    assert hints.poll_after(asking, after(3)) == 4.0
    assert hints.eta(asking, after(3)) is None


def test_after_a_lost_attempt_the_hints_count_anew() -> None:
    lost = transition(processing(retry_when_lost=True), LeaseExpired(gone="w"), after(200))
    again = transition(lost, Claim(worker_id="x", lease_until=after(10**6)), after(210))
    ladder = hints_for(None)
    assert ladder.poll_after(lost, after(201)) == ladder.poll_after(pending(), after(1))
    assert ladder.poll_after(again, after(212)) == ladder.poll_after(processing(), after(2))
    steady = learned(*[60.0] * 20)
    assert steady.poll_after(lost, after(201)) == steady.poll_after(pending(), after(1))
    assert steady.poll_after(again, after(212)) == steady.poll_after(processing(), after(2))
    assert steady.eta(lost, after(201)) == steady.eta(pending(), after(1))
    assert steady.eta(again, after(212)) == steady.eta(processing(), after(2))
    assert steady.eta(lost, after(201)) == pytest.approx(60.0, abs=3)


def test_history_is_looked_at_once_a_second_and_learned_from_every_ten() -> None:
    clock, asked = Clock(), 0
    history = history_of([ended(20.0)] * 10)

    def look_up(name: str) -> History:
        nonlocal asked
        asked += 1
        return history

    hints = Hints(BackoffLadder(), look_up, monotonic=clock)
    for _ in range(100):
        assert hints.poll_after(processing(), NOW) == pytest.approx(20.2, abs=0.3)
    assert asked == 1
    history = history_of([ended(5.0)] * 50)
    clock.now += 9.9
    assert hints.poll_after(processing(), NOW) == pytest.approx(20.2, abs=0.3)
    clock.now += 1.0
    assert hints.poll_after(processing(), NOW) == pytest.approx(5.05, abs=0.1)


def test_a_clock_that_went_back_spoils_no_hint() -> None:
    hints = learned(*[20.0] * 10)
    for task in (pending(), processing()):
        told = hints.poll_after(task, NOW - timedelta(hours=1))
        assert told is not None
        assert 1 <= told <= 30


def test_absurd_settings_are_planned_for_quickly() -> None:
    sketch = DurationSketch(random.Random(1).lognormvariate(5, 3) for _ in range(200))
    schedule = schedule_of(Durations.of(sketch, DurationSketch()), BackoffLadder(0.001, 0.001, 1.0))
    assert isinstance(schedule, Schedule)
    assert len(schedule.moments) <= 1000


def test_learn_false_learns_nothing() -> None:
    history = history_of([ended(20.0)] * 20)

    def advice(*, learn: bool) -> tuple[float | None, float | None]:
        polling = PollingSettings(learn=learn, initial_interval_ms=500)
        advisor = make_poll_advisor(polling, lambda name: history, lambda: after(19.0))
        return advisor.for_program(processing()), advisor.eta(processing())

    assert advice(learn=False) == (1.9, None)
    assert advice(learn=True) == (pytest.approx(1.2, abs=0.3), pytest.approx(1.0, abs=0.3))


def test_two_operations_are_learned_apart() -> None:
    histories = {"report": history_of([ended(20.0)] * 10), "other": None}
    hints = Hints(BackoffLadder(), histories.get, monotonic=Clock())
    other: Task = processing(operation_type="other")
    assert hints.poll_after(processing(), NOW) == pytest.approx(20.2, abs=0.3)
    assert hints.poll_after(other, NOW) == 1.0


def test_a_scope_is_told_nothing_of_the_queue_of_another_one() -> None:
    history = History(operation_type="report")
    for task, scope in [(ended(3.2, waited=33.0), "bob")] * 60 + [(ended(3.2, waited=1.0), "eve")] * 20:
        history.add(End.of(task), scope_key(scope))
    stored = History.from_json(json.loads(json.dumps(History(operation_type="report").merged(history, NOW).to_json())))
    hints = hints_for(stored)
    etas = [hints.eta(pending(scope=scope), NOW) for scope in ("ada", "bob", "eve", "ada")]
    assert etas == pytest.approx([3.2, 36.2, 4.2, 3.2], rel=0.03)
    assert hints.poll_after(pending(scope="ada"), NOW) == pytest.approx(3.2, abs=0.2)
    waits = InlineWaits(lambda _: stored)
    assert [waits.seconds("report", Policy(), scope=scope) for scope in ("ada", "bob", "eve")] == [3.5, 0.0, 4.5]


def test_of_many_scopes_only_the_busiest_are_kept() -> None:
    history = History(operation_type="report")
    for number in range(100):
        for _ in range(number + 1):
            history.add(End.of(ended(number)), scope_key(f"scope{number}"))
    kept = History(operation_type="report").merged(history, NOW).of_scopes
    assert set(kept) == {scope_key(f"scope{number}") for number in range(92, 100)}
