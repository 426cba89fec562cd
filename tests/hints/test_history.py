"""An operation's history: what each end says, what ages, and what survives."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hints.histories import NOW, after, cancelled, ended, failed, history_of, pending, timed_out

from raincheck.domain.task import InputRequest
from raincheck.domain.transitions import DeadlinePassed, transition
from raincheck.errors import TaskTimeout, WorkerLost
from raincheck.polling.duration_sketch import DurationSketch
from raincheck.polling.history import RECENT_ENDS, Durations, End, History
from raincheck.ports.records import LARGEST_RECORD


def test_an_end_says_how_long_the_task_waited_ran_and_lasted() -> None:
    assert End.of(ended(5.0, waited=2.0)) == ("completed", 2.0, 5.0, 7.0)
    assert End.of(failed(3.0)) == ("operation_failed", 0.0, 3.0, 3.0)
    assert End.of(cancelled(4.0)) == ("cancelled", 0.0, 4.0, 4.0)


def test_a_deadline_is_told_from_a_timeout() -> None:
    never_started = transition(replace(pending(), deadline_at=after(60)), DeadlinePassed(), after(60))
    assert End.of(never_started) == ("deadline", None, None, 60.0)
    assert End.of(timed_out(30.0)).code == "timeout"


def test_the_time_of_a_task_that_asked_a_person_says_nothing() -> None:
    asked = InputRequest(key="1-1", method="elicitation/create", params={}, response={"action": "accept"})
    assert End.of(ended(5.0, inputs=(asked,))) == ("completed", None, None, None)
    assert End.of(ended(5.0, inputs=(replace(asked, key="0-1"),))).ran == 5.0


def test_resumed_and_repeated_work_says_only_what_is_true_of_the_whole() -> None:
    assert End.of(ended(5.0, attempt=1)) == ("completed", None, 5.0, 5.0)
    assert End.of(ended(5.0, attempt=1, checkpoint={"job": 7})) == ("completed", None, None, 5.0)


def test_what_was_cut_off_is_an_end_for_callers_and_no_whole_run() -> None:
    history = history_of([ended(1.0), failed(2.0), timed_out(30.0), failed(9.0, WorkerLost("gone")), cancelled(8.0)])
    assert (history.ran.weight, history.ran_cut.weight, history.ran_cancelled.weight) == (2, 2, 1)
    assert (history.recent.weight, history.recent_cancelled.weight) == (4, 1)
    assert (history.ends, history.known_ends) == (5, 4)


def test_cancelled_tasks_make_long_ones_weigh_more() -> None:
    whole, cut = DurationSketch([1.0] * 5 + [10.0] * 5), DurationSketch([5.0] * 5)
    known = Durations.of(whole, cut)
    # Of fifteen five ended at 1; the ten others lived on past it, so two thirds take as long as those that were seen.
    assert [round(each.weight, 6) for each in known.buckets] == [round(1 / 3, 6), round(2 / 3, 6)]
    assert (known.open, known.weight) == (0.0, 10)
    open_ended = Durations.of(DurationSketch([1.0] * 9), DurationSketch([5.0]))
    assert open_ended.open == pytest.approx(0.1)
    assert open_ended.quantile(0.95) is None


def test_new_ends_push_out_old_ones_of_the_recent_memory_and_not_of_the_long() -> None:
    old, new = history_of([ended(10.0)] * 400), history_of([ended(20.0)] * 2 * RECENT_ENDS)
    whole = old.merged(new, NOW)
    median = whole.recent.quantile(0.5)
    assert median == pytest.approx(20.0, rel=0.02)
    assert whole.recent.weight == pytest.approx(400 * 0.25 + 300)
    assert (whole.ran.weight, whole.ends) == (700, 700)


def test_what_was_long_ago_weighs_half_after_a_month() -> None:
    history = history_of([ended(10.0)] * 8).merged(History(operation_type="report"), NOW)
    later = history.merged(history_of([ended(20.0)]), after(30 * 86400))
    assert later.ran.weight == pytest.approx(5.0)
    assert later.codes == {"completed": pytest.approx(5.0)}
    assert later.ends == 9
    assert later.at == after(30 * 86400)


def test_a_clock_that_went_back_ages_nothing() -> None:
    history = history_of([ended(10.0)] * 8).merged(History(operation_type="report"), NOW)
    assert history.merged(history_of([]), after(-(10**6))).ran.weight == 8


def test_a_history_comes_back_from_its_json_and_fits_into_a_record() -> None:
    rng = random.Random(4)
    history = History(operation_type="report")
    for number in range(3000):
        lasts = rng.lognormvariate(3, 3)
        history.add(End.of((ended(lasts), failed(lasts), timed_out(lasts), cancelled(lasts))[number % 4]))
    history = history.merged(History(operation_type="report"), NOW)
    text = json.dumps(history.to_json())
    assert len(text) < LARGEST_RECORD / 2
    assert History.from_json(json.loads(text)) == history


def test_foreign_codes_do_not_fill_the_record() -> None:
    history = History(operation_type="report")
    for number in range(1000):
        history.add(End(f"code-{number}", None, None, None))
    assert len(history.codes) <= 41
    assert sum(history.codes.values()) == 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"ends": "3"},
        {"ends": True},
        {"operation_type": None},
        {"codes": []},
        {"codes": {"completed": -1}},
        {"codes": {"completed": "x"}},
        {"ran": {}},
        {"ran": [1]},
        {"at": "yesterday"},
        {"at": "2026-11-24T12:00:00"},
    ],
)
def test_what_is_no_history_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"history|sketch|isoformat"):
        History.from_json({**history_of([ended(1.0)]).to_json(), **changes})
    with pytest.raises(ValueError, match="history"):
        History.from_json([])


def test_a_timeout_without_details_is_a_timeout() -> None:
    assert End.of(failed(1.0, TaskTimeout("late"))).code == "timeout"
