"""`python -m benchmarks.hints`: learned polling hints beside the ladder, on recorded and made-up histories.

Nothing is served and no time passes: a caller that does as it is told is simulated against the very code that gives the
hints. Every task is asked for by the hints of what ended before it, the first ones (the ladder) included. Writes
benchmarks/HINTS.md and benchmarks/hints.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from raincheck.domain.task import Outcome, Task
from raincheck.domain.transitions import Claim, Settle, transition
from raincheck.polling.hints import Hints
from raincheck.polling.history import End, History
from raincheck.polling.program_hints import ProgramHints
from raincheck.polling.schedule import BackoffLadder

__all__ = ["Figures", "Run", "Series", "compare", "made_up", "page", "recorded", "simulate", "simulate_program"]

HERE = Path(__file__).parent
RECORDED = HERE / "recorded.json"
PAGE, CHART = HERE / "HINTS.md", HERE / "hints.svg"
TASKS = 500
LADDER = BackoffLadder(1.0, 30.0, 2.0)
_START = datetime(2026, 1, 1, tzinfo=UTC)
_FAR = timedelta(days=3650)
_PollAfter = Callable[[Task, datetime], float | None]


class Run(NamedTuple):
    """One task: how long it waits in the queue, and how long it runs."""

    waits: float
    runs: float


@dataclass(frozen=True, kw_only=True)
class Series:
    """Tasks of one operation, one after the other.

    Attributes:
        name, what: Which, and what they are.
        runs: The tasks.
        recorded: Whether they are real ones.
    """

    name: str
    what: str
    runs: Sequence[Run]
    recorded: bool = False


class Figures(NamedTuple):
    """Questions per task, and lag after the end in seconds: median, 95th percentile, mean."""

    asked_p50: float
    asked_p95: float
    asked_mean: float
    lag_p50: float
    lag_p95: float
    lag_mean: float

    @classmethod
    def of(cls, met: Sequence[tuple[int, float]]) -> Figures:
        """Of how often each task was asked for, and how late the last time was."""
        asked, lags = sorted(each[0] for each in met), sorted(each[1] for each in met)
        return cls(
            *(_percentile(asked, 0.5), _percentile(asked, 0.95), sum(asked) / len(asked)),
            *(_percentile(lags, 0.5), _percentile(lags, 0.95), sum(lags) / len(lags)),
        )


class Compared(NamedTuple):
    """One series: the figures of the ladder, and of learned hints."""

    series: Series
    ladder: Figures
    learned: Figures


class _Watch:
    """The clock of a simulation, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def simulate(series: Series, *, learn: bool) -> list[tuple[int, float]]:
    """How often a model asks for each task, and how long after its end the last time is."""
    return _simulate(series, learn, lambda hints: hints.poll_after)


def simulate_program(series: Series, *, learn: bool) -> list[tuple[int, float]]:
    """The same for a program."""

    def program(hints: Hints) -> _PollAfter:
        return ProgramHints(initial=LADDER.initial, longest=LADDER.longest, learned=hints.learned).poll_after

    return _simulate(series, learn, program)


def _simulate(series: Series, learn: bool, caller: Callable[[Hints], _PollAfter]) -> list[tuple[int, float]]:
    watch = _Watch()
    history = History(operation_type=series.name)

    def look_up(name: str) -> History | None:
        return history if history.ends else None

    poll_after = caller(Hints(LADDER, look_up if learn else None, monotonic=watch))
    met: list[tuple[int, float]] = []
    for run in series.runs:
        asked, age, lasts = 0, 0.0, run.waits + run.runs
        started = watch.now
        pending, processing, settled = _lives(series.name, watch.now, run)
        while age < lasts:
            watch.now = started + age
            shown = pending if age < run.waits else processing
            interval = poll_after(shown, _START + timedelta(seconds=watch.now))
            assert interval is not None
            age, asked = age + interval, asked + 1
        met.append((asked, age - lasts))
        watch.now = started + age
        newer = History(operation_type=series.name)
        newer.add(End.of(settled))
        history = history.merged(newer, _START + timedelta(seconds=watch.now))
    return met


def _lives(name: str, at: float, run: Run) -> tuple[Task, Task, Task]:
    accepted = _START + timedelta(seconds=at)
    started = accepted + timedelta(seconds=run.waits)
    pending = Task(
        task_ref="t",
        scope="ada",
        operation_type=name,
        arguments={},
        created_at=accepted,
        updated_at=accepted,
        deadline_at=accepted + _FAR,
        ttl_seconds=3600,
    )
    processing = transition(pending, Claim(worker_id="w", lease_until=accepted + _FAR), started)
    settle = Settle(fence=processing.fence, outcome=Outcome())
    return pending, processing, transition(processing, settle, started + timedelta(seconds=run.runs))


def compare(series: Series) -> tuple[Compared, list[tuple[int, float]], list[tuple[int, float]]]:
    """Both ways, and every single task of them."""
    ladder, learned = simulate(series, learn=False), simulate(series, learn=True)
    return Compared(series, Figures.of(ladder), Figures.of(learned)), ladder, learned


def recorded() -> Iterator[Series]:
    """Real durations, in the order in which they came."""
    stored: Mapping[str, Mapping[str, object]] = json.loads(RECORDED.read_text(encoding="utf-8"))
    for name, told in stored.items():
        seconds = told["seconds"]
        assert isinstance(seconds, list)
        yield Series(name=name, what=str(told["what"]), runs=[Run(0.0, each) for each in seconds], recorded=True)  # pyright: ignore[reportUnknownVariableType]


def made_up(tasks: int = TASKS, seed: int = 20261124) -> Iterator[Series]:
    """Durations by formula, with fixed seeds."""
    for name, (what, make) in _FORMULAS.items():
        rng = random.Random(f"{seed} {name}")
        yield Series(name=name, what=what, runs=[make(rng, number / tasks) for number in range(tasks)])


def _plain(make: Callable[[random.Random], float]) -> Callable[[random.Random, float], Run]:
    return lambda rng, place: Run(0.0, max(0.01, make(rng)))


_FORMULAS: Mapping[str, tuple[str, Callable[[random.Random, float], Run]]] = {
    "constant 45": ("always 45 s", _plain(lambda rng: 45.0)),
    "constant 60": ("always 60 s, which the ladder happens to meet at 61", _plain(lambda rng: 60.0)),
    "narrow": ("lognormal, median 20 s, sigma 0.1", _plain(lambda rng: rng.lognormvariate(math.log(20), 0.1))),
    "medium": ("lognormal, median 20 s, sigma 0.5", _plain(lambda rng: rng.lognormvariate(math.log(20), 0.5))),
    "wide": ("lognormal, median 20 s, sigma 1", _plain(lambda rng: rng.lognormvariate(math.log(20), 1))),
    "long": ("lognormal, median 5 min, sigma 0.3", _plain(lambda rng: rng.lognormvariate(math.log(300), 0.3))),
    "cache": (
        "60% hits of 2 s, else 45 s",
        _plain(lambda rng: rng.gauss(2, 0.2) if rng.random() < 0.6 else rng.gauss(45, 4)),
    ),
    "two kinds": (
        "30% of 0.4 s, else 90 s",
        _plain(lambda rng: rng.gauss(0.4, 0.05) if rng.random() < 0.3 else rng.gauss(90, 10)),
    ),
    "uniform": ("anything from 1 to 60 s", _plain(lambda rng: rng.uniform(1, 60))),
    "exponential 10": ("without memory, mean 10 s", _plain(lambda rng: rng.expovariate(1 / 10))),
    "exponential 60": ("without memory, mean 60 s", _plain(lambda rng: rng.expovariate(1 / 60))),
    "heavy tail": ("Pareto, 5 s and more, alpha 1.5", _plain(lambda rng: 5 * rng.paretovariate(1.5))),
    "drift": (
        "from 10 s to 60 s, little by little",
        lambda rng, place: Run(0.0, (10 + 50 * place) * rng.lognormvariate(0, 0.1)),
    ),
    "jump": (
        "12 s, and 40 s after a release",
        lambda rng, place: Run(0.0, (12 if place < 0.5 else 40) * rng.lognormvariate(0, 0.1)),
    ),
    "queue": (
        "30 s, after a wait of 20 s on average",
        lambda rng, place: Run(rng.expovariate(1 / 20), 30 * rng.lognormvariate(0, 0.1)),
    ),
    "under a second": ("lognormal, median 0.3 s", _plain(lambda rng: rng.lognormvariate(math.log(0.3), 0.3))),
}


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


# The page.

_HEAD = """\
# Polling hints: learned beside the ladder

Written by `python -m benchmarks.hints`, which is deterministic: the same code and the same recorded durations give
the same page. A caller does as it is told and asks again after `poll_after_seconds`; *polls* are its questions per task
(the ticket is none), *lag* is how long the result lay about, in seconds. Each cell is **ladder → learned** (1 s ×2 to
30 s → what the history says, with the same bounds). Every task counts, those before there was history too.

![Polls and lag, ladder and learned](hints.svg)

"""
_FOOT = """
## How to read it

- *Better* and *worse* are by more than 1% (of lag: more than 0.01 s too); *equal* is between. A median of polls is a
  whole number, so it is often equal where the mean is not.
- No hint is shorter than `initial_interval_ms`: where nearly everything ends within the first second, both ask once.
- No hint is longer than `max_interval_ms`: of a task of 5 minutes ten polls are the least there can be.
- Durations without memory (*exponential*) are the hardest there are: that a task is old says nothing about its end.
- *all* puts the tasks of all series together, each as it is.
- The recorded durations are in `benchmarks/recorded.json`, measured on a busy machine with two cores.
"""
_COLUMNS = ("polls p50", "polls p95", "polls mean", "lag p50", "lag p95", "lag mean")


def _verdict(ladder: float, learned: float, *, lag: bool) -> int:
    slack = max(0.01 * ladder, 0.01 if lag else 0.0)
    return 0 if abs(ladder - learned) <= slack else 1 if learned < ladder else -1


def verdicts(compared: Compared) -> list[int]:
    """Of each figure 1 where learned is better, 0 where it is equal, -1 where it is worse."""
    pairs = zip(compared.ladder, compared.learned, strict=True)
    return [_verdict(ladder, learned, lag=place > 2) for place, (ladder, learned) in enumerate(pairs)]


def _row(compared: Compared) -> str:
    cells = [
        f"{ladder:.{digits}f} → {learned:.{digits}f}"
        for ladder, learned, digits in zip(compared.ladder, compared.learned, (0, 0, 1, 1, 1, 1), strict=True)
    ]
    found = [(verdict, name) for verdict, name in zip(verdicts(compared), _COLUMNS, strict=True)]
    worse, equal = [name for verdict, name in found if verdict < 0], [name for verdict, name in found if not verdict]
    said = "; ".join(
        part
        for part in (f"**worse: {', '.join(worse)}**" if worse else "", f"equal: {', '.join(equal)}" if equal else "")
        if part
    )
    series = compared.series
    return f"| {series.name} | {series.what} ({len(series.runs)}) | {' | '.join(cells)} | {said or 'better'} |"


def page(rows: Sequence[Compared], whole: Compared) -> str:
    """The page."""
    head = f"| series | durations (tasks) | {' | '.join(_COLUMNS)} | learned is |"
    table = [head, "|" + " --- |" * 9]
    table += [_row(each) for each in rows if each.series.recorded]
    table += [_row(each) for each in rows if not each.series.recorded]
    table.append(_row(whole))
    return _HEAD + "\n".join(table) + "\n" + _FOOT


_GREY, _BLUE = "#9aa0a6", "#1a73e8"


def chart(rows: Sequence[Compared]) -> str:
    """Of each series two bars of polls and two of lag: up to the 95th percentile, with a mark at the median."""
    height = 60 + 34 * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="860" height="{height}" fill="white"/>',
        '<text x="150" y="20" font-weight="bold">polls per task</text>',
        '<text x="520" y="20" font-weight="bold">lag after the end, seconds</text>',
        f'<text x="150" y="38" fill="{_GREY}">ladder, 1 s ×2 to 30 s</text>',
        f'<text x="300" y="38" fill="{_BLUE}">learned</text>',
        '<text x="520" y="38" fill="#5f6368">bar: up to the 95th percentile; mark: median</text>',
    ]
    most = max(max(each.ladder.asked_p95, each.learned.asked_p95) for each in rows)
    latest = max(max(each.ladder.lag_p95, each.learned.lag_p95) for each in rows)
    for number, each in enumerate(rows):
        y = 54 + 34 * number
        parts.append(f'<text x="140" y="{y + 16}" text-anchor="end">{each.series.name}</text>')
        for line, (figures, colour) in enumerate(((each.ladder, _GREY), (each.learned, _BLUE))):
            top = y + 11 * line
            for left, median, high, scale in (
                (150, figures.asked_p50, figures.asked_p95, 300 / most),
                (520, figures.lag_p50, figures.lag_p95, 280 / latest),
            ):
                end = left + high * scale
                parts.append(
                    f'<rect x="{left}" y="{top}" width="{max(1.0, high * scale):.1f}" height="9" fill="{colour}"/>'
                    f'<rect x="{left + median * scale - 1:.1f}" y="{top - 1}" width="2" height="11" fill="black"/>'
                    f'<text x="{end + 4:.1f}" y="{top + 9}" font-size="10" fill="#5f6368">{high:.3g}</text>'
                )
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Simulate, print the table, and write the page. 0: learned is nowhere worse in all; 1: it is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hints", description=__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS, metavar="N", help=f"tasks per series (default {TASKS})")
    parser.add_argument("--seed", type=int, default=20261124, metavar="N", help="another seed: nothing is written")
    arguments = parser.parse_args()
    rows: list[Compared] = []
    ladder: list[tuple[int, float]] = []
    learned: list[tuple[int, float]] = []
    runs: list[Run] = []
    for series in (*recorded(), *made_up(arguments.tasks, arguments.seed)):
        compared, by_ladder, by_learned = compare(series)
        rows.append(compared)
        ladder += by_ladder
        learned += by_learned
        runs += series.runs
        print(_row(compared))
    whole = Compared(Series(name="all", what="together", runs=runs), Figures.of(ladder), Figures.of(learned))
    print(_row(whole))
    if (arguments.tasks, arguments.seed) == (TASKS, 20261124):
        PAGE.write_text(page(rows, whole), encoding="utf-8")
        CHART.write_text(chart(rows), encoding="utf-8")
    return int(min(verdicts(whole)) < 0)


if __name__ == "__main__":
    sys.exit(main())
