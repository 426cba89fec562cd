"""The short form of the fault suite, for the tests: one pair, some tasks, some faults, and every promise holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chaos import clocks
from chaos.ground import GROUNDS
from chaos.report import table, violations
from chaos.running import Size, run

from support.servers.server import needed

__all__ = ["SEED", "hold_every_promise"]

SEED = int(os.environ.get("RAINCHECK_CHAOS_SEED", "4"))
SHORT = Size(tasks=150, faults=7, killers=1, seconds=11)


async def hold_every_promise(name: str, folder: Path, size: Size = SHORT) -> None:
    """Run the pair of that name once; `pytest -rP` shows the table."""
    needed(GROUNDS[name].missing())
    if os.environ.get("CI") == "true":
        needed(clocks.missing())
    verdict = await run(GROUNDS[name], folder, SEED, size)
    print(f"\n{table([verdict])}")
    # One or two deaths make no mean.
    if found := violations(verdict, timed=False):
        # Not as an assertion on a list, which pytest cuts.
        pytest.fail("\n".join([f"seed {SEED}, {len(found)} violations:", *found]), pytrace=False)
