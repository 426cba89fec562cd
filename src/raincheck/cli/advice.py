"""Advice on an operation's policy from its history: the row of the decision matrix, timeout, inline wait, and reasons.

The matrix goes by the patience of callers: a call that is over before any of them gives up needs no ticket; a ticket is
worth its second call where it may not be; no client should poll for minutes; and what fails often is to be refused
early.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raincheck.operations.limit_policy import COUNTED_CODES
from raincheck.operations.operation import Mode, Policy
from raincheck.polling.duration_sketch import DurationSketch
from raincheck.polling.history import Durations, History

Row = Literal["inline", "ticket", "ticket + webhook"]

ENOUGH_ENDS = 30
"""With fewer ends nothing is advised."""

_INLINE_SECONDS = 2.0
_SHORTEST_PATIENCE = 5.0
_LONGEST_INLINE_WAIT = 4.0
_WEBHOOK_SECONDS = 300.0
_OFTEN = 0.1
_ENOUGH_FOR_THE_TAIL = 1000
_MARGIN, _WIDE_MARGIN = 1.5, 2.0
_SHORTEST_TIMEOUT = 5.0
_CUT_SHARE = 0.001
_USUAL_DEADLINE, _LONGEST_DEADLINE = Policy().default_max_wait_seconds, Policy().max_wait_ceiling_seconds
_MANY_CUT = 0.2
_STEPS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What is advised for one operation. Lengths of time are in seconds, None where the history does not say.

    Attributes:
        operation_type: The operation.
        enough: Whether there is history enough; without, nothing below `queue_p95` is advised.
        ends: How many tasks ended since its history began.
        p50, p95, p999: Quantiles of a run, cut-off and cancelled ones counted as at least so long.
        failure_share: The share of failed ones, of those that were not cancelled.
        codes: How many ended in which way, by weight.
        queue_p50, queue_p95: Quantiles of the time in the queue.
        row: The row of the decision matrix.
        breaker: Whether a circuit breaker belongs in front.
        mode, inline_wait_seconds, timeout_seconds: The settings.
        why: The reasons, a sentence each.
    """

    operation_type: str
    enough: bool
    ends: int
    p50: float | None
    p95: float | None
    p999: float | None
    failure_share: float
    codes: dict[str, float]
    queue_p50: float | None
    queue_p95: float | None
    row: Row | None = None
    breaker: bool = False
    mode: Mode | None = None
    inline_wait_seconds: float | None = None
    timeout_seconds: float | None = None
    why: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """The keys of the operation's table, as they are advised."""
        given: dict[str, Any] = {"mode": self.mode}
        if self.mode == "auto":
            given["inline_wait_seconds"] = self.inline_wait_seconds
        given["timeout_seconds"] = self.timeout_seconds
        if self.timeout_seconds is not None and self.timeout_seconds > _USUAL_DEADLINE / 2:
            # Its runs are not to be ended by the deadline instead.
            given["default_max_wait_seconds"] = min(2 * self.timeout_seconds, _LONGEST_DEADLINE)
        return given


def advice_on(history: History, present: Policy | None = None) -> Advice:
    """The advice for an operation; `present` is its policy as it is, where that is known."""
    ran = _merged(history.ran)
    runs = Durations.of(ran, _merged(history.ran_cut, history.ran_cancelled))
    known = sum(weight for code, weight in history.codes.items() if code != "cancelled")
    failures = sum(weight for code, weight in history.codes.items() if code in COUNTED_CODES)
    share = failures / known if known else 0.0
    figures: dict[str, Any] = {
        "operation_type": history.operation_type,
        "ends": history.ends,
        "p50": runs.quantile(0.5),
        "p95": runs.quantile(0.95),
        "p999": runs.quantile(0.999),
        "failure_share": share,
        "codes": {code: round(weight, 2) for code, weight in sorted(history.codes.items())},
        "queue_p50": history.waited.quantile(0.5),
        "queue_p95": history.waited.quantile(0.95),
    }
    median = figures["p50"]
    if ran.weight < ENOUGH_ENDS or median is None:
        why = f"only {ran.weight:.0f} whole runs are known; {ENOUGH_ENDS} are the least to go by"
        if history.ran_cut.weight > ran.weight:
            why = f"{history.ran_cut.weight:.0f} runs were cut off and {ran.weight:.0f} ended: it needs more time"
        return Advice(enough=False, why=(why,), **figures)
    reasons: list[str] = []
    row, mode, wait = _row(runs, history, reasons)
    timeout = _timeout(runs, history, present, reasons)
    breaker = share >= _OFTEN
    if breaker:
        reasons.append(f"{share:.0%} of the calls fail: a breaker refuses them at once while it does nothing but fail")
    return Advice(
        enough=True,
        row=row,
        breaker=breaker,
        mode=mode,
        inline_wait_seconds=wait,
        timeout_seconds=timeout,
        why=tuple(reasons),
        **figures,
    )


def _row(runs: Durations, history: History, reasons: list[str]) -> tuple[Row, Mode, float | None]:
    p95, p99 = runs.quantile(0.95), runs.quantile(0.99)
    p999 = runs.quantile(0.999)
    queue = history.waited.quantile(0.95) or 0.0
    if p99 is not None and p999 is not None and p99 <= _INLINE_SECONDS and p999 <= _SHORTEST_PATIENCE:
        reasons.append(f"99% end within {said(p99)} and 99.9% within {said(p999)}: no caller gives up before")
        return "inline", "inline", None
    row: Row = "ticket"
    if p95 is None or p95 > _WEBHOOK_SECONDS:
        row = "ticket + webhook"
        took = "an unknown time" if p95 is None else said(p95)
        reasons.append(f"the slowest 5% take {took} and more: be told of the end instead of polling for it")
    for share in (0.99, 0.95, 0.9, 0.75, 0.5):
        run = runs.quantile(share)
        # Rounded up to half a second: what was measured is not to fall just outside.
        wait = None if run is None else math.ceil((run + queue) * 2) / 2
        if wait is not None and wait <= _LONGEST_INLINE_WAIT:
            reasons.append(f"{share:.0%} are there within {wait:g} s, and the others get a ticket")
            return row, "auto", wait
    median = runs.quantile(0.5)
    assert median is not None
    reasons.append(f"half take more than {said(median + queue)}, some callers give up after 5: a ticket at once")
    return row, "task", None


def _timeout(runs: Durations, history: History, present: Policy | None, reasons: list[str]) -> float:
    cut = sum(weight for code, weight in history.codes.items() if code == "timeout")
    known = sum(weight for code, weight in history.codes.items() if code != "cancelled")
    p999, longest = runs.quantile(0.999), runs.buckets[-1].upto
    if known and cut / known > _CUT_SHARE:
        limit = history.ran_cut.quantile(1.0) or longest
        limit = max(limit, 0.0 if present is None else present.timeout_seconds or 0.0)
        reasons.append(f"{cut / known:.1%} ran into a timeout of about {said(limit)}: what they need is not known")
        if cut / known > _MANY_CUT:
            reasons.append("so many look like hanging rather than slow: find out which before you give them more time")
        return _rounded(limit * _WIDE_MARGIN)
    if p999 is not None and runs.weight >= _ENOUGH_FOR_THE_TAIL:
        reasons.append(f"the timeout is p99.9, {said(p999)}, and half as much again; at least {_SHORTEST_TIMEOUT:g} s")
        return _rounded(p999 * _MARGIN)
    reasons.append(
        f"the timeout is twice the longest of {runs.weight:.0f} runs, {said(longest)}; p99.9 needs a thousand"
    )
    return _rounded(longest * _WIDE_MARGIN)


def said(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _merged(*sketches: DurationSketch) -> DurationSketch:
    whole = DurationSketch()
    for each in sketches:
        whole.merge(each)
    return whole


def _rounded(seconds: float) -> float:
    """Up to a number that people would write."""
    seconds = max(seconds, _SHORTEST_TIMEOUT)
    power = 10.0 ** math.floor(math.log10(seconds))
    steps: Sequence[float] = _STEPS
    return next(step * power for step in steps if step * power >= seconds * (1 - 1e-9))
