"""The rows of the table: what each is called, what it is to reach, and how that is judged."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

__all__ = ["ROWS", "Book", "Cell", "Row", "Target"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What raincheck is to reach: at most or at least `value`: a ratio to the floor, a distance from it, or itself."""

    text: str
    value: float
    of: Literal["ratio", "above floor", "itself"] = "itself"
    better: Literal["less", "more"] = "less"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row. `digits` is how many decimals are shown; `ratio` whether a ratio to the floor means anything."""

    key: str
    title: str
    unit: str
    digits: int = 1
    ratio: bool = True
    target: Target | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One contestant in one row: a sample a round, or a note where there is no number."""

    samples: tuple[float, ...] = ()
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None


class Book:
    """All that was measured."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._notes: dict[tuple[str, str], str] = {}

    def add(self, row: str, contestant: str, value: float | None, note: str = "") -> None:
        """One sample, or None and the reason why there is none; a note may stand beside a sample too."""
        if value is not None:
            self._samples[row, contestant].append(value)
        if note:
            self._notes[row, contestant] = note

    def cell(self, row: str, contestant: str) -> Cell:
        key = (row, contestant)
        return Cell(samples=tuple(self._samples.get(key, ())), note=self._notes.get(key, ""))

    def ratios(self, row: str, contestant: str) -> tuple[float, ...]:
        """The ratio to the floor in each round that both took part in."""
        own, floor = self.cell(row, contestant).samples, self.cell(row, "floor").samples
        return tuple(a / b for a, b in zip(own, floor, strict=False) if b)

    def reached(self, row: Row) -> bool | None:
        """Whether raincheck's median reaches the row's target; None where there is no target or no measurement."""
        own, floor = self.cell(row.key, "raincheck"), self.cell(row.key, "floor")
        if row.target is None or not (own.samples or own.note):
            return None
        if own.median is None:
            return False
        if row.target.of == "ratio":
            ratios = self.ratios(row.key, "raincheck")
            if not ratios:
                return None
            value = statistics.median(ratios)
        elif row.target.of == "above floor":
            if floor.median is None:
                return None
            value = own.median - floor.median
        else:
            value = own.median
        return value <= row.target.value if row.target.better == "less" else value >= row.target.value

    def as_json(self) -> dict[str, dict[str, object]]:
        """Every sample and note, by row and contestant."""
        found: dict[str, dict[str, object]] = {}
        for row, contestant in sorted({*self._samples, *self._notes}):
            cell = self.cell(row, contestant)
            found.setdefault(row, {})[contestant] = {"samples": cell.samples, "note": cell.note}
        return found


LEASE_SECONDS = 15.0
"""raincheck's default `lease_seconds`."""

ROWS: tuple[Row, ...] = (
    Row(key="ack_p50", title="acknowledgement p50, 1 caller", unit="ms", digits=2,
        target=Target(text="≤ 1.3 × floor", value=1.3, of="ratio")),
    Row(key="ack_p99", title="acknowledgement p99, 1 caller", unit="ms", digits=2),
    Row(key="ack_rate", title="acknowledgements/s, 50 callers", unit="/s", digits=0,
        target=Target(text="≥ 0.8 × floor", value=0.8, of="ratio", better="more")),
    Row(key="ack_noop_rate", title="… while the work (no-op) runs beside", unit="/s", digits=0),
    Row(key="status_p50", title="status query p50, 1 caller", unit="ms", digits=2,
        target=Target(text="≤ 1.2 × floor", value=1.2, of="ratio")),
    Row(key="status_rate", title="status queries/s, 50 callers", unit="/s", digits=0,
        target=Target(text="≥ 0.85 × floor", value=0.85, of="ratio", better="more")),
    Row(key="fetch_rate", title="submit, run, fetch a no-op task, 50 callers", unit="/s", digits=0,
        target=Target(text="≥ 0.6 × floor", value=0.6, of="ratio", better="more")),
    Row(key="start", title="process start → first `tools/list`, stdio", unit="s", digits=2,
        target=Target(text="≤ floor + 0.15 s", value=0.15, of="above floor")),
    Row(key="memory", title="resident memory, idle", unit="MiB",
        target=Target(text="≤ floor + 15 MiB", value=15, of="above floor")),
    Row(key="cpu", title="idle CPU over 20 s", unit="%", digits=2, ratio=False,
        target=Target(text="≤ 0.5 %", value=0.5)),
    Row(key="waiting", title="memory per waiting task (1,000 at once)", unit="KiB", ratio=False,
        target=Target(text="≤ 4 KiB", value=4)),
    Row(key="delivery", title="end of work → result with the client, median of 10 tasks", unit="ms", ratio=False,
        digits=0),
    Row(key="delivery_worst", title="… the worst of them", unit="ms", digits=0, ratio=False,
        target=Target(text="< 50 ms p99", value=50)),
    Row(key="burst", title="50 tasks of 10–15 s on defaults, all done after", unit="s", ratio=False),
    Row(key="burst_over", title="… longer than the longest of them", unit="s", digits=2, ratio=False,
        target=Target(text="≤ 0.5 s", value=0.5)),
    Row(key="burst_ack", title="… worst acknowledgement in it", unit="ms", digits=0, ratio=False,
        target=Target(text="≤ 50 ms", value=50)),
    Row(key="kill", title="`kill -9` in mid-work, start again: last of 20 tasks of 5 s", unit="s", ratio=False,
        target=Target(text="≤ lease + run (20 s)", value=LEASE_SECONDS + 5)),
    Row(key="term", title="SIGTERM in mid-work, start again: last of 20 tasks of 5 s", unit="s", ratio=False,
        target=Target(text="drained or released at once (≤ 10 s)", value=10)),
)  # fmt: skip
