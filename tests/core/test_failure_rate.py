"""The alert on failing operations."""

from __future__ import annotations

import pytest

from raincheck.runtime.failure_alerts import FailureRate


def test_too_many_failures_of_one_operation_are_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    rate = FailureRate(0.05, monotonic=lambda: now)
    for number in range(40):
        rate.settled("report", failed=number == 39)
        rate.settled("good", failed=False)
    assert caplog.records == []
    rate.settled("report", failed=True)
    rate.settled("report", failed=True)
    assert [(record.getMessage(), record.operation) for record in caplog.records] == [  # pyright: ignore
        ("3 of the last 42 tasks failed", "report")
    ]
    now += 61
    rate.settled("report", failed=True)
    assert len(caplog.records) == 2


def test_few_outcomes_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rate = FailureRate(0.05)
    for _ in range(19):
        rate.settled("report", failed=True)
    assert caplog.records == []
    rate.settled("report", failed=True)
    assert len(caplog.records) == 1
