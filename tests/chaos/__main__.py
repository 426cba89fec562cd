"""`make chaos`: the whole fault suite, over every pair of store and engine."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from chaos.ground import GROUNDS
from chaos.report import page, table, verdict_line, violations
from chaos.running import Size, Verdict, plan_for, run
from chaos.site import roles_of

__all__ = ["main"]

_PAGE = Path(__file__).parents[2] / "benchmarks" / "CHAOS.md"
_SHOWN = 20

SIZES = {
    "sqlite + local": Size(tasks=1500, faults=40, killers=3, seconds=190),
    "postgres + local": Size(tasks=2000, faults=45, killers=4, seconds=210),
    "postgres + procrastinate": Size(tasks=3000, faults=50, killers=4, seconds=260),
    "redis + docket": Size(tasks=3000, faults=50, killers=4, seconds=260),
    "dynamodb + local": Size(tasks=600, faults=25, killers=2, seconds=150),
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="draws the orders and the faults; default: a new one")
    parser.add_argument("--pair", action="append", choices=list(GROUNDS), help="only this one; may be repeated")
    parser.add_argument("--plan", action="store_true", help="show the faults of the seed and make none")
    return parser.parse_args()


def main() -> int:
    """Run them one after the other; 0 where every promise held."""
    given = _arguments()
    seed: int = random.SystemRandom().randrange(1, 10**6) if given.seed is None else given.seed
    names: list[str] = given.pair or list(GROUNDS)
    print(f"seed {seed}")
    if given.plan:
        for name in names:
            _show_plan(name, seed)
        return 0
    absent = {name: what for name in names if (what := GROUNDS[name].missing()) is not None}
    for name, what in absent.items():
        print(f"{name}: left out, not installed: {what}")
    verdicts = [asyncio.run(_run(name, seed)) for name in names if name not in absent]
    if not verdicts:
        return 1
    print(f"\n{table(verdicts)}\n")
    if not absent and given.pair is None:
        _PAGE.write_text(page(verdicts))
    print(verdict_line(verdicts))
    return 1 if absent or any(map(violations, verdicts)) else 0


def _show_plan(name: str, seed: int) -> None:
    plan = plan_for(GROUNDS[name], seed, SIZES[name])
    print(f"\n{name}, plan {plan.digest}, nodes {', '.join(roles_of(GROUNDS[name]))}")
    for fault in plan.faults:
        shift = f", by {fault.shift:+d} s" if fault.shift else ""
        print(f"  {fault.at:7.1f} s  {fault.kind:<14} {fault.victim:<9} for {fault.seconds:.1f} s{shift}")


async def _run(name: str, seed: int) -> Verdict:
    folder = Path(tempfile.mkdtemp(prefix="raincheck-chaos-"))
    print(f"{name}: at work", flush=True)
    verdict = await run(GROUNDS[name], folder, seed, SIZES[name])
    found = violations(verdict)
    print(f"{name}: {len(found)} violations, {verdict.seconds:.0f} s", flush=True)
    if found:
        print("\n".join(f"  {line}" for line in found[:_SHOWN]))
        print(f"  the history, events.txt and the logs stay in {folder}", flush=True)
    else:
        shutil.rmtree(folder)
    return verdict


if __name__ == "__main__":
    sys.exit(main())
