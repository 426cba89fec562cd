"""What hang-ups say about a client's patience, and in which order what is known of it counts."""

from __future__ import annotations

from typing import Any

import pytest

from raincheck.polling.known_clients import KNOWN, Client, known_patience
from raincheck.polling.patience import LONGEST_GUESS, SHARE, Patience
from raincheck.polling.patience_rules import HangUp, HangUps, ScopeHangUps

HOUR, DAY = 3600.0, 86400.0


def of(*seen: tuple[float, float]) -> HangUps:
    hang_ups = HangUps()
    for seconds, at in seen:
        hang_ups.add(HangUp(seconds, at))
    return hang_ups


def test_one_hang_up_counts_for_an_hour() -> None:
    hang_ups = of((5.0, 0.0))
    assert hang_ups.bound(HOUR - 1) == 5.0
    assert hang_ups.bound(HOUR) is None


def test_a_second_one_at_about_the_same_age_counts_for_thirty_days_however_late_it_comes() -> None:
    hang_ups = of((5.0, 0.0), (5.5, 2 * DAY))
    assert hang_ups.bound(31 * DAY) == 5.0
    assert hang_ups.bound(32 * DAY) is None


def test_one_at_another_age_does_not_confirm() -> None:
    hang_ups = of((5.0, 0.0), (2.0, 10.0))
    assert hang_ups.bound(20.0) == 2.0
    assert hang_ups.bound(2 * HOUR) is None


def test_one_key_press_that_ends_several_calls_is_one_hang_up() -> None:
    hang_ups = of((5.0, 0.0), (5.1, 0.01), (5.0, 0.02))
    assert hang_ups.bound(2 * HOUR) is None


def test_a_key_press_shortens_a_confirmed_bound_for_an_hour_only() -> None:
    hang_ups = of((5.0, 0.0), (5.0, 10.0), (1.0, 20.0))
    assert hang_ups.bound(30.0) == 1.0
    assert hang_ups.bound(30.0 + HOUR) == 5.0


def test_a_longer_wait_teaches_nothing_while_a_shorter_bound_is_alive() -> None:
    hang_ups = of((5.0, 0.0), (5.0, 10.0), (60.0, 20.0), (60.0, 30.0))
    assert hang_ups.bound(40.0) == 5.0
    assert of((5.0, 0.0), (60.0, 10.0)).bound(20.0) == 5.0


def test_a_confirmation_that_says_nothing_new_is_not_written_again_for_a_day() -> None:
    hang_ups = of((5.0, 0.0), (5.0, 10.0))
    assert not hang_ups.add(HangUp(5.2, 20.0))
    assert hang_ups.add(HangUp(5.2, 20.0 + DAY))
    assert hang_ups.bound(30 * DAY + 15) == 5.0


def test_a_scope_remembers_the_clients_it_heard_of_last() -> None:
    scope = ScopeHangUps()
    for number in range(100):
        scope.add(f"client-{number}", "1", HangUp(5.0, float(number)))
    assert len(scope) == 32
    assert scope.bound("client-99", "1", 100.0) == 5.0
    assert scope.bound("client-67", "1", 100.0) is None
    again = ScopeHangUps.from_json(scope.to_json(100.0))
    assert len(again) == 32
    assert again.bound("client-99", "1", 100.0) == 5.0
    assert again.bound("client-99", "2", 100.0) is None


def test_what_is_too_old_is_not_stored_again() -> None:
    scope = ScopeHangUps()
    scope.add("a", "1", HangUp(5.0, 0.0))
    scope.add("b", "1", HangUp(5.0, 20 * DAY))
    assert [each["name"] for each in scope.to_json(30 * DAY)] == ["b"]


@pytest.mark.parametrize(
    "stored",
    [{"a": 1}, 7, [1], [{"name": "a"}], [{"name": "a", "version": "1", "once": [1], "again": None, "waited": None}]],
)
def test_what_is_no_record_is_refused(stored: Any) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        ScopeHangUps.from_json(stored)


# The order.


class Learned:
    """What was learned, as the test says."""

    def __init__(self, seconds: float | None, waited: float = 0.0) -> None:
        self.learned = seconds
        self.longest = waited
        self.heard: list[float] = []
        self.answers: list[float] = []

    def waited(self, client: Client, scope: str) -> float:
        return self.longest

    def answered(self, client: Client, scope: str, *, after_seconds: float) -> None:
        self.answers.append(after_seconds)

    async def seconds(self, client: Client, scope: str) -> float | None:
        return self.learned

    def hung_up(self, client: Client, scope: str, *, after_seconds: float) -> None:
        self.heard.append(after_seconds)


CODEX = Client("codex-mcp-client")


@pytest.mark.parametrize(
    ("client", "given", "learned", "expected"),
    [
        (Client("new"), {}, None, None),
        (Client("new"), {}, 7.0, 7.0),
        (CODEX, {}, None, 60.0),
        (CODEX, {}, 7.0, 7.0),
        (CODEX, {}, 70.0, 60.0),
        (CODEX, {"codex-mcp-client": 200.0}, 7.0, 200.0),
        (Client("new"), {"codex-mcp-client": 200.0}, 7.0, 7.0),
    ],
)
async def test_what_the_operator_set_counts_then_the_shorter_of_known_and_learned(
    client: Client, given: dict[str, float], learned: float | None, expected: float | None
) -> None:
    assert await Patience(given, Learned(learned)).seconds(client, "a") == expected  # pyright: ignore[reportArgumentType]


def test_a_client_whose_patience_was_set_teaches_nothing() -> None:
    learned = Learned(None)
    patience = Patience({"set": 30.0}, learned)  # pyright: ignore[reportArgumentType]
    patience.hung_up(Client("set"), "a", after_seconds=3.0)
    patience.hung_up(Client("other"), "a", after_seconds=4.0)
    assert learned.heard == [4.0]


def seconds_of(client: Client) -> float | None:
    known = known_patience(client)
    return None if known is None else known.seconds


def test_what_is_known_of_a_client_depends_on_how_it_comes() -> None:
    assert seconds_of(Client("claude-code", transport="http")) == 60.0
    assert (seconds_of(Client("claude-code", transport="stdio")) or 0) > 1000
    assert seconds_of(Client("mcp", modern=True)) == 5.0
    assert seconds_of(Client("mcp", modern=True, wants_progress=True)) == 300.0
    assert seconds_of(Client("mcp")) == 30.0
    assert seconds_of(Client("qwen-cli-mcp-client-mine")) == 300.0
    assert seconds_of(Client("opencode-fork")) is None
    assert seconds_of(Client("")) is None


def test_every_known_client_says_where_that_stands_and_can_be_reached_in_the_table() -> None:
    for each in KNOWN:
        assert any(letter.isdigit() for letter in each.source), each
        client = Client(
            each.name.replace("*", "raincheck"),
            transport=each.transport or "http",
            modern=bool(each.modern),
            wants_progress=bool(each.wants_progress),
        )
        assert known_patience(client) == each, each


SHARED = Client("mcp", modern=True)


@pytest.mark.parametrize(
    ("client", "waited", "learned", "expected"),
    [
        (SHARED, 0.0, None, 5.0),
        (SHARED, 2.0, None, 5.0),
        (SHARED, 4.0, None, LONGEST_GUESS),
        (SHARED, 4.0, 5.1, 5.1),
        (CODEX, 50.0, None, 60.0),
        (Client("new"), 50.0, None, None),
    ],
)
async def test_a_client_of_a_shared_name_that_waited_as_long_as_the_least_patient_one_is_let_wait_longer(
    client: Client, waited: float, learned: float | None, expected: float | None
) -> None:
    patience = Patience({}, Learned(learned, waited))  # pyright: ignore[reportArgumentType]
    assert await patience.seconds(client, "a") == expected


def test_only_answers_to_clients_of_a_shared_name_that_came_late_are_remembered() -> None:
    learned = Learned(None)
    patience = Patience({}, learned)  # pyright: ignore[reportArgumentType]
    patience.answered(SHARED, "a", after_seconds=1.0)
    patience.answered(CODEX, "a", after_seconds=25.0)
    patience.answered(Client("new"), "a", after_seconds=3.0)
    assert learned.answers == []
    patience.answered(SHARED, "a", after_seconds=4.0)
    assert learned.answers == [4.0]


def test_a_wait_is_kept_for_thirty_days_and_ends_no_bound() -> None:
    seen = HangUps()
    assert seen.add(HangUp(4.0, 0.0, answered=True))
    assert not seen.add(HangUp(4.1, 10.0, answered=True)), "it says nothing new"
    assert seen.add(HangUp(25.0, 20.0, answered=True))
    assert (seen.longest(30.0), seen.bound(30.0)) == (25.0, None)
    assert seen.longest(31 * DAY) == 0.0
    seen.add(HangUp(5.0, 40.0))
    assert (seen.longest(50.0), seen.bound(50.0)) == (25.0, 5.0)


def test_a_wait_is_there_again_when_the_record_is_read() -> None:
    scope = ScopeHangUps()
    scope.add("a", "1", HangUp(25.0, 0.0, answered=True))
    again = ScopeHangUps.from_json(scope.to_json(1.0))
    assert (again.longest("a", "1", 1.0), again.bound("a", "1", 1.0)) == (25.0, None)


def test_the_hold_leaves_time_for_the_way() -> None:
    assert 0.5 <= SHARE < 1
