"""The polling ladder: 1 s, doubled, at most 30 s, later by a jitter, the server's hint first, within its bounds."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from raincheck.client import PollingPolicy
from raincheck.client.policy import Pace
from raincheck.config.settings import PollingSettings


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_ladder_begins_at_one_second_doubles_and_ends_at_thirty() -> None:
    pace = Pace(PollingPolicy(jitter=0))
    assert [pace.interval(None) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_a_hint_of_the_server_comes_before_the_ladder() -> None:
    pace = Pace(PollingPolicy(jitter=0))
    assert [pace.interval(hint) for hint in (0.25, 7.0, 45.0)] == [0.25, 7.0, 45.0]


@pytest.mark.parametrize("nonsense", [0.0, -3.0, math.nan, math.inf])
def test_a_hint_that_is_no_length_of_time_is_left_alone(nonsense: float) -> None:
    assert Pace(PollingPolicy(jitter=0)).interval(nonsense) == 1.0


def test_a_hint_of_hours_does_not_put_the_caller_to_sleep_for_hours() -> None:
    assert Pace(PollingPolicy(jitter=0)).interval(36000.0) == 300.0


def test_the_jitter_makes_an_interval_longer_and_never_shorter() -> None:
    pace = Pace(PollingPolicy(jitter=0.2), rng=random.Random(7))
    intervals = {pace.interval(10.0) for _ in range(200)}
    assert min(intervals) >= 10.0
    assert 11.5 < max(intervals) <= 12.0


def test_after_ten_thousand_steps_the_ladder_is_still_at_its_end() -> None:
    pace = Pace(PollingPolicy(jitter=0, backoff_multiplier=100))
    assert {pace.interval(None) for _ in range(10_000)} == {1.0, 30.0}


def test_the_bounds_say_which_of_them_is_used_up() -> None:
    clock = Clock()
    pace = Pace(PollingPolicy(max_attempts=2, max_total_seconds=60), clock=clock)
    assert pace.used_up is None
    clock.now += 61
    assert "60 s" in (pace.used_up or "")
    pace.attempts = 2
    assert "2 attempts" in (pace.used_up or "")


def test_a_pause_ends_where_the_time_ends() -> None:
    clock = Clock()
    pace = Pace(PollingPolicy(max_total_seconds=60, jitter=0), clock=clock)
    clock.now += 55
    assert pace.pause(20.0) == 5.0


def test_without_bounds_nothing_is_ever_used_up() -> None:
    clock = Clock()
    pace = Pace(PollingPolicy(), clock=clock)
    pace.attempts, clock.now = 10**6, 10.0**9
    assert pace.used_up is None
    assert pace.remaining == math.inf


def test_a_policy_is_made_of_the_polling_table_as_it_stands() -> None:
    settings = PollingSettings(initial_interval_ms=250, max_interval_ms=4000, backoff_multiplier=3.0, max_attempts=7)
    policy = PollingPolicy.from_settings(**settings.model_dump())
    assert policy == PollingPolicy(
        initial_interval_seconds=0.25, max_interval_seconds=4.0, backoff_multiplier=3.0, max_attempts=7
    )
    assert PollingPolicy.from_settings(**PollingSettings().model_dump()) == PollingPolicy.from_settings()
    with pytest.raises(TypeError, match="max_atempts"):
        PollingPolicy.from_settings(max_atempts=3)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("initial_interval_seconds", 0),
        ("max_interval_seconds", 0.5),
        ("backoff_multiplier", 0.9),
        ("jitter", -0.1),
        ("max_attempts", 0),
        ("max_total_seconds", math.nan),
        ("hold_seconds", -1),
        ("answer_seconds", 0),
        ("call_retries", -1),
    ],
)
def test_a_number_out_of_its_bounds_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        PollingPolicy(**{option: value})
