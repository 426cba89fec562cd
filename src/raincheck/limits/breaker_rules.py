"""The rules of a circuit breaker: pure, `(state, what happened, now) -> state`. docs/limits.md draws them.

The asyncio breakers on PyPI (purgatory, aiobreaker, asyncbreaker, pybreaker) wrap the call that they guard and count
consecutive failures, in their own process or in Redis; here one process accepts, another runs and a third may settle,
the state must live in whichever task store there is, and it is a rate over a window that counts: none of them fits.

Times are seconds since the epoch, of the store's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from raincheck.domain.task import Task, TaskError, TaskStatus
from raincheck.operations.limit_policy import BreakerPolicy

_SLOTS = 10
# Of a slot; who fails more often than others is surely among them.
_MOST_SCOPES = 12
# Answers that say something of the request and nothing against the server. 401 and 403 are not among them: where
# credentials were withdrawn, every call fails.
_REQUEST_AT_FAULT = frozenset({400, 404, 405, 406, 409, 410, 411, 412, 413, 414, 415, 416, 417, 422, 428})


class Phase(StrEnum):
    """What a breaker does with calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Probe(NamedTuple):
    """A call that was let through to see whether all is well again: which, since when, until when it counts, whose."""

    ref: str
    since: float
    lapses_at: float
    scope: str = ""


class Result(NamedTuple):
    """How a call ended: failed or not (None where it says nothing: cancelled, or never run), and whose it was."""

    ref: str
    failed: bool | None
    scope: str = ""


class Slot(NamedTuple):
    """A scope's calls of a tenth of the window: which tenth since the epoch, how many, how many of them failed."""

    number: int
    calls: int
    failures: int
    scope: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerState:
    """What is known of an operation's calls. Scopes stand here by short digests of theirs, "" for all together.

    Attributes:
        phase: What becomes of the next call.
        width: The length of a slot in seconds; slots of another width are of another configuration.
        slots: The window, oldest first.
        opens_until: When an open breaker begins to let calls of `opened_by` through.
        opened_by: The scope whose calls alone opened it: those of the others may try at once. "": there were several.
        probes: Those under way.
        passes: The scopes of those that succeeded.
    """

    phase: Phase = Phase.CLOSED
    width: float = 0.0
    slots: tuple[Slot, ...] = ()
    opens_until: float = 0.0
    opened_by: str = ""
    probes: tuple[Probe, ...] = ()
    passes: tuple[str, ...] = ()

    @property
    def passed(self) -> int:
        """How many probes succeeded."""
        return len(self.passes)


def failed(task: Task, policy: BreakerPolicy) -> bool | None:
    """Whether a settled task counts as a failed call; None where it says nothing about the operation."""
    if task.status is TaskStatus.CANCELLED or not task.terminal:
        return None
    error = task.outcome.error if task.outcome is not None else None
    return False if error is None else error_counts(error, policy)


def error_counts(error: TaskError, policy: BreakerPolicy) -> bool | None:
    """Whether a call that ended in that error counts as failed; None where it says nothing about the operation."""
    details = error.details
    if details.get("limit") == "deadline" and details.get("phase") != "processing":
        # It waited for a place, or for its caller.
        return None
    if error.code == "invalid_parameters":
        return None
    if error.code == "upstream_error" and details.get("status") in _REQUEST_AT_FAULT:
        return False
    return error.code in policy.codes


def count(state: BreakerState, policy: BreakerPolicy, results: Sequence[Result], now: float) -> BreakerState:
    """The state after these calls ended. Results of calls from before a breaker opened change nothing."""
    if state.phase is not Phase.CLOSED:
        return _count_probes(state, policy, results, now)
    told = [result for result in results if result.failed is not None]
    if not told:
        return state
    width = policy.window_seconds / _SLOTS
    number = int(now / width)
    slots = _window(state, width, now)
    added = [Slot(number, 1, bool(result.failed), result.scope) for result in told]
    last = _by_scope(number, [*(slot for slot in slots if slot.number == number), *added])
    slots = [*(slot for slot in slots if slot.number != number), *last]
    calls, failures = sum(slot.calls for slot in slots), sum(slot.failures for slot in slots)
    if calls >= policy.min_calls and failures / calls >= policy.failure_rate:
        scopes = _by_scope(0, slots)
        if len(scopes) == 1:
            return _opened(policy, now, scopes[0].scope)
        # What the calls of the scope with most failures say counts only where the others' say the same.
        worst = max((scope for scope in scopes if scope.scope), key=lambda scope: scope.failures)
        if (failures - worst.failures) / (calls - worst.calls) >= policy.failure_rate:
            return _opened(policy, now, "")
    return BreakerState(width=width, slots=tuple(slots))


def admit(
    state: BreakerState, policy: BreakerPolicy, ref: str, lapses_at: float, now: float, scope: str = ""
) -> tuple[BreakerState, float | None]:
    """Let a call through, or not: the state then, and for a refused call in how many seconds to try again.

    Args:
        ref: The call's task.
        lapses_at: Until when its end is waited for, should it become a probe.
        scope: Whose it is.
    """
    if state.phase is Phase.CLOSED:
        return state, None
    # After a jump of the clock nothing is closed for longer than it ever was meant to be.
    left = min(state.opens_until - now, policy.cool_down_seconds)
    waits = state.opened_by == scope if state.opened_by else state.phase is Phase.OPEN
    if waits and left > 0:
        return state, left
    probes = tuple(probe for probe in state.probes if probe.lapses_at > now)
    if len(probes) + state.passed >= policy.probes:
        return state, min(policy.cool_down_seconds, 5.0)
    trying = replace(state, phase=Phase.HALF_OPEN, slots=(), probes=(*probes, Probe(ref, now, lapses_at, scope)))
    return trying, None


def _count_probes(state: BreakerState, policy: BreakerPolicy, results: Sequence[Result], now: float) -> BreakerState:
    ended = {result.ref: result.failed for result in results}
    for probe in state.probes:
        if probe.ref not in ended or probe not in state.probes:
            continue
        if ended[probe.ref]:
            if state.opened_by not in ("", probe.scope):
                return _opened(policy, now, "")
            others = tuple(each for each in state.probes if each.scope != probe.scope)
            passes = tuple(each for each in state.passes if each != probe.scope)
            phase = Phase.HALF_OPEN if others else Phase.OPEN
            state = replace(_opened(policy, now, probe.scope), phase=phase, probes=others, passes=passes)
            continue
        passes = state.passes if ended[probe.ref] is None else (*state.passes, probe.scope)
        if len(passes) >= policy.probes:
            return BreakerState()
        state = replace(state, passes=passes, probes=tuple(each for each in state.probes if each.ref != probe.ref))
    return state


def _opened(policy: BreakerPolicy, now: float, by: str) -> BreakerState:
    return BreakerState(phase=Phase.OPEN, opens_until=now + policy.cool_down_seconds, opened_by=by)


def _window(state: BreakerState, width: float, now: float) -> list[Slot]:
    if state.width != width:
        return []
    last = int(now / width)
    # What lies ahead is of before a jump of the clock.
    return [slot for slot in state.slots if last - _SLOTS < slot.number <= last]


def _by_scope(number: int, slots: Iterable[Slot]) -> list[Slot]:
    """One slot for each scope; where there are many, those that failed least often are one."""
    of: dict[str, Slot] = {}
    for slot in slots:
        had = of.get(slot.scope, Slot(number, 0, 0))
        of[slot.scope] = Slot(number, had.calls + slot.calls, had.failures + slot.failures, slot.scope)
    kept = sorted(of.values(), key=lambda slot: (-slot.failures, -slot.calls))
    if len(kept) <= _MOST_SCOPES:
        return kept
    rest = kept[_MOST_SCOPES - 1 :]
    together = Slot(number, sum(slot.calls for slot in rest), sum(slot.failures for slot in rest))
    return [*kept[: _MOST_SCOPES - 1], together]


def to_json(state: BreakerState) -> dict[str, Any]:
    """The state as a record's value."""
    return {
        "phase": str(state.phase),
        "width": state.width,
        "slots": [list(slot) for slot in state.slots],
        "opens_until": state.opens_until,
        "opened_by": state.opened_by,
        "probes": [list(probe) for probe in state.probes],
        "passes": list(state.passes),
    }


def from_json(value: Any) -> BreakerState:
    """The state of a record's value."""
    return BreakerState(
        phase=Phase(value["phase"]),
        width=value["width"],
        slots=tuple(Slot(*slot) for slot in value["slots"]),
        opens_until=value["opens_until"],
        opened_by=value["opened_by"],
        probes=tuple(Probe(*probe) for probe in value["probes"]),
        passes=tuple(value["passes"]),
    )
