"""benchmarks/AGENTS.md, made from what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata

from benchmarks.agents.hosts.base import Host
from benchmarks.agents.json_access import child
from benchmarks.agents.outcomes import Outcomes
from benchmarks.agents.runs import Outcome
from benchmarks.agents.scenarios import SCENARIOS, Scenario

__all__ = ["page", "tables"]

READING = """\
## How to read it

- Each row is one run of a real host in a folder of its own, with a home of its own and nothing but loopback within
  reach, against `raincheck serve` with its defaults on a fresh store. `a → b`: the commit before, and now.
- The model is scripted: it calls the operation's tool, and then does what the answers say, as the tools' definitions
  allow: `resolve_task_status` with the ticket, with what the answer tells to pass on, until the task is terminal. It
  decides by the conversation that the host sends it, and knows nothing else.
- **turns**: requests of that conversation to the model: the call, one for each answer, the end. Those in which it looks
  for tools that the host does not show at once (`ToolSearch`, `tool_search`) are counted apart, as *+n looks*.
- **polls**: calls of `resolve_task_status`.
- **to the model**: the bodies of these requests together, looks included; the host's own prompt and tools are most of
  it, so it is the turns that count.
- **delivered**: the model's last answer has the digest of what the operation returned; of a large result the share of
  it that the model was given. Of a cancel: the operation was told, and the model too.
- **noticed after**: from the end of the operation's own code to the request that brings the model the result.
- **native**: the host follows the task itself and notifies the model; the turn in which the model says that it waits
  is counted.
"""


def page(outcomes: Outcomes, hosts: Sequence[Host]) -> str:
    """The whole page."""
    found = outcomes.all()
    revisions = {side: sorted({each.revision for each in found if each.side == side}) for side in ("before", "now")}
    measured = "; ".join(f"{side}: {', '.join(found) or 'not measured'}" for side, found in revisions.items())
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("raincheck", "mcp", "starlette", "uvicorn"))
    return "\n".join(
        [
            "# Agents: what a slow call costs a model",
            "",
            f"Written by `python -m benchmarks.agents` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {measured}.",
            "",
            f"- {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
            f"- Python {platform.python_version()}, {versions}",
            "",
            *tables(outcomes, hosts),
            "## The hosts",
            "",
            *_hosts(outcomes, hosts),
            "",
            READING,
        ]
    )


def tables(outcomes: Outcomes, hosts: Sequence[Host]) -> list[str]:
    """A table for each scenario of which there is an outcome."""
    lines: list[str] = []
    for scenario in SCENARIOS.values():
        rows = [
            row
            for host in hosts
            for transport in ("stdio", "http")
            if (row := _row(outcomes, host, transport, scenario)) is not None
        ]
        if rows:
            head = ["host", "turns", "polls", "to the model", "delivered", "noticed after"]
            aligned = "| --- | ---: | ---: | ---: | --- | ---: |"
            lines += [f"## {scenario.title[0].upper()}{scenario.title[1:]}", "", f"| {' | '.join(head)} |", aligned]
            lines += [*rows, ""]
    return lines


def _row(outcomes: Outcomes, host: Host, transport: str, scenario: Scenario) -> str | None:
    before, now = (outcomes.find(host.name, transport, scenario.name, side) for side in ("before", "now"))
    if before is None and now is None:
        return None
    cells = [
        _both(before, now, _turns),
        _both(before, now, lambda each: str(each.measures.polls)),
        _both(before, now, lambda each: f"{each.measures.bytes_in / 1000:,.0f} kB"),
        _both(before, now, _delivered),
        _both(before, now, lambda each: "–" if each.measures.noticed is None else f"{each.measures.noticed:.1f} s"),
    ]
    name = host.title if transport == "stdio" else f"{host.title}, HTTP"
    return f"| {name} | {' | '.join(cells)} |"


def _both(before: Outcome | None, now: Outcome | None, shown: Callable[[Outcome], str]) -> str:
    return " → ".join(shown(each) for each in (before, now) if each is not None)


def _turns(outcome: Outcome) -> str:
    looks = (
        f" +{outcome.measures.searches} look{'s' if outcome.measures.searches > 1 else ''}"
        if outcome.measures.searches
        else ""
    )
    return f"{outcome.measures.turns - outcome.measures.searches}{looks}"


def _delivered(outcome: Outcome) -> str:
    if outcome.measures.delivered:
        return "yes"
    share = f" ({outcome.measures.share:.0%})" if 0 < outcome.measures.share < 1 else ""
    return f"**no**{share}"


def _hosts(outcomes: Outcomes, hosts: Sequence[Host]) -> list[str]:
    lines = [
        "| host | version | protocol | name in `clientInfo` | declares | surface | ids in `_meta` |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for host in hosts:
        known = [each for each in outcomes.all() if each.host == host.name and each.facts.get("client")]
        if not known:
            continue
        facts = known[-1].facts
        capabilities = child(facts, "capabilities")
        declared = [name for name in ("elicitation", "sampling", "roots") if name in capabilities]
        native = "io.modelcontextprotocol/tasks" in child(capabilities, "extensions")
        ids = [f"`{key}`" for key in facts.get("meta", ()) if "progress" not in key and not key.startswith("io.")]
        surface = "tasks extension" if native else "handle tools"
        cells = [host.title, known[-1].version, str(facts.get("protocol")), f"`{facts['client']['name']}`"]
        lines.append(f"| {' | '.join([*cells, ', '.join(declared) or '–', surface, ', '.join(ids) or '–'])} |")
    return lines
