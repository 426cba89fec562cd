"""The checker finds every kind of violation in made-up histories, and none in a flawless one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from chaos.checker import CHECKS, Evidence, Findings, check
from chaos.fleet import Life
from chaos.load import Answer, Sighting
from chaos.plan import How, Order

from support.history import History

REF = "a-task"
AHEAD = 1_000_000.0


def order(operation: str = "retry", how: How = "plain", *, cancelled: bool = False) -> Order:
    return Order(
        serial=7,
        at=0,
        operation=operation,
        how=how,
        seconds=1,
        key="piece 7",
        twin=False,
        cancel_after=0.1 if cancelled else None,
        polls=False,
    )


def status(said: str = "completed", *, operation: str = "retry", fence: int = 1, **more: Any) -> dict[str, Any]:
    terminal = said in ("completed", "failed", "cancelled")
    result = {"fence": fence, "attempt": fence, "answer": None} if said == "completed" else None
    return {"status": said, "terminal": terminal, "operation_type": operation, "result": result, "error": None, **more}


def lost(attempts: int, operation: str = "retry", **more: Any) -> dict[str, Any]:
    error = {"code": "worker_lost", "message": "gone", "retryable": True, "details": {"attempts": attempts}}
    return {**status("failed", operation=operation), "error": error, **more}


def failed(code: str) -> dict[str, Any]:
    return status("failed", error={"code": code, "message": "it is so", "retryable": False, "details": {}})


class Story:
    """What is written in one made-up history, line by line, and what was seen."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "history.jsonl"
        self.lines: list[str] = []
        self.sighting = Sighting(ref=REF, order=order(), given=9.0)
        self.keys: dict[str, set[str]] = {"piece 7": {REF}}
        self.problems: list[str] = []
        self.lives: list[Life] = []
        self.outages: list[tuple[float, float]] = []

    def wrote(self, event: str, at: float, *, fence: int = 1, pid: int = 1, operation: str = "retry") -> Story:
        facts = {"event": event, "ref": REF, "operation": operation, "attempt": fence, "fence": fence}
        self.lines.append(json.dumps({**facts, "pid": pid, "at": at}))
        return self

    def ran(self, start: float, end: float, **who: Any) -> Story:
        return self.wrote("start", start, **who).wrote("tick", (start + end) / 2, **who).wrote("end", end, **who)

    def ordered(self, what: Order) -> Story:
        self.sighting.order = what
        return self

    def told(self, at: float, answer: Mapping[str, Any] | None, server: str = "A") -> Story:
        self.sighting.answers.append(Answer(at=at, server=server, status=None if answer is None else dict(answer)))
        return self

    def findings(self) -> Findings:
        self.file.write_text("".join(f"{line}\n" for line in self.lines))
        return check(
            Evidence(
                history=History(self.file),
                sightings=[self.sighting],
                keys=self.keys,
                problems=self.problems,
                lives=self.lives,
                outages=self.outages,
                wall_minus_monotonic=AHEAD,
            )
        )

    def found(self) -> set[str]:
        """The checks that something was found by."""
        return {name for name, lines in self.findings().violations.items() if lines}


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def flawless(story: Story) -> None:
    story.ran(10, 11).told(11.1, status()).told(12, status(), "B")


def taken_over(story: Story) -> None:
    story.wrote("start", 10).wrote("tick", 10.5).ran(13, 14, fence=2, pid=2)
    story.told(14.1, status(fence=2)).told(15, status(fence=2), "B")


def frozen_and_stopped(story: Story) -> None:
    taken_over(story)
    # That it is told to stop comes after the other's start; it is not its own work.
    story.wrote("stopped", 15, fence=1)


def a_command_taken_over(story: Story) -> None:
    story.wrote("start", 10, fence=0, operation="command").ran(13, 14, fence=0, pid=2, operation="command")
    done = status(operation="command", result={"fence": 0, "pid": 2})
    story.told(14.1, done).told(15, done, "B")


def given_up(story: Story) -> None:
    for fence in (1, 2, 3):
        story.wrote("start", 10 * fence, fence=fence, pid=fence)
    story.told(40, lost(3))


def started_by_a_worker_that_said_nothing(story: Story) -> None:
    story.wrote("start", 10, fence=2).told(40, lost(3))


def cancelled_while_it_ran(story: Story) -> None:
    story.ordered(order(cancelled=True)).wrote("start", 10).told(10.5, status("cancelled")).wrote("tick", 10.6)


def raised(story: Story) -> None:
    story.ordered(order(how="raise")).wrote("start", 10).wrote("raise", 11).told(11.1, failed("operation_failed"))


def killed_its_worker(story: Story) -> None:
    story.ordered(order("fail", "kill")).wrote("start", 10, operation="fail").told(13, lost(1, "fail"))


@pytest.mark.parametrize(
    "tell",
    [
        flawless,
        taken_over,
        frozen_and_stopped,
        a_command_taken_over,
        given_up,
        started_by_a_worker_that_said_nothing,
        cancelled_while_it_ran,
        raised,
        killed_its_worker,
    ],
)
def test_what_may_happen_is_no_violation(story: Story, tell: Callable[[Story], None]) -> None:
    tell(story)
    assert story.found() == set()


def unknown_somewhere(story: Story) -> None:
    flawless(story)
    story.told(13, None, "C")


def never_ended(story: Story) -> None:
    story.wrote("start", 10)


def failed_twice(story: Story) -> None:
    story.ordered(order("fail")).wrote("start", 10, operation="fail").ran(13, 14, fence=2, pid=2, operation="fail")
    story.told(15, status(operation="fail", fence=2))


def ticked_after_the_next_start(story: Story) -> None:
    taken_over(story)
    story.wrote("tick", 13.001, fence=1)


def ended_after_the_next_start(story: Story) -> None:
    taken_over(story)
    story.wrote("end", 13.5, fence=1)


def two_with_one_fence(story: Story) -> None:
    story.ran(10, 11, pid=1).ran(12, 13, pid=2).told(14, status())


def two_in_one_process(story: Story) -> None:
    story.ran(10, 11).ran(12, 13).told(14, status())


def fence_that_sank(story: Story) -> None:
    story.ran(10, 11, fence=2).ran(12, 13, fence=1).told(14, status(fence=1))


def other_status_later(story: Story) -> None:
    story.ordered(order(cancelled=True)).ran(10, 11).told(11.1, status()).told(12, status("cancelled"), "B")


def other_result_later(story: Story) -> None:
    flawless(story)
    story.told(13, status(result={"fence": 1, "attempt": 1, "answer": "another"}), "B")


def open_again(story: Story) -> None:
    flawless(story)
    story.sighting.open_later.append(Answer(at=12, server="B", status=status("processing")))


def one_key_two_tasks(story: Story) -> None:
    flawless(story)
    story.keys["piece 7"].add("another-task")


def completed_without_an_end(story: Story) -> None:
    story.wrote("start", 10).wrote("tick", 10.5).told(11, status())


def completed_without_a_start(story: Story) -> None:
    story.told(11, status())


def completed_by_the_fenced_run(story: Story) -> None:
    story.ran(10, 12).ran(13, 14, fence=2, pid=2).told(15, status(fence=1))


def completed_by_an_earlier_command(story: Story) -> None:
    a_command_taken_over(story)
    story.sighting.answers.clear()
    story.told(14.1, status(operation="command", result={"fence": 0, "pid": 1}))


def started_after_its_end(story: Story) -> None:
    story.ordered(order(cancelled=True)).told(9.5, status("cancelled")).wrote("start", 10)


def four_starts(story: Story) -> None:
    for fence in (1, 2, 3):
        story.wrote("start", 10 * fence, fence=fence, pid=fence)
    story.ran(40, 41, fence=4).told(42, status(fence=4))


def cancelled_by_nobody(story: Story) -> None:
    story.told(11, status("cancelled"))


def given_up_too_soon(story: Story) -> None:
    story.wrote("start", 10).told(13, lost(1))


def lost_after_a_deadline(story: Story) -> None:
    story.wrote("start", 10).told(13, failed("timeout"))


def failed_although_it_did_not_raise(story: Story) -> None:
    story.ran(10, 11).told(11.1, failed("operation_failed"))


def completed_although_it_kills(story: Story) -> None:
    story.ordered(order(how="kill")).ran(10, 11).told(11.1, status())


def answered_wrongly(story: Story) -> None:
    flawless(story)
    story.problems.append("HTTP 500")


@pytest.mark.parametrize(
    ("tell", "names"),
    [
        (unknown_somewhere, {"lost"}),
        (never_ended, {"not settled"}),
        (failed_twice, {"started twice"}),
        (ticked_after_the_next_start, {"ran at once"}),
        (ended_after_the_next_start, {"ran at once"}),
        (two_with_one_fence, {"fences wrong"}),
        (two_in_one_process, {"fences wrong"}),
        (fence_that_sank, {"fences wrong"}),
        (other_status_later, {"changed after its end"}),
        (other_result_later, {"changed after its end"}),
        (open_again, {"open after its end"}),
        (one_key_two_tasks, {"keys with two tasks"}),
        (completed_without_an_end, {"end without a run"}),
        (completed_without_a_start, {"end without a run"}),
        (completed_by_the_fenced_run, {"end without a run"}),
        (completed_by_an_earlier_command, {"end without a run"}),
        (started_after_its_end, {"ran after its end"}),
        (four_starts, {"too many starts"}),
        (cancelled_by_nobody, {"wrong ends"}),
        (given_up_too_soon, {"wrong ends"}),
        (lost_after_a_deadline, {"wrong ends"}),
        (failed_although_it_did_not_raise, {"wrong ends"}),
        (completed_although_it_kills, {"wrong ends"}),
        (answered_wrongly, {"wrong answers"}),
    ],
)
def test_each_violation_is_found_by_its_check(story: Story, tell: Callable[[Story], None], names: set[str]) -> None:
    tell(story)
    assert story.found() == names


def test_every_check_has_its_violation_above() -> None:
    marks: list[pytest.Mark] = getattr(test_each_violation_is_found_by_its_check, "pytestmark")  # noqa: B009
    cases: list[tuple[object, set[str]]] = marks[0].args[1]
    assert set().union(*(names for _, names in cases)) == set(CHECKS)


def killed(pid: int, at: float) -> Life:
    return Life(node="worker", pid=pid, began=0.0, died=at)


def settled_at(monotonic: float) -> str:
    return datetime.fromtimestamp(monotonic + AHEAD, UTC).isoformat().replace("+00:00", "Z")


def test_a_thread_that_works_on_beside_the_next_start_is_counted(story: Story) -> None:
    story.wrote("start", 10, operation="thread").ran(13, 14, fence=2, pid=2, operation="thread")
    story.wrote("tick", 13.5, operation="thread").told(14.1, status(fence=2, operation="thread"))
    assert (story.found(), story.findings().threads) == (set(), 1)


def test_a_takeover_lasts_from_the_death_to_the_next_start(story: Story) -> None:
    taken_over(story)
    story.lives = [killed(1, 10.75), killed(2, 20.0)]
    assert [(each.seconds, each.store_was_away) for each in story.findings().takeovers] == [(2.25, False)]


def test_a_takeover_lasts_from_the_death_to_the_settling_in_the_store(story: Story) -> None:
    story.ordered(order("fail")).wrote("start", 10, operation="fail")
    story.told(19, lost(1, "fail", updated_at=settled_at(13.0)))
    story.lives = [killed(1, 11.0)]
    assert [round(each.seconds, 3) for each in story.findings().takeovers] == [2.0]


def test_a_writers_wrong_clock_does_not_count(story: Story) -> None:
    story.ordered(order("fail")).wrote("start", 10, operation="fail")
    story.told(14, lost(1, "fail", updated_at=settled_at(13.0 - 3600)))
    story.lives = [killed(1, 11.0)]
    assert [round(each.seconds, 3) for each in story.findings().takeovers] == [3.0]


def test_a_takeover_without_the_store_stands_apart(story: Story) -> None:
    taken_over(story)
    story.lives, story.outages = [killed(1, 10.75)], [(11.0, 12.0)]
    findings = story.findings()
    assert [each.store_was_away for each in findings.takeovers] == [True]
    assert findings.takeover_seconds() is None


def test_a_death_after_which_nothing_was_left_to_do_is_no_takeover(story: Story) -> None:
    flawless(story)
    story.lives = [killed(1, 11.05), killed(2, 10.0)]
    assert story.findings().takeovers == []
