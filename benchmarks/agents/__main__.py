"""What a slow call costs a model: `python -m benchmarks.agents` drives real hosts and writes benchmarks/AGENTS.md.

Real agent hosts, from their packages, with a scripted model on loopback, against `raincheck serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.agents.hosts import HOSTS
from benchmarks.agents.hosts.base import Host, Missing
from benchmarks.agents.outcomes import Outcomes
from benchmarks.agents.page import page, tables
from benchmarks.agents.runs import Outcome, run
from benchmarks.agents.scenarios import LONG, QUICK, SCENARIOS, Scenario
from benchmarks.processes import ROOT

HERE = ROOT / "benchmarks"
PAGE = HERE / "AGENTS.md"
OUTCOMES = HERE / ".agents-runs" / "outcomes.json"
_started = time.monotonic()


def progress(text: str) -> None:
    """A line on stderr, with the time since the start."""
    sys.stderr.write(f"[{time.monotonic() - _started:5.0f} s] {text}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents", description=__doc__)
    parser.add_argument("--only", action="append", metavar="HOST", choices=HOSTS, help=f"one of: {', '.join(HOSTS)}")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="one scenario; may be given again")
    parser.add_argument("--transport", choices=("stdio", "http"), help="default: stdio, and HTTP too for some hosts")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--long", action="store_true", help="also the five minutes, in Gemini CLI")
    parser.add_argument("--before", metavar="REV", help="measure that commit too, beside the work tree")
    parser.add_argument("--only-before", action="store_true", help="with --before: measure that commit alone")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time (default 2)")
    parser.add_argument("--outcomes", type=Path, default=OUTCOMES, help="where outcomes are kept from run to run")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the folders of all runs there, for a look")
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page from what is kept")
    return parser.parse_args()


@contextmanager
def _checkout(revision: str) -> Generator[Path]:
    """The source of a commit, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="bench-before-") as name:
        tree = str(Path(name) / "tree")
        subprocess.run(["git", "worktree", "add", "-q", "--detach", tree, revision], cwd=ROOT, check=True)
        try:
            yield Path(tree) / "src"
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def _commit(revision: str = "") -> str:
    """The short name of a commit; without one, of the work tree as it is."""
    command = ["git", "describe", "--always", *([revision] if revision else ["--dirty"])]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _installed(chosen: Sequence[Host]) -> list[tuple[Host, str]]:
    """The hosts that are there, with their versions; one that cannot be had is left out visibly."""
    found: list[tuple[Host, str]] = []
    for host in chosen:
        try:
            found.append((host, host.install()))
        except Missing as missing:
            progress(f"SKIPPED {host.title}: {missing}")
    return found


def _scenarios(arguments: argparse.Namespace, host: Host) -> list[Scenario]:
    if arguments.scenario:
        return [SCENARIOS[name] for name in arguments.scenario]
    if arguments.quick:
        return [SCENARIOS[name] for name in QUICK]
    long = arguments.long and (host.name == "gemini" or arguments.only)
    return [scenario for scenario in SCENARIOS.values() if long or scenario.name not in LONG]


async def _measure(arguments: argparse.Namespace, sides: Sequence[tuple[str, str, Path | None]]) -> list[Outcome]:
    outcomes, places = Outcomes(arguments.outcomes), asyncio.Semaphore(arguments.jobs)
    chosen = [host for name, host in HOSTS.items() if not arguments.only or name in arguments.only]
    measured: list[Outcome] = []

    async def one(
        host: Host, version: str, scenario: Scenario, transport: str, side: tuple[str, str, Path | None]
    ) -> None:
        name, revision, source = side
        async with places:
            where = f"{host.title}, {scenario.title}, {transport}, {name}"
            keep = arguments.keep and arguments.keep / f"{host.name}-{scenario.name}-{transport}-{name}"
            try:
                found = await run(
                    host, version, scenario, transport, source=source, side=name, revision=revision, keep=keep
                )
            except OSError as error:
                progress(f"FAILED {where}: {error}")
                return
            measured.append(found)
            outcomes.add(found)
            seen = found.measures
            told = f"{seen.turns} turns, {seen.polls} polls, {'delivered' if seen.delivered else 'NOT delivered'}"
            progress(f"{where}: {told}, {seen.last[:60] or found.error}")

    async with asyncio.TaskGroup() as group:
        for host, version in _installed(chosen):
            for transport in [arguments.transport] if arguments.transport else ["stdio", "http"][: 1 + host.http]:
                for scenario in _scenarios(arguments, host):
                    for side in sides:
                        group.create_task(one(host, version, scenario, transport, side))
    return measured


def main() -> None:
    """Measure, print the tables, and write the page of a whole run."""
    arguments = _arguments()
    if not arguments.page:
        with ExitStack() as stack:
            sides: list[tuple[str, str, Path | None]] = []
            if arguments.before:
                source = stack.enter_context(_checkout(arguments.before))
                sides.append(("before", _commit(arguments.before), source))
            if not arguments.only_before:
                sides.append(("now", _commit(), ROOT / "src"))
            asyncio.run(_measure(arguments, sides))
    outcomes, hosts = Outcomes(arguments.outcomes), list(HOSTS.values())
    print("\n".join(tables(outcomes, hosts)))
    if not arguments.quick:
        PAGE.write_text(page(outcomes, hosts))


if __name__ == "__main__":
    main()
