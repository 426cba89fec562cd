"""What programs are told: they notice the end within a tenth of the run, and ask a bounded number of times."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hints.histories import NOW, after, ended, history_of, pending, processing
from hypothesis import given
from hypothesis import strategies as st

from raincheck.domain.task import InputRequest, Progress, Task
from raincheck.domain.transitions import AskInput, transition
from raincheck.polling.hints import Hints
from raincheck.polling.program_hints import ProgramHints
from raincheck.polling.schedule import BackoffLadder

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import hints as simulation

PAGE = Path(__file__).parents[2] / "docs" / "hints.md"
INITIAL, LONGEST = 1.0, 30.0
Reports = Sequence[tuple[float, float]]


def nothing(task: Task, now: datetime) -> None:
    return None


def programs(learned: Callable[[Task, datetime], float | None] = nothing) -> ProgramHints:
    return ProgramHints(initial=INITIAL, longest=LONGEST, learned=learned)


def with_history(*lasted: float) -> ProgramHints:
    history = history_of([ended(each) for each in lasted])
    return programs(Hints(BackoffLadder(INITIAL, LONGEST, 2.0), lambda name: history, monotonic=lambda: 100.0).learned)


class Met(NamedTuple):
    """How often a task was asked for, and how long after its end the last time was."""

    asked: int
    lag: float


def follow(hints: ProgramHints, lasts: float, reports: Reports = ()) -> Met:
    """One who keeps to the hints, of a task that reports these fractions at these times."""
    task, age, asked = processing(), 0.0, 0
    while age < lasts:
        seen = [each for each in reports if each[0] <= age]
        if seen:
            at, fraction = seen[-1]
            task = replace(task, progress=Progress(fraction=fraction), updated_at=after(at))
        pause = hints.poll_after(task, after(age))
        assert pause is not None
        age, asked = age + pause, asked + 1
    return Met(asked, age - lasts)


def most(lasts: float) -> float:
    """How many questions there are for a task that lasts so long: one a second, then ever tenths, then one in 30 s."""
    tenths, even = min(lasts, 10 * LONGEST), max(0.0, lasts - 10 * LONGEST)
    return min(lasts, 10) + max(0.0, math.log(tenths / 10) / math.log(1.1)) + even / LONGEST + 2


def steady(lasts: float, every: float) -> Reports:
    return [(number * every, number * every / lasts) for number in range(1, math.ceil(lasts / every))]


LENGTHS = [1, 1.3, 2, 5, 7.7, 10, 12.5, *range(15, 60), *range(60, 600, 13), 600]


@pytest.mark.parametrize("lasts", LENGTHS)
def test_without_a_history_the_end_is_noticed_within_a_tenth_of_the_run(lasts: float) -> None:
    met = follow(programs(), lasts)
    assert met.lag <= max(INITIAL, lasts / 10) + 0.001
    assert met.asked <= most(lasts)


@pytest.mark.parametrize("lasts", LENGTHS)
@pytest.mark.parametrize("every", [0.5, 2.0])
def test_steady_progress_leads_to_the_very_end(lasts: float, every: float) -> None:
    met = follow(programs(), lasts, steady(lasts, every))
    assert met.lag <= max(INITIAL, lasts / 100) + 0.001
    assert met.asked <= most(lasts)


def test_a_task_of_20_seconds_is_noticed_within_two() -> None:
    assert follow(programs(), 20).lag < 2
    assert follow(programs(), 20, steady(20, 2)).lag < 0.3
    assert follow(with_history(*[20.0] * 10), 20).lag < 0.5


@pytest.mark.parametrize("lasts", [20.0, 90.0, 600.0])
@pytest.mark.parametrize(
    "reports",
    [
        [(1.0, 0.99)],
        [(1.0, 1.0)],
        [(1.0, 1e-9)],
        [(1.0, 0.0)],
        [(0.5 * each, 1 - 0.5**each) for each in range(1, 1200)],
    ],
    ids=["hangs at 99 %", "hangs at 100 %", "far off", "none", "never there"],
)
def test_progress_that_tells_nothing_true_costs_some_questions_and_no_time(lasts: float, reports: Reports) -> None:
    met = follow(programs(), lasts, reports)
    assert met.lag <= max(INITIAL, lasts / 10) + 0.001
    assert met.asked <= 3 * most(lasts)


def test_the_age_is_that_of_the_attempt_and_the_one_before_it_is_forgotten() -> None:
    late = processing(waited=500.0)
    assert programs().poll_after(pending(), after(40)) == 4.0
    assert programs().poll_after(late, after(501)) == INITIAL
    assert programs().poll_after(late, after(540)) == 4.0
    # Progress from before the attempt began.
    stale = replace(late, progress=Progress(fraction=0.9))
    assert programs().poll_after(stale, after(540)) == 4.0


def test_a_task_that_waits_for_a_person_is_asked_for_by_its_age_alone() -> None:
    task = replace(processing(), progress=Progress(fraction=0.5), updated_at=after(20))
    question = InputRequest(key="1-1", method="elicitation/create", params={})
    asking = transition(task, AskInput(fence=task.fence, requests=(question,)), after(21))
    assert programs().poll_after(task, after(38)) == pytest.approx(2.4, abs=0.01)
    assert programs().poll_after(asking, after(38)) == 3.8


@given(
    age=st.floats(min_value=-1e6, max_value=1e9),
    reported=st.floats(min_value=-1e6, max_value=1e9),
    fraction=st.none() | st.floats(min_value=0, max_value=1),
    learned=st.none() | st.floats(min_value=INITIAL, max_value=LONGEST),
)
def test_a_hint_is_within_the_bounds_and_at_most_a_quarter_of_the_age(
    age: float, reported: float, fraction: float | None, learned: float | None
) -> None:
    progress = Progress(fraction=fraction)
    task = replace(processing(), progress=progress, updated_at=NOW + timedelta(seconds=reported))
    told = programs(lambda task, now: learned).poll_after(task, NOW + timedelta(seconds=age))
    assert told is not None
    assert INITIAL <= told <= LONGEST
    assert told <= max(INITIAL, age / 4)
    if learned is not None:
        assert told <= learned + 0.001


def test_of_a_settled_task_there_is_nothing_to_ask() -> None:
    assert programs().poll_after(ended(5.0), after(5)) is None


@pytest.mark.parametrize("name", ["constant 45", "narrow", "medium", "cache", "uniform", "queue"])
def test_a_history_makes_programs_notice_sooner_and_ask_hardly_more(name: str) -> None:
    series = next(each for each in simulation.made_up(60, seed=5) if each.name == name)
    plain, learned = (simulation.Figures.of(simulation.simulate_program(series, learn=each)) for each in (False, True))
    assert learned.lag_mean <= 1.01 * plain.lag_mean
    assert learned.asked_mean <= 1.1 * plain.asked_mean


def test_the_figures_in_the_docs_are_those_of_the_simulation() -> None:
    rows = re.findall(r"^\| (\d+) s \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(lasts) for lasts, _ in rows] == [2, 20, 45, 130, 320, 590]
    for lasts, cells in rows:
        seconds = float(lasts)
        model = simulation.simulate(one(seconds), learn=False)[0]
        plain, told = follow(programs(), seconds), follow(programs(), seconds, steady(seconds, 2))
        known = follow(with_history(*[seconds] * 20), seconds)
        cell = [f"{asked}, {lag:.1f} s" for asked, lag in (model, plain, told, known)]
        assert [each.strip() for each in cells.split("|")] == cell


def one(lasts: float) -> simulation.Series:
    return simulation.Series(name="one", what="", runs=[simulation.Run(0.0, lasts)])
