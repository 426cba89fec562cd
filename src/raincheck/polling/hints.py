"""Polling hints: when a caller should ask for a task again, and how long the task will probably take."""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from raincheck.domain.task import Task, TaskStatus, scope_key
from raincheck.polling.history import Durations, History
from raincheck.polling.schedule import BackoffLadder, Schedule, schedule_of

logger = logging.getLogger(__name__)

ENOUGH_ENDS = 10
"""How many ends of an operation there must be before its hints are learned ones."""

Lookup = Callable[[str], History | None]
"""The history of an operation as it is now; never waits."""

# By ageing, ten ends in a row weigh a little less than ten.
_ENOUGH_WEIGHT = ENOUGH_ENDS - 0.5
_LOOK_SECONDS = 1.0
_NEW_SECONDS = 10.0
_FEW_LEFT = 0.02


class _Expectation(NamedTuple):
    """What is expected of one length of time: when to look, and what is left at each age."""

    schedule: Schedule
    lengths: list[float]
    summed: list[float]

    @classmethod
    def of(cls, durations: Durations, ladder: BackoffLadder) -> _Expectation:
        lengths, summed = list[float](), [0.0]
        for each in durations.buckets:
            lengths.append(each.upto)
            summed.append(summed[-1] + each.weight)
        return cls(schedule_of(durations, ladder), lengths, summed)

    def left(self, age: float) -> float | None:
        """The median of what is left at that age; None where hardly any was ever that old, or where it is not known."""
        gone = self.summed[bisect_right(self.lengths, age)]
        if 1 - gone < _FEW_LEFT:
            return None
        place = bisect_right(self.summed, gone + (1 - gone) / 2 - 1e-9)
        return self.lengths[place - 1] - age if place <= len(self.lengths) else None


class _Operation:
    """What is expected of an operation's tasks, and on what it rests."""

    __slots__ = ("ends", "lasted", "looked_at", "made_at", "ran")

    def __init__(self) -> None:
        self.ends = -1
        self.looked_at = self.made_at = float("-inf")
        self.ran: _Expectation | None = None
        self.lasted: _Expectation | None = None


class Hints:
    """Gives the hints of one process.

    Args:
        ladder: What is followed before there is history, and the bounds of every hint.
        history: Looks up an operation's history; None: nothing is learned.
        monotonic: The clock of intervals.
    """

    def __init__(
        self, ladder: BackoffLadder, history: Lookup | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._ladder = ladder
        self._history = history
        self._monotonic = monotonic
        self._operations: dict[tuple[str, str], _Operation] = {}
        self._scopes: dict[str, frozenset[str]] = {}

    def poll_after(self, task: Task, now: datetime) -> float | None:
        """When to ask again, in seconds; None once there is nothing to wait for."""
        if task.terminal:
            return None
        return round(self.learned(task, now) or self._ladder.interval(_age(task, now)), 3)

    def eta(self, task: Task, now: datetime) -> float | None:
        """In how many seconds the task has probably ended: as many end sooner as later. None where history does not
        say, and while the task waits for a person."""
        known = self._known(task)
        if known is None:
            return None
        ran, lasted = known.ran, known.lasted
        if task.status is TaskStatus.PROCESSING and task.started_at is not None:
            left = None if ran is None else ran.left(max(0.0, (now - task.started_at).total_seconds()))
        else:
            left = None if lasted is None else lasted.left(max(0.0, (now - _began(task)).total_seconds()))
            run = None if ran is None else ran.left(0.0)
            # It has not begun: at least its run is still to come.
            left = max((each for each in (left, run) if each is not None), default=None)
        return None if left is None else float(f"{max(0.0, left):.3g}")

    def learned(self, task: Task, now: datetime) -> float | None:
        """When history says to ask again, in seconds; None where it does not, and while the task waits for a person."""
        known = self._known(task)
        if known is None:
            return None
        if task.status is TaskStatus.PROCESSING and task.started_at is not None:
            return None if known.ran is None else known.ran.schedule.interval((now - task.started_at).total_seconds())
        if known.lasted is None:
            return None
        interval = known.lasted.schedule.interval(max(0.0, _age(task, now)))
        return interval if known.ran is None else max(interval, known.ran.schedule.interval(0.0))

    def _known(self, task: Task) -> _Operation | None:
        """What is expected of the task's operation; None where there is too little history, or a person is asked."""
        if self._history is None or task.terminal or task.status is TaskStatus.INPUT_REQUIRED:
            return None
        # Scopes of which nothing of their own is known share what is known of the runs of all.
        scope = scope_key(task.scope)
        name = task.operation_type, scope if scope in self._scopes.get(task.operation_type, ()) else ""
        known = self._operations.get(name)
        if known is None:
            known = self._operations[name] = _Operation()
        moment = self._monotonic()
        if moment - known.looked_at >= _LOOK_SECONDS:
            known.looked_at = moment
            history = self._history(task.operation_type)
            if history is not None and history.ends != known.ends and moment - known.made_at >= _NEW_SECONDS:
                if self._is_news(task.operation_type, frozenset(history.of_scopes)):
                    known.looked_at = float("-inf")
                    return self._known(task)
                try:
                    self._learn(known, history.seen_by(name[1]), moment)
                except Exception:  # a bug in the hints must not end the calls that they are given with
                    logger.exception("no new hints were learned", extra={"operation": task.operation_type})
        return known

    def _is_news(self, operation_type: str, scopes: frozenset[str]) -> bool:
        """Whether something is known of other scopes than before."""
        if self._scopes.get(operation_type, frozenset()) == scopes:
            return False
        self._scopes[operation_type] = scopes
        for name in [name for name in self._operations if name[0] == operation_type and name[1] not in scopes]:
            if name[1]:
                del self._operations[name]
        return True

    def _learn(self, known: _Operation, history: History, moment: float) -> None:
        ran = Durations.of(history.recent, history.recent_cancelled)
        lasted = Durations.of(history.lasted, history.lasted_cancelled)
        if max(ran.weight, lasted.weight) < _ENOUGH_WEIGHT:
            return
        known.ends, known.made_at = history.ends, moment
        known.ran = _Expectation.of(ran, self._ladder) if ran.weight >= _ENOUGH_WEIGHT else None
        known.lasted = _Expectation.of(lasted, self._ladder) if lasted.weight >= _ENOUGH_WEIGHT else None


def _age(task: Task, now: datetime) -> float:
    return (now - _began(task)).total_seconds()


def _began(task: Task) -> datetime:
    """From when on the age of a task counts: its acceptance, and once an attempt was lost, what came after."""
    if task.attempt and task.status is TaskStatus.PENDING:
        return task.updated_at
    return task.started_at if task.attempt > 1 and task.started_at is not None else task.created_at
