"""One run: a pair of store and engine, a plan, its processes, its callers, its faults, and what the checker says."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos import clocks
from chaos.checker import Evidence, Findings, check
from chaos.faults import Done, Faults
from chaos.ground import Ground, Sqlite
from chaos.load import Load
from chaos.plan import KINDS, Kind, Plan, Shape, draw
from chaos.site import LEASE, Site, roles_of, standing

__all__ = ["Size", "Verdict", "plan_for", "run"]

_SETTLE_SECONDS = 90.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much a run is to do.

    Attributes:
        tasks, faults, killers: See `Shape`.
        seconds: How long orders come in.
    """

    tasks: int
    faults: int
    killers: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One run's result.

    Attributes:
        counts: What happened to calls.
        faults: By kind; deaths by a task's own hand among them.
        ground, version: The pair, and the server that it stood on.
        missing: Faults that could not be made here, and why.
    """

    ground: str
    version: str
    plan: Plan
    seconds: float
    tickets: int
    tasks: int
    resolved: int
    findings: Findings
    counts: Counter[str]
    faults: Counter[str]
    missing: str
    done: Sequence[Done]
    processes: int


def plan_for(ground: type[Ground], seed: int, size: Size) -> Plan:
    """The plan for that ground."""

    def possible(name: str, kind: Kind) -> bool:
        where = {
            "anywhere": True,
            "network": ground.remote,
            "clock": not clocks.missing(),
            "ground": name in ground.kinds,
        }
        return where[kind.possible]

    shape = Shape(
        tasks=size.tasks,
        faults=size.faults,
        killers=size.killers,
        seconds=size.seconds,
        lease=LEASE,
        nodes=tuple(roles_of(ground)),
        servers=tuple(name for name, role in roles_of(ground).items() if role != "worker"),
        kinds=[name for name, kind in KINDS.items() if possible(name, kind)],
        machine_clock=issubclass(ground, Sqlite),
    )
    return draw(seed, ground.name, shape)


async def run(kind: type[Ground], folder: Path, seed: int, size: Size) -> Verdict:
    """All of it, in that empty folder; what it left stays there."""
    began = time.monotonic()
    plan = plan_for(kind, seed, size)
    async with standing(kind, folder, roles_of(kind)) as site:
        version = await site.ground.version()
        load = Load(plan, site.fleet.servers)
        faults = Faults(plan, site.fleet, site.ground, load.a_ref)
        try:
            await _storm(load, faults)
            # Some were accepted in a call that broke, so that nobody has their ticket.
            await load.ask_everyone(await site.stored() | site.history().runs.keys(), _SETTLE_SECONDS / 2)
            await site.fleet.stop()
        finally:
            await load.close()
    return _verdict(version, plan, site, load, faults, time.monotonic() - began)


async def _storm(load: Load, faults: Faults) -> None:
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(faults.run(began))
        group.create_task(load.run(began, _SETTLE_SECONDS))


def _verdict(version: str, plan: Plan, site: Site, load: Load, faults: Faults, seconds: float) -> Verdict:
    _write_down(site, faults)
    history = site.history()
    sightings = list(load.sightings.values())
    evidence = Evidence(
        history=history,
        sightings=sightings,
        keys=load.keys,
        problems=[*load.problems, *faults.problems],
        lives=site.fleet.lives,
        outages=[(done.began, done.ended) for done in faults.done if _store_away(done.fault.kind)],
        wall_minus_monotonic=time.time() - time.monotonic(),
    )
    made = Counter[str](done.fault.kind for done in faults.done)
    made["killed by its task"] = sum(
        run.how == "start" and _order_kills(load, run.ref) for runs in history.runs.values() for run in runs
    )
    ticketed = [sighting for sighting in sightings if sighting.order is not None]
    return Verdict(
        ground=plan.name,
        version=version,
        plan=plan,
        seconds=seconds,
        tickets=len(ticketed),
        tasks=len(sightings),
        resolved=sum(all(answer.terminal for answer in each.answers) and bool(each.answers) for each in ticketed),
        findings=check(evidence),
        counts=load.counts,
        faults=made,
        missing=f"clock ({what})" if (what := clocks.missing()) else "",
        done=faults.done,
        processes=len(site.fleet.lives),
    )


def _store_away(kind: str) -> bool:
    # On a file the slow store is a locked one, for everybody.
    return kind.startswith("store") or kind == "slow wake"


def _write_down(site: Site, faults: Faults) -> None:
    """For whoever looks for the cause of a violation: what was done to whom, on the clock of the history."""
    events = [
        (done.began, f"{done.fault.kind} {done.fault.victim} until {done.ended:.3f} pid {done.pid} {done.fault}")
        for done in faults.done
    ]
    for life in site.fleet.lives:
        events.append((life.began, f"start {life.node} pid {life.pid}"))
        if life.died is not None:
            events.append((life.died, f"death {life.node} pid {life.pid}"))
    (site.place.folder / "events.txt").write_text("".join(f"{at:.3f} {what}\n" for at, what in sorted(events)))


def _order_kills(load: Load, ref: str) -> bool:
    order = load.sightings[ref].order if ref in load.sightings else None
    return order is not None and order.how == "kill"
