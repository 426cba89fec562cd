"""What a run found, as a table for people: one column for each pair of store and engine."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata

from chaos.checker import CHECKS
from chaos.running import Verdict
from chaos.site import LEASE

__all__ = ["page", "table", "verdict_line", "violations"]

LONGEST_MEAN = 1.5
"""In leases: the longest mean of the takeovers after a death."""

_READING = f"""\
## How to read it

- **tickets given**: what callers hold; **resolved**: every server knew the task and said that it is at its end.
- From *lost* to *wrong answers*: violations; any but 0 fails the run. docs/chaos.md says what each means.
- **takeover**: from the death of a process that ran a task to the task's next start, or to its settling as
  `worker_lost`; in multiples of the lease ({LEASE:g} s). Those during which the store did not answer stand apart.
- **threads beside the next start**: a thread cannot be stopped: a synchronous function ran on when its task had started
  again; no violation.
- **faults**: as many as were made, by kind.
- The same seed draws the same orders and faults; what they hit also depends on the machine's moods.
"""


def _count(read: Callable[[Verdict], object]) -> Callable[[Verdict], str]:
    return lambda verdict: f"{read(verdict)}"


def _leases(verdict: Verdict, which: int) -> str:
    seconds = verdict.findings.takeover_seconds()
    return "–" if seconds is None else f"{seconds[which] / LEASE:.2f} ×"


def _rows(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, Callable[[Verdict], str]]]:
    yield "tickets given", _count(lambda each: each.tickets)
    yield "resolved", _count(lambda each: each.resolved)
    for name in CHECKS:
        yield name, _count(lambda each, name=name: len(each.findings.violations[name]))
    yield (
        "takeovers after a death",
        _count(lambda each: sum(not takeover.store_was_away for takeover in each.findings.takeovers)),
    )
    yield "takeover, mean", lambda each: _leases(each, 0)
    yield "takeover, longest", lambda each: _leases(each, 1)
    yield (
        "takeovers while the store was away",
        _count(lambda each: sum(takeover.store_was_away for takeover in each.findings.takeovers)),
    )
    yield "threads beside the next start", _count(lambda each: each.findings.threads)
    yield "**faults**", _count(lambda each: each.faults.total())
    kinds: list[str] = list(dict.fromkeys(kind for each in verdicts for kind in sorted(each.faults)))
    for kind in kinds:
        yield f"fault: {kind}", _count(lambda each, kind=kind: each.faults.get(kind, "–"))
    yield "processes started", _count(lambda each: each.processes)
    for what in sorted({what for each in verdicts for what in each.counts}):
        yield what, _count(lambda each, what=what: each.counts[what])
    yield "seconds", lambda each: f"{each.seconds:.0f}"
    yield "plan", _count(lambda each: each.plan.digest)


def table(verdicts: Sequence[Verdict]) -> str:
    """All of it, in Markdown that is also readable as it is."""
    cells = [["", *(verdict.ground for verdict in verdicts)]]
    cells += [[name, *(read(verdict) for verdict in verdicts)] for name, read in _rows(verdicts)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in cells]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def violations(verdict: Verdict, *, timed: bool = True) -> list[str]:
    """One line each; also where a fault of the plan was not made, or (if `timed`) where takeovers take too long."""
    lines = [f"{name}: {line}" for name, found in verdict.findings.violations.items() for line in found]
    seconds = verdict.findings.takeover_seconds() if timed else None
    if seconds is not None and seconds[0] > LONGEST_MEAN * LEASE:
        lines.append(f"takeover: {seconds[0] / LEASE:.2f} leases in the mean, above {LONGEST_MEAN}")
    if verdict.resolved != verdict.tickets:
        lines.append(f"resolved: {verdict.resolved} of {verdict.tickets} tickets")
    if (made := len(verdict.done)) != (planned := len(verdict.plan.faults)):
        lines.append(f"faults: {made} of {planned} were made")
    return lines


def verdict_line(verdicts: Sequence[Verdict]) -> str:
    """The last line."""
    wrong = sum(len(violations(verdict)) for verdict in verdicts)
    tickets, faults = sum(each.tickets for each in verdicts), sum(each.faults.total() for each in verdicts)
    said = "every promise held" if wrong == 0 else f"{wrong} VIOLATIONS"
    seeds = ", ".join(dict.fromkeys(str(each.plan.seed) for each in verdicts))
    return f"{tickets} tickets, {faults} faults, seed {seeds}: {said}"


def page(verdicts: Sequence[Verdict]) -> str:
    """benchmarks/CHAOS.md."""
    servers = dict.fromkeys(verdict.version for verdict in verdicts)
    packages = ("raincheck", "psycopg", "redis", "aiobotocore", "pydocket", "procrastinate", "mcp")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    missing = {verdict.missing for verdict in verdicts if verdict.missing}
    left_out = f"Left out here: {', '.join(sorted(missing))}.\n\n" if missing else ""
    return f"""\
# The fault suite: what it found

Written by `make chaos SEED={verdicts[0].plan.seed}` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {os.cpu_count()} cores,
{platform.system()} {platform.release().partition("-")[0]}, Python {platform.python_version()}; {", ".join(servers)};
{versions}.

{table(verdicts)}

**{verdict_line(verdicts)}**

{left_out}{_READING}"""
