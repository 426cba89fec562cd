"""The simulation of benchmarks/hints.py: learning pays on both sides, and the page says what was simulated."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import hints as simulation  # noqa: E402  the benchmarks are no part of the package


@pytest.mark.parametrize("name", ["constant 45", "narrow", "medium", "cache", "drift", "queue"])
def test_learned_hints_beat_the_ladder_in_polls_and_lag(name: str) -> None:
    series = next(each for each in simulation.made_up(120, seed=3) if each.name == name)
    compared, _, _ = simulation.compare(series)
    assert min(simulation.verdicts(compared)) >= 0
    assert compared.learned.asked_mean < 0.8 * compared.ladder.asked_mean
    assert compared.learned.lag_mean < 0.85 * compared.ladder.lag_mean


def test_where_all_end_within_the_first_interval_nothing_is_lost() -> None:
    series = next(each for each in simulation.made_up(60) if each.name == "under a second")
    compared, _, _ = simulation.compare(series)
    assert compared.learned == compared.ladder


def test_the_ladder_is_followed_as_it_is_told() -> None:
    series = simulation.Series(name="one", what="", runs=[simulation.Run(0.0, 20.0)])
    assert simulation.simulate(series, learn=False) == [(5, pytest.approx(11.0))]


def test_the_page_has_a_row_for_every_series_and_is_better_in_all() -> None:
    rows = re.findall(r"^\| ([^|]+?) \|", simulation.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    names = [each.name for each in (*simulation.recorded(), *simulation.made_up(1))]
    assert rows[2:] == [*names, "all"]
    last = simulation.PAGE.read_text(encoding="utf-8").split("| all |")[1].splitlines()[0]
    assert last.endswith("| better |")
    assert "worse" not in last
