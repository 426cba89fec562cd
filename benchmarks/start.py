"""How long a start takes: `python -m benchmarks.start`.

On stdio, from the start of the process to the whole answer to its first `tools/list`, of three servers that list the
same tools and take turns: the official SDK alone (the *floor*), `raincheck serve` and a server of two lines. Beside
them, to their end, the commands that people and tests start most. Wall clock and processor time, medians; on a machine
that does other things meanwhile, compare processor time.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.contestants import BENCH_TOML, SERVERS
from benchmarks.listing import Taken, first_listing
from benchmarks.processes import ROOT, START_SECONDS, BenchmarkError, Child, end_all

PYTHON = sys.executable
ROUNDS = 9
FLOOR = "floor: the SDK alone"

STARTS: Mapping[str, Sequence[str]] = {
    FLOOR: (PYTHON, str(SERVERS / "listing_floor.py")),
    "raincheck serve": (PYTHON, "-m", "raincheck", "serve", "bench.toml"),
    "a library's server": (PYTHON, str(SERVERS / "listing_library.py")),
}
"""What serves on stdio, until its first `tools/list` is answered."""

COMMANDS: Mapping[str, Sequence[str]] = {
    "python, alone": (PYTHON, "-c", "pass"),
    "raincheck --version": (PYTHON, "-m", "raincheck", "--version"),
    "raincheck tasks list": (PYTHON, "-m", "raincheck", "tasks", "list", "--config", "bench.toml"),
    "raincheck check": (PYTHON, "-m", "raincheck", "check", "bench.toml"),
    "import of a worker": (
        PYTHON,
        "-c",
        "import raincheck.cli.worker, raincheck.runtime.service, raincheck.composition.adapters",
    ),
    'import of isolation = "process"': (PYTHON, "-c", "import raincheck.operations.python.subprocess_main"),
}
"""What ends by itself."""


def whole(command: Sequence[str], folder: Path) -> Taken:
    """From the start of a command to its end.

    Raises:
        BenchmarkError: It failed.
    """
    before = os.times()
    started = time.perf_counter()
    child = Child(command, folder=folder)
    code = child.popen.wait(START_SECONDS)
    wall = time.perf_counter() - started
    after = os.times()
    tail = child.tail()
    child.kill()
    if code:
        raise BenchmarkError(f"{command} ended with {code}: {tail}")
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Taken(wall, spent)


def measure(
    rows: Mapping[str, Sequence[str]], taken: Callable[[Sequence[str], Path], Taken], rounds: int, folder: Path
) -> dict[str, list[Taken]]:
    """Every row once a round; the one that begins changes from round to round. One unmeasured round comes first."""
    found: dict[str, list[Taken]] = {name: [] for name in rows}
    names = list(rows)
    for number in range(-1, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            sample = taken(rows[name], folder)
            if number >= 0:
                found[name].append(sample)
    return found


def _table(found: Mapping[str, Sequence[Taken]], reference: str) -> str:
    base = _median(found[reference])
    lines = [f"{'':36}{'wall':>9}{'beyond':>10}{'processor':>12}{'beyond':>10}"]
    for name, samples in found.items():
        median = _median(samples)
        lines.append(
            f"{name:36}{median.wall:8.3f}s{median.wall - base.wall:+9.3f}s"
            f"{median.processor:11.3f}s{median.processor - base.processor:+9.3f}s"
        )
    return "\n".join(lines)


def _median(samples: Sequence[Taken]) -> Taken:
    return Taken(
        statistics.median(each.wall for each in samples), statistics.median(each.processor for each in samples)
    )


def _compile() -> None:
    """As an installed package is: else an environment that forbids bytecode (PYTHONDONTWRITEBYTECODE) is measured."""
    with contextlib.redirect_stdout(io.StringIO()):
        compileall.compile_dir(str(ROOT / "src"), quiet=1)


def main() -> int:
    """Measure and print. 0: measured; 1: something did not start."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"rounds (default {ROUNDS})")
    arguments = parser.parse_args()
    _compile()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            (folder / "bench.toml").write_text(BENCH_TOML.format(execution=""))
            (folder / "bench_operations.py").write_text((SERVERS / "bench_operations.py").read_text())
            print(
                _table(measure(STARTS, partial(first_listing, tools=7), arguments.rounds, folder), FLOOR),
                end="\n\n",
                flush=True,
            )
            print(_table(measure(COMMANDS, whole, arguments.rounds, folder), "python, alone"))
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        end_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
