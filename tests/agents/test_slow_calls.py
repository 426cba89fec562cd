"""A slow call in the hands of a model: the scripted model of benchmarks/agents in the smallest host, without npm."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from agents.tiny_host import connected  # noqa: E402

from benchmarks.agents.measured import measured  # noqa: E402  the benchmarks are no part of the package
from benchmarks.agents.model.script import Script, prompt  # noqa: E402
from benchmarks.agents.model.server import Record, serve  # noqa: E402
from benchmarks.agents.scenarios import Scenario  # noqa: E402
from benchmarks.agents.serving import served  # noqa: E402
from benchmarks.agents.workplace import SERVER, Workplace  # noqa: E402


class Bound(NamedTuple):
    """A scenario, and the turns that it may take at most."""

    scenario: Scenario
    turns: int


BOUNDS = {
    "short": Bound(Scenario(name="short", title="", operation="nap", arguments={"seconds": 0.2}, seconds=0.2), 3),
    "progress": Bound(Scenario(name="progress", title="", operation="work", arguments={"seconds": 3}, seconds=3), 6),
    "question": Bound(Scenario(name="question", title="", operation="confirm", seconds=0), 6),
    "large": Bound(Scenario(name="large", title="", operation="listing", arguments={"kilobytes": 150}, seconds=3), 25),
    "cancel": Bound(
        Scenario(name="cancel", title="", operation="nap", arguments={"seconds": 30}, seconds=30, then="cancel"), 4
    ),
}


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_model_that_does_what_it_is_told_gets_every_result(transport: str, tmp_path: Path) -> None:
    place = Workplace(tmp_path / "place")
    async with served(place, transport) as mcp:
        records = {name: Record() for name in BOUNDS}

        async def one(name: str) -> None:
            scenario = BOUNDS[name].scenario
            script = Script(operation=scenario.operation, arguments=scenario.arguments, then=scenario.then)
            async with serve(records[name], server=SERVER) as port, connected(mcp, port) as host:
                await host.converse(prompt(script))

        await asyncio.gather(*(one(name) for name in BOUNDS))
    for name, bound in BOUNDS.items():
        found = measured(records[name], place, bound.scenario)
        assert found.delivered, (name, found)
        assert found.turns <= bound.turns, (name, found)
