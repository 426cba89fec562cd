"""The history of an operation: how long its ended tasks waited and ran, and how they ended.

Two memories: the *recent* one, in which an end weighs half after `RECENT_ENDS` more, is what polling hints follow; the
*long* one, in which it weighs half after `LONG_DAYS`, has the rare long runs that a timeout must leave room for.

What a length of time says depends on how it came to its end. A run that ended by itself is a whole duration. One that a
limit or a lost worker cut off would have lasted longer: for who waits it is an end like any other, for who sets a
timeout it says only that more was needed. A cancelled one says the same to both: its task would still have been there
to ask for. A task that asked a person something is counted and its times are not: they are the person's.

How long a task waits in the queue is its scope's own affair, since the scopes take turns: the time from acceptance to
the end is kept for each of the scopes that call most, and none is told that of another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import TaskTimeout, WorkerLost
from raincheck.polling.duration_sketch import Bucket, DurationSketch

RECENT_ENDS = 150
LONG_DAYS = 30.0

_MOST_CODES = 40
_MOST_SCOPES = 8
# By ageing, ten ends in a row weigh a little less than ten.
_ENOUGH_WEIGHT = 9.5
_FAINT = 0.01


class Durations(NamedTuple):
    """How long something takes, with what was cut off counted for what it says (Kaplan and Meier's estimate).

    Attributes:
        buckets: The lengths of time, shortest first; their weights are shares of all.
        open: The share of which is only known that it takes longer than all of them.
        weight: How much all of it rests on, in ends.
    """

    buckets: tuple[Bucket, ...]
    open: float
    weight: float

    @classmethod
    def of(cls, whole: DurationSketch, cut: DurationSketch) -> Durations:
        """Of those that are known whole, and those that were cut off."""
        ends = {each.upto: each.weight for each in whole}
        cuts = {each.upto: each.weight for each in cut}
        under_way = whole.weight + cut.weight
        alive, found = 1.0, list[Bucket]()
        for upto in sorted({*ends, *cuts}):
            if (ended := ends.get(upto)) is not None:
                share = alive * min(1.0, ended / max(under_way, ended))
                found.append(Bucket(upto, share))
                alive -= share
            under_way -= ends.get(upto, 0.0) + cuts.get(upto, 0.0)
        return cls(tuple(found), max(0.0, alive) if alive > 1e-9 else 0.0, whole.weight)

    def quantile(self, share: float) -> float | None:
        """The length of time that this share of all does not exceed; None where that is not known."""
        reached = 0.0
        for each in self.buckets:
            reached += each.weight
            if reached >= share - 1e-9:
                return each.middle
        return None


class End(NamedTuple):
    """What the end of a task says.

    Attributes:
        code: `completed`, `cancelled`, or the code of the error; `deadline` where that was the limit of a `timeout`.
        waited: Seconds from acceptance to the start; None where they say nothing.
        ran: Seconds from the start to the end, likewise.
        lasted: Seconds from acceptance to the end, likewise.
    """

    code: str
    waited: float | None
    ran: float | None
    lasted: float | None

    @classmethod
    def of(cls, task: Task) -> End:
        """Of a terminal task."""
        code = _code(task)
        assert task.settled_at is not None
        if any(not request.key.startswith("0-") for request in task.inputs):
            return cls(code, None, None, None)
        lasted = (task.settled_at - task.created_at).total_seconds()
        started = task.started_at
        if started is None:
            return cls(code, None, None, lasted)
        # Of work that another worker began, this start is not the beginning.
        resumed = task.resumable and task.attempt > 1
        ran = None if resumed else (task.settled_at - started).total_seconds()
        waited = None if task.attempt > 1 else (started - task.created_at).total_seconds()
        return cls(code, waited, ran, lasted)


@dataclass(kw_only=True, slots=True)
class History:
    """An operation's history. Grows in place; `merge` and `add` are for one owner at a time.

    Attributes:
        operation_type: The operation.
        ends: How many tasks ended, cancelled ones too, since it began; these do not age.
        codes: The weight of each way to end (`End.code`), in the long memory.
        waited, ran: The long memory: time in the queue, and runs that ended by themselves.
        ran_cut, ran_cancelled: Runs that were cut off, and cancelled.
        recent, recent_cancelled: The recent memory of runs, with those that were cut off; and cancelled ones.
        lasted, lasted_cancelled: The recent memory of the time from acceptance to the end, likewise; where no caller
            said whose the tasks were.
        of_scopes: The same two by scope (`raincheck.domain.task.scope_key`), of those with most ends lately.
        at: When it was last written.
    """

    operation_type: str
    ends: int = 0
    codes: dict[str, float] = field(default_factory=dict[str, float])
    waited: DurationSketch = field(default_factory=DurationSketch)
    ran: DurationSketch = field(default_factory=DurationSketch)
    ran_cut: DurationSketch = field(default_factory=DurationSketch)
    ran_cancelled: DurationSketch = field(default_factory=DurationSketch)
    recent: DurationSketch = field(default_factory=DurationSketch)
    recent_cancelled: DurationSketch = field(default_factory=DurationSketch)
    lasted: DurationSketch = field(default_factory=DurationSketch)
    lasted_cancelled: DurationSketch = field(default_factory=DurationSketch)
    of_scopes: dict[str, tuple[DurationSketch, DurationSketch]] = field(
        default_factory=dict[str, tuple[DurationSketch, DurationSketch]]
    )
    at: datetime | None = None

    @property
    def known_ends(self) -> float:
        """The weight of the ends that are no cancellations."""
        return sum(weight for code, weight in self.codes.items() if code != TaskStatus.CANCELLED)

    def seen_by(self, scope: str) -> History:
        """The history as that scope (its key) may know it: `lasted` is of its own tasks; where too little is known of
        them, it is what all tasks ran."""
        lasted, cancelled = self.of_scopes.get(scope, (self.lasted, self.lasted_cancelled))
        if lasted.weight + cancelled.weight < _ENOUGH_WEIGHT and self.of_scopes:
            lasted, cancelled = self.recent, self.recent_cancelled
        return replace(self, lasted=lasted, lasted_cancelled=cancelled, of_scopes={})

    def add(self, end: End, scope: str = "") -> None:
        """One more end, now, of a task of the scope of that key."""
        self.ends += 1
        code = end.code if end.code in self.codes or len(self.codes) < _MOST_CODES else "other"
        self.codes[code] = self.codes.get(code, 0.0) + 1.0
        cancelled = code == TaskStatus.CANCELLED
        if end.waited is not None:
            self.waited.add(end.waited)
        if end.ran is not None:
            cut = code in _CUT
            (self.ran_cancelled if cancelled else self.ran_cut if cut else self.ran).add(end.ran)
            (self.recent_cancelled if cancelled else self.recent).add(end.ran)
        if end.lasted is not None:
            kinds = (self.lasted, self.lasted_cancelled)
            if scope:
                kinds = self.of_scopes.setdefault(scope, (DurationSketch(), DurationSketch()))
            kinds[cancelled].add(end.lasted)

    def merged(self, newer: History, now: datetime) -> History:
        """Both as one: this one as old as it is by now, and what came after it."""
        days = 0.0 if self.at is None else max(0.0, (now - self.at).total_seconds()) / 86400
        by_time = 0.5 ** (days / LONG_DAYS)
        by_number = by_time * 0.5 ** (newer.ends / RECENT_ENDS)
        whole = History(operation_type=self.operation_type, ends=self.ends + newer.ends, at=now)
        faded = ((code, weight * by_time) for code, weight in self.codes.items())
        whole.codes = {code: weight for code, weight in faded if weight >= _FAINT}
        for code, weight in newer.codes.items():
            known = code if code in whole.codes or len(whole.codes) < _MOST_CODES else "other"
            whole.codes[known] = whole.codes.get(known, 0.0) + weight
        for name in _SKETCHES:
            sketch: DurationSketch = getattr(self, name).copy()
            sketch.fade(by_number if name in _RECENT else by_time)
            sketch.merge(getattr(newer, name))
            setattr(whole, name, sketch)
        whole.of_scopes = self._merged_scopes(newer, by_number)
        return whole

    def _merged_scopes(self, newer: History, faded: float) -> dict[str, tuple[DurationSketch, DurationSketch]]:
        whole: dict[str, tuple[DurationSketch, DurationSketch]] = {}
        for scope in {**self.of_scopes, **newer.of_scopes}:
            kinds = tuple(each.copy() for each in self.of_scopes.get(scope, (DurationSketch(), DurationSketch())))
            for sketch, later in zip(
                kinds, newer.of_scopes.get(scope, (DurationSketch(), DurationSketch())), strict=True
            ):
                sketch.fade(faded)
                sketch.merge(later)
            whole[scope] = (kinds[0], kinds[1])
        weights = {scope: kinds[0].weight + kinds[1].weight for scope, kinds in whole.items()}
        kept = sorted(weights, key=lambda scope: -weights[scope])[:_MOST_SCOPES]
        return {scope: whole[scope] for scope in kept if weights[scope]}

    def to_json(self) -> dict[str, Any]:
        """The value of its record."""
        return {
            "operation_type": self.operation_type,
            "ends": self.ends,
            "at": None if self.at is None else self.at.astimezone(UTC).isoformat(),
            "codes": {code: float(f"{weight:.6g}") for code, weight in self.codes.items()},
            **{name: getattr(self, name).to_json() for name in _SKETCHES},
            "of_scopes": {scope: [each.to_json() for each in kinds] for scope, kinds in self.of_scopes.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> History:
        """The history that `to_json` wrote; members that it does not know are left alone.

        Raises:
            ValueError: It is none.
        """
        given = cast("dict[str, Any]", value if isinstance(value, dict) else {})
        name, ends, codes, at = (given.get(key) for key in ("operation_type", "ends", "codes", "at"))
        if not isinstance(name, str) or type(ends) is not int or not isinstance(codes, dict):
            raise ValueError("a history has operation_type, ends and codes")
        weights = cast("dict[str, Any]", codes)
        if not all(type(each) in (int, float) and 0 < each < math.inf for each in weights.values()):
            raise ValueError("the codes of a history are weights above 0")
        history = cls(operation_type=name, ends=ends, codes={code: float(each) for code, each in weights.items()})
        if at is not None:
            history.at = datetime.fromisoformat(str(at))
            if history.at.tzinfo is None:
                raise ValueError("the time of a history has a zone")
        for sketch in _SKETCHES:
            setattr(history, sketch, DurationSketch.from_json(given.get(sketch, [])))
        of_scopes: Any = given.get("of_scopes", {})
        if not isinstance(of_scopes, dict):
            raise ValueError("of_scopes of a history is two sketches for each scope")
        for scope, (lasted, cancelled) in cast("dict[str, Any]", of_scopes).items():
            history.of_scopes[scope] = (DurationSketch.from_json(lasted), DurationSketch.from_json(cancelled))
        return history


_SKETCHES = tuple(each.name for each in fields(History) if each.default_factory is DurationSketch)
_RECENT = frozenset({"recent", "recent_cancelled", "lasted", "lasted_cancelled"})
_DEADLINE = "deadline"
_CUT = frozenset({TaskTimeout.code, _DEADLINE, WorkerLost.code})


def _code(task: Task) -> str:
    error = task.outcome.error if task.outcome is not None else None
    if task.status is not TaskStatus.FAILED or error is None:
        return str(task.status)
    return _DEADLINE if error.code == TaskTimeout.code and error.details.get("limit") == _DEADLINE else error.code
