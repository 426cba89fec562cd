"""Holds what the operations wrote against what the callers saw (design.md §7). It decides; it measures nothing itself.

Nothing here is lenient: all times are of one monotonic clock, and an operation's line is the moment in which its code
was alive.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from chaos.fleet import Life
from chaos.load import Answer, Sighting

from support.history import History, Run

__all__ = ["CHECKS", "Evidence", "Findings", "Takeover", "check"]

CHECKS: Mapping[str, str] = {
    "lost": "a server did not know the task of a ticket",
    "not settled": "no end was reached in the time that the run gives",
    "started twice": "an operation that says `fail` started more than once",
    "ran at once": "a run did something after another run of its task had started",
    "fences wrong": "two starts with one fencing number, or a later start with a lower one",
    "changed after its end": "two answers about an ended task that differ",
    "open after its end": "one server said that the task is at its end, and then another one that it is not",
    "keys with two tasks": "one idempotency key got several tasks",
    "end without a run": "completed, but its last run did not come to its end or is not the one whose result it is",
    "ran after its end": "a run started after a caller had been told of the task's end",
    "too many starts": "more starts than `max_attempts`",
    "wrong ends": "an end or an error that the order does not explain",
    "wrong answers": "a call was answered with an error that is neither clear nor retryable",
}
"""Every promise that is checked, and what breaks it."""

MAX_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that one run left. Times are monotonic, but for those in answers.

    Attributes:
        history: What the operations wrote.
        sightings: What the callers saw, one of each task.
        keys: The tasks that each idempotency key got.
        problems: Answers that no caller should get.
        lives: The processes.
        outages: When the store did not answer.
        wall_minus_monotonic: What the wall clock is ahead of the monotonic one.
    """

    history: History
    sightings: Sequence[Sighting]
    keys: Mapping[str, AbstractSet[str]]
    problems: Sequence[str] = ()
    lives: Sequence[Life] = ()
    outages: Sequence[tuple[float, float]] = ()
    wall_minus_monotonic: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Takeover:
    """A task whose worker died: how long it took until it ran again, or was settled as lost."""

    ref: str
    died: float
    seconds: float
    store_was_away: bool


@dataclass(kw_only=True, slots=True)
class Findings:
    """What the checker found.

    Attributes:
        violations: By check, one line for each.
        takeovers: After deaths.
        threads: How often a thread worked on after the next start of its task: nobody can stop one.
    """

    violations: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in CHECKS})
    takeovers: list[Takeover] = field(default_factory=list[Takeover])
    threads: int = 0

    @property
    def count(self) -> int:
        """How many violations."""
        return sum(map(len, self.violations.values()))

    def takeover_seconds(self) -> tuple[float, float] | None:
        """Mean and longest, of those during which the store answered."""
        seconds = [takeover.seconds for takeover in self.takeovers if not takeover.store_was_away]
        return (statistics.fmean(seconds), max(seconds)) if seconds else None


def check(evidence: Evidence) -> Findings:
    """Everything that `CHECKS` names, and the takeovers."""
    findings = Findings()
    found = findings.violations
    found["wrong answers"] += evidence.problems
    found["keys with two tasks"] += [
        f"{key}: {', '.join(sorted(refs))}" for key, refs in evidence.keys.items() if len(refs) > 1
    ]
    for ref, runs in evidence.history.runs.items():
        found["started twice"] += _started_twice(ref, runs)
        at_once = list(_ran_at_once(ref, runs))
        if runs[0].operation == "thread":
            findings.threads += len(at_once)
        else:
            found["ran at once"] += at_once
        found["fences wrong"] += _fences(ref, runs)
        found["too many starts"] += [f"{ref}: {_told(runs)}"] if len(runs) > MAX_ATTEMPTS else []
    for sighting in evidence.sightings:
        runs = evidence.history.runs.get(sighting.ref, [])
        found["lost"] += _lost(sighting)
        found["not settled"] += [] if sighting.ended else [f"{_name(sighting)}: {_told(runs)}"]
        found["changed after its end"] += _changed(sighting)
        found["open after its end"] += _open_later(sighting)
        found["ran after its end"] += _ran_later(sighting, runs)
        found["end without a run"] += _without_a_run(sighting, runs)
        found["wrong ends"] += _wrong_end(sighting, runs)
    findings.takeovers += _takeovers(evidence)
    return findings


def _started_twice(ref: str, runs: Sequence[Run]) -> Iterator[str]:
    if runs[0].operation == "fail" and len(runs) > 1:
        yield f"{ref}: {_told(runs)}"


def _ran_at_once(ref: str, runs: Sequence[Run]) -> Iterator[str]:
    for number, later in enumerate(runs):
        for earlier in runs[:number]:
            if earlier.last > later.started:
                late = 1000 * (earlier.last - later.started)
                yield f"{ref}: fence {earlier.fence} at work {late:.0f} ms after the next start: {_told(runs)}"


def _fences(ref: str, runs: Sequence[Run]) -> Iterator[str]:
    # A command is not told its fencing number.
    if runs[0].operation != "command" and any(later.fence <= earlier.fence for earlier, later in pairwise(runs)):
        yield f"{ref}: {_told(runs)}"


def _lost(sighting: Sighting) -> Iterator[str]:
    for answer in sighting.answers:
        if answer.status is None:
            yield f"{_name(sighting)}: unknown at {answer.server} at {answer.at:.3f}, given at {sighting.given:.3f}"


def _changed(sighting: Sighting) -> Iterator[str]:
    ended = sighting.ended
    for answer in sighting.answers:
        if ended is not None and answer.terminal and answer.status != ended.status:
            yield f"{_name(sighting)}: {ended.status} at {ended.server}, then {answer.status} at {answer.server}"


def _open_later(sighting: Sighting) -> Iterator[str]:
    ended = sighting.ended
    for answer in sighting.open_later:
        if ended is not None and answer.at > ended.at:
            yield f"{_name(sighting)}: ended at {ended.server}, {answer.status} at {answer.server}"


def _ran_later(sighting: Sighting, runs: Sequence[Run]) -> Iterator[str]:
    ended = sighting.ended
    for run in runs:
        if ended is not None and run.started > ended.at:
            yield f"{_name(sighting)}: told at {ended.at:.3f}: {_told(runs)}"


def _without_a_run(sighting: Sighting, runs: Sequence[Run]) -> Iterator[str]:
    status = sighting.ended.status if sighting.ended else None
    if status is None or status["status"] != "completed":
        return
    result: Mapping[str, Any] = status["result"]
    # The last start has the highest fencing number: whatever an earlier one brings must have been refused.
    if not runs or runs[-1].ended is None or not _is_of(result, runs[-1]):
        yield f"{_name(sighting)}: {status}: {_told(runs)}"


def _is_of(result: Mapping[str, Any], run: Run) -> bool:
    # A command is not told its fencing number; it is a process of its own each time.
    return result["pid"] == run.pid if run.operation == "command" else result["fence"] == run.fence


def _wrong_end(sighting: Sighting, runs: Sequence[Run]) -> Iterator[str]:
    status = sighting.ended.status if sighting.ended else None
    if status is not None and not _explained(sighting, status, runs):
        yield f"{_name(sighting)}: {status}: {_told(runs)}"


def _explained(sighting: Sighting, status: Mapping[str, Any], runs: Sequence[Run]) -> bool:
    order = sighting.order
    match status["status"]:
        case "cancelled":
            return order is not None and order.cancel_after is not None
        case "completed":
            return order is None or order.how not in ("raise", "kill")
        case _:
            error: Mapping[str, Any] = status["error"]
    if error["code"] == "operation_failed":
        return (order is None or order.how == "raise") and bool(runs) and runs[-1].how == "raise"
    if error["code"] != "worker_lost":
        return False
    # A start counts when it is claimed, so there may be fewer lines than attempts; never more.
    attempts = MAX_ATTEMPTS if status["operation_type"] != "fail" else 1
    return error["details"] == {"attempts": attempts} and len(runs) <= attempts


def _takeovers(evidence: Evidence) -> Iterator[Takeover]:
    by_ref = {sighting.ref: sighting for sighting in evidence.sightings}
    for life in evidence.lives:
        if life.died is None:
            continue
        for runs in evidence.history.runs.values():
            for run, later in zip(runs, (*runs[1:], None), strict=True):
                if run.pid != life.pid or not life.began <= run.started <= life.died or run.how not in _ALIVE:
                    continue
                ended = by_ref[run.ref].ended if run.ref in by_ref else None
                seconds = _seconds_to_takeover(life.died, later, ended, evidence.wall_minus_monotonic)
                if seconds is not None:
                    yield Takeover(
                        ref=run.ref,
                        died=life.died,
                        seconds=seconds,
                        store_was_away=any(
                            began <= life.died + seconds and life.died <= over for began, over in evidence.outages
                        ),
                    )


_ALIVE = ("start", "tick")


def _seconds_to_takeover(died: float, later: Run | None, ended: Answer | None, ahead: float) -> float | None:
    """None where the task was no longer this worker's when it died, or where its caller ended it."""
    ends: list[float] = []
    if later is not None:
        ends.append(later.started)
    elif ended is not None and ended.status is not None:
        if ended.status["status"] != "failed":
            return None
        settled = datetime.fromisoformat(ended.status["updated_at"]).timestamp() - ahead
        # The writer's clock may have been one that jumped; then what counts is when the caller heard of it.
        ends.append(settled if died - 0.1 <= settled <= ended.at + 0.1 else ended.at)
    seconds = min(ends, default=died - 1) - died
    return None if seconds < -0.1 else max(0.0, seconds)


def _name(sighting: Sighting) -> str:
    order = sighting.order
    return f"{sighting.ref} ({order.operation} {order.how}, order {order.serial})" if order else sighting.ref


def _told(runs: Sequence[Run]) -> str:
    lines = (
        f"[attempt {run.attempt} fence {run.fence} pid {run.pid} {run.started:.3f}–{run.last:.3f} {run.how}]"
        for run in runs
    )
    return " ".join(lines) or "never started"
