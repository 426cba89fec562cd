"""The rules of permits: pure functions over one ledger.

The start rate is the generic cell rate algorithm (ATM Forum, Traffic Management 4.0, §4.4.2): one moment says it all.
Times are seconds since the epoch, of the store's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from raincheck.domain.task import Task, TaskStatus

UNCLAIMED_SECONDS = 20.0
"""How long a permit waits for the claim that it was taken for."""

_SETTLED_SECONDS = 15.0
_RESUMES_SECONDS = 5.0


class Limit(NamedTuple):
    """What an operation's policy says: how many run (0: any number), seconds between starts (0: none), the burst."""

    max_running: int
    interval: float
    burst: int


class PermitHolder(NamedTuple):
    """Who has a permit.

    Attributes:
        owner: The process.
        fence: The fencing number of the claim that the permit is for.
        since: When it was taken.
        until: When it ends by itself: for a call that is no task. None: it is given back, or its task is looked at.
    """

    owner: str
    fence: int
    since: float
    until: float | None = None


class Refusal(NamedTuple):
    """No permit now.

    Attributes:
        limit: "max_running", "starts_per_minute", or "taken" where another process has the permit of that very task.
        seconds: When to ask again.
    """

    limit: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PermitLedger:
    """An operation's permits.

    Attributes:
        holders: By the ref of the task (or call).
        resuming: Suspended tasks that want theirs again, and until when that counts: they come before every start.
        next_start: When the next start is due at an even pace; a burst may be ahead of it.
    """

    holders: Mapping[str, PermitHolder] = field(default_factory=dict[str, PermitHolder])
    resuming: Mapping[str, float] = field(default_factory=dict[str, float])
    next_start: float = 0.0


_RETRY_SECONDS = 1.0


def taken(
    ledger: PermitLedger, limit: Limit, ref: str, holder: PermitHolder, now: float, *, start: bool
) -> tuple[PermitLedger, Refusal | None]:
    """Take a permit.

    Args:
        start: A start, which counts for the rate; else a suspended task goes on, or one sees that it still has its own.
    """
    holders = _live(ledger.holders, now)
    had = holders.get(ref)
    if had is not None and start and had.owner != holder.owner and had.fence >= holder.fence:
        return ledger, Refusal("taken", _RETRY_SECONDS)
    resuming = {each: until for each, until in ledger.resuming.items() if until > now and each != ref}
    others = len(holders) - (had is not None)
    ahead = len(resuming) if start else 0
    if limit.max_running and others + ahead >= limit.max_running:
        if not start:
            waiting = {**resuming, ref: now + _RESUMES_SECONDS}
            return replace(ledger, resuming=waiting), Refusal("max_running", _RETRY_SECONDS)
        return ledger, Refusal("max_running", _RETRY_SECONDS)
    due = ledger.next_start
    if start and limit.interval:
        # After a jump of the clock no wait is longer than the longest there is.
        due = min(due, now + limit.interval * limit.burst)
        wait = due - limit.interval * (limit.burst - 1) - now
        if wait > 0:
            return ledger, Refusal("starts_per_minute", wait)
        due = max(due, now) + limit.interval
    return PermitLedger(holders={**holders, ref: holder}, resuming=resuming, next_start=due), None


def released(ledger: PermitLedger, ref: str, owner: str, limit: Limit, *, started: bool) -> PermitLedger:
    """Give a permit back, if it is still this owner's; where nothing was started the rate gets its start back."""
    resuming = {each: until for each, until in ledger.resuming.items() if each != ref}
    had = ledger.holders.get(ref)
    if had is None or had.owner != owner:
        return ledger if len(resuming) == len(ledger.resuming) else replace(ledger, resuming=resuming)
    holders = {each: holder for each, holder in ledger.holders.items() if each != ref}
    due = ledger.next_start if started else ledger.next_start - limit.interval
    return PermitLedger(holders=holders, resuming=resuming, next_start=due)


def without(ledger: PermitLedger, refs: Collection[str]) -> PermitLedger:
    """The ledger without these holders."""
    if not refs:
        return ledger
    return replace(ledger, holders={ref: holder for ref, holder in ledger.holders.items() if ref not in refs})


def gone(holder: PermitHolder, task: Task | None, now: float) -> bool:
    """Whether a holder's task shows that nothing runs under its permit any more: its worker died, or lost the lease.

    A worker stops what it runs before its lease is over, and sees to the end of what was settled under it; both are
    given their time. A living holder gives its permit back itself.
    """
    if task is None:
        return now - holder.since > UNCLAIMED_SECONDS
    if task.fence < holder.fence:
        return task.terminal or now - holder.since > UNCLAIMED_SECONDS
    if task.fence > holder.fence or task.status is TaskStatus.PENDING:
        return True
    if task.status is TaskStatus.PROCESSING:
        return False
    if task.outcome is not None and task.outcome.error is not None and task.outcome.error.code == "worker_lost":
        return True
    # Settled, or waiting for its caller.
    return now - task.updated_at.timestamp() > _SETTLED_SECONDS


def _live(holders: Mapping[str, PermitHolder], now: float) -> dict[str, PermitHolder]:
    return {ref: holder for ref, holder in holders.items() if holder.until is None or holder.until > now}


def to_json(ledger: PermitLedger) -> dict[str, Any]:
    """The ledger as a record's value."""
    return {
        "holders": {ref: list(holder) for ref, holder in ledger.holders.items()},
        "resuming": dict(ledger.resuming),
        "next_start": ledger.next_start,
    }


def from_json(value: Any) -> PermitLedger:
    """The ledger of a record's value."""
    return PermitLedger(
        holders={ref: PermitHolder(*holder) for ref, holder in value["holders"].items()},
        resuming=value["resuming"],
        next_start=value["next_start"],
    )
