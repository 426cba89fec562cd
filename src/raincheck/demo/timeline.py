"""The demo's output: one line per event, and at the end bars of what ran when.

Plain ASCII, so that it reads the same in every terminal and log; colours only on a terminal.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TextIO

Tone = Literal["plain", "good", "bad", "loud", "quiet"]
Mark = Literal["=", ".", " "]

_COLOURS: dict[Tone, str] = {"plain": "", "good": "32", "bad": "31;1", "loud": "1", "quiet": "2"}
_WIDTH = 60


@dataclass(kw_only=True)
class TimelineRow:
    """One row of the bars: from when on what was drawn, and the one moment that gets a sign of its own.

    Attributes:
        name: Who.
        changes: `(seconds, mark)`: "=" works, "." waits, " " is not there.
        signs: `(seconds, sign)`.
    """

    name: str
    changes: list[tuple[float, Mark]] = field(default_factory=list[tuple[float, Mark]])
    signs: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])


class Timeline:
    """Prints the scenario, with the time since its start.

    Args:
        out: Where to.
        clock: Seconds, monotonic.
    """

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._start = clock()
        self._rows: dict[str, TimelineRow] = {}
        self._coloured = out.isatty() and "NO_COLOR" not in os.environ

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def say(self, who: str, what: str, *, tone: Tone = "plain") -> None:
        """One line: when, who, what."""
        self.line(f"{self.now:6.1f} s  {who:<7} {what}", tone=tone)

    def line(self, text: str = "", *, tone: Tone = "plain") -> None:
        """A line without a time."""
        colour = _COLOURS[tone] if self._coloured else ""
        print(f"\x1b[{colour}m{text}\x1b[0m" if colour else text, file=self._out, flush=True)

    def mark(self, row: str, mark: Mark) -> None:
        """From now on `row` works, waits or is not there; saying it again changes nothing."""
        changes = self._rows.setdefault(row, TimelineRow(name=row)).changes
        if not changes or changes[-1][1] != mark:
            changes.append((self.now, mark))

    def sign(self, row: str, sign: str) -> None:
        """One character on `row` for what happened now."""
        self._rows.setdefault(row, TimelineRow(name=row)).signs.append((self.now, sign))

    def draw(self) -> None:
        """The bars."""
        end = max(self.now, 1.0)
        self.line("         " + _scale(end), tone="quiet")
        for row in self._rows.values():
            self.line(f"{row.name:>8} {_bar(row, end)}")
        self.line("         = works   . waits   X killed   v done   ! failed, as it should", tone="quiet")


def _column(seconds: float, end: float) -> int:
    return min(_WIDTH - 1, int(seconds / end * _WIDTH))


def _scale(end: float) -> str:
    cells = [" "] * (_WIDTH + 4)
    for second in range(0, int(end) + 1, 5):
        label = f"{second}s"
        cells[_column(second, end) : _column(second, end) + len(label)] = label
    return "".join(cells).rstrip()


def _bar(row: TimelineRow, end: float) -> str:
    cells = [" "] * _WIDTH
    for index, (at, mark) in enumerate(row.changes):
        until = row.changes[index + 1][0] if index + 1 < len(row.changes) else end
        first, last = _column(at, end), _column(until, end)
        cells[first : last + 1] = [mark] * (last + 1 - first)
    for at, sign in row.signs:
        cells[_column(at, end)] = sign
    return "".join(cells).rstrip()
