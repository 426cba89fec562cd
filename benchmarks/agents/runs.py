"""One run: a host, a scenario, a transport; what it cost and whether the result arrived."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.agents.hosts.base import Host, Launch, Order
from benchmarks.agents.measured import Measures, measured
from benchmarks.agents.model.script import Script, prompt
from benchmarks.agents.model.server import Exchange, Record, serve
from benchmarks.agents.scenarios import Scenario
from benchmarks.agents.serving import ended, served
from benchmarks.agents.terminal import in_terminal
from benchmarks.agents.wire_facts import facts
from benchmarks.agents.workplace import SERVER, Workplace

__all__ = ["Outcome", "run"]

_PATIENCE_SECONDS = 90.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one run showed.

    Attributes:
        side, revision: What was measured: "now" or "before", and its commit.
        measures: What it cost, and whether the result arrived.
        seconds: How long the host ran.
        error: What went wrong with the run itself, "" where nothing did.
        facts: What the host said of itself on the wire.
    """

    host: str
    version: str
    scenario: str
    transport: str
    side: str
    revision: str
    measures: Measures
    seconds: float = 0.0
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def as_json(self) -> dict[str, Any]:
        """For the file of results."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Outcome:
        """What `as_json` made."""
        others = {key: value for key, value in found.items() if key != "measures"}
        return cls(measures=Measures(**found["measures"]), **others)


async def run(
    host: Host,
    version: str,
    scenario: Scenario,
    transport: str,
    *,
    source: Path | None = None,
    side: str = "now",
    revision: str = "",
    keep: Path | None = None,
) -> Outcome:
    """Run it in a folder of its own; `keep`: where that is left for a look, with the model's bodies."""
    with contextlib.ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-agents-")))
        place = Workplace(folder / "run", source)
        record = Record(bodies=[] if keep else None)
        began, error = time.time(), ""
        async with serve(record, server=SERVER) as port, served(place, transport) as mcp:
            order = Order(
                place=place,
                model_port=port,
                mcp=mcp,
                prompt=prompt(Script(operation=scenario.operation, arguments=scenario.arguments, then=scenario.then)),
            )
            launch = host.launch(order)
            limit = scenario.seconds + _PATIENCE_SECONDS
            if launch.keys:
                error = await in_terminal(launch, place, limit, lambda: _over(record))
            else:
                error = await _without_terminal(launch, place, limit)
        seconds = time.time() - began
        if keep:
            _leave(keep, record)
        return Outcome(
            host=host.name,
            version=version,
            scenario=scenario.name,
            transport=transport,
            side=side,
            revision=revision,
            seconds=round(seconds, 1),
            error=error,
            facts=facts(place.wire()),
            measures=measured(record, place, scenario),
        )


def _over(record: Record) -> bool:
    """Whether the model has said its last word."""
    said: list[Exchange] = [each for each in record.exchanges if each.main]
    return bool(said) and re.match(r"BENCH-(DONE|CANCELLED|FAILED)", said[-1].text) is not None


async def _without_terminal(launch: Launch, place: Workplace, limit: float) -> str:
    """Run it to its end; what went wrong."""
    with (place.folder / "stdout.log").open("wb") as out, (place.folder / "stderr.log").open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *launch.command,
            cwd=place.work,
            env=dict(launch.env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        code = await asyncio.wait_for(process.wait(), limit)
    except TimeoutError:
        return f"did not end within {limit:.0f} s"
    finally:
        await ended(process)
    if launch.answers and (said := _answered(place)):
        return said
    complaint = (place.folder / "stderr.log").read_text(errors="replace")
    return f"exit code {code}: {complaint.strip()[-300:]}" if code else ""


def _answered(place: Workplace) -> str:
    """What the closing line of JSON says that went wrong."""
    lines = (place.folder / "stdout.log").read_text(errors="replace").splitlines()
    try:
        closing: Any = json.loads(lines[-1])
    except (ValueError, IndexError):
        return f"no closing line of JSON: {lines[-1:]}"
    return str(closing.get("error") or "")


def _leave(keep: Path, record: Record) -> None:

    entries = [asdict(each) for each in record.exchanges]
    (keep / "exchanges.json").write_text(json.dumps(entries, indent=1))
    (keep / "bodies.json").write_text(json.dumps(record.bodies, indent=1))
    (keep / "others.txt").write_text("\n".join(record.others))
