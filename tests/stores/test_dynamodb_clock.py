"""DynamoDB's clock, read from answers that tell whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from raincheck.stores.dynamodb.server_clock import AnsweredClock
from raincheck.timing.clock import monotonic

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Server:
    """A server whose clock was at noon when this machine's uptime was nought, and that answers within 20 ms."""

    def __init__(self) -> None:
        self.set_by = 0.0

    def answer(self, clock: AnsweredClock, at: float, *, machine: float = 0.0) -> None:
        now = NOON + timedelta(seconds=at + self.set_by + machine)
        clock.heard(format_datetime(now.replace(microsecond=0), usegmt=True), at - 0.01, at + 0.01)

    def error(self, clock: AnsweredClock) -> float:
        told = clock.now()
        assert told is not None
        return (told - NOON - timedelta(seconds=monotonic() + self.set_by)).total_seconds()


def test_there_is_no_time_before_the_first_answer_and_none_from_nonsense() -> None:
    clock = AnsweredClock()
    assert clock.now() is None
    clock.heard("yesterday, I think", 0.0, 1.0)
    assert clock.now() is None


def test_one_answer_tells_the_time_within_half_a_second_and_many_within_milliseconds() -> None:
    clock, server = AnsweredClock(), Server()
    server.answer(clock, 7.3)
    assert abs(server.error(clock)) <= 0.52
    for step in range(60):
        server.answer(clock, 8.0 + step * 0.093)
    assert abs(server.error(clock)) <= 0.03


@pytest.mark.parametrize("by", [3600.0, -3600.0, 2.0])
def test_a_server_whose_clock_was_set_is_believed(by: float) -> None:
    clock, server = AnsweredClock(), Server()
    for step in range(60):
        server.answer(clock, 8.0 + step * 0.093)
    server.set_by = by
    server.answer(clock, 20.0)
    assert abs(server.error(clock)) <= 0.52


def test_servers_that_differ_by_milliseconds_do_not_shake_it() -> None:
    clock, server = AnsweredClock(), Server()
    for step in range(200):
        server.answer(clock, 8.0 + step * 0.093, machine=(step % 3) * 0.02)
        if step > 60:
            assert abs(server.error(clock)) <= 0.08
