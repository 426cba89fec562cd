"""`python -m benchmarks`: measure floor, rival and raincheck in one run, and write benchmarks/RESULTS.md."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.contestants import HERE, Contestant, Floor, Raincheck, Rival, rival_python
from benchmarks.measures import RIVAL_PAUSE, SECTIONS, Scale, Section
from benchmarks.processes import BenchmarkError, end_all
from benchmarks.report import results_page, summary
from benchmarks.rows import Book

ROUNDS = 5
RESULTS = HERE / "RESULTS.md"
FAILED = "failed"
_started = time.monotonic()


def progress(text: str) -> None:
    """A line on stderr, with the time since the start."""
    sys.stderr.write(f"[{time.monotonic() - _started:5.0f} s] {text}\n")


def _arguments() -> argparse.Namespace:
    names = sorted({section.name for section in SECTIONS} | {row for section in SECTIONS for row in section.rows})
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds, and none of the long rows")
    parser.add_argument("--only", action="append", metavar="ROW", choices=names, help=f"one of: {', '.join(names)}")
    parser.add_argument("--no-rival", action="store_true", help="floor and raincheck only")
    parser.add_argument("--no-raincheck", action="store_true", help="floor and rival only")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds of the repeated rows (default {ROUNDS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample there")
    parser.add_argument(
        "--write",
        action=argparse.BooleanOptionalAction,
        help="write benchmarks/RESULTS.md (default: only when everything is measured)",
    )
    return parser.parse_args()


def _sections(arguments: argparse.Namespace) -> list[Section]:
    if arguments.only:
        return [each for each in SECTIONS if {each.name, *each.rows} & set(arguments.only)]
    return [each for each in SECTIONS if not (arguments.quick and each.long)]


def _contestants(arguments: argparse.Namespace) -> tuple[list[Contestant], str]:
    """Who takes part, and the version of Redis ("" where there is none)."""
    chosen: list[Contestant] = [Floor()]
    version = ""
    if not arguments.no_rival:
        python = rival_python(progress)
        chosen.append(Rival(python))
        if redis := shutil.which("redis-server"):
            chosen.append(Rival(python, redis))
            said = subprocess.run([redis, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
            version = next((word[2:] for word in said.split() if word.startswith("v=")), "unknown")
        else:
            progress("no redis-server on PATH: the rival is measured in memory only")
    if not arguments.no_raincheck:
        chosen.append(Raincheck())
    return chosen, version


def _attempt(section: Section, contestant: Contestant, book: Book, scale: Scale, where: str) -> None:
    """One measurement. One that fails is a note in the table: the other rows are worth having."""
    progress(f"{section.name}, {where}: {contestant.title}")
    try:
        section.measure(contestant, book, scale)
    except BenchmarkError as error:
        progress(f"  failed: {error}")
        for row in section.rows:
            book.add(row, contestant.key, None, FAILED)


def _together(section: Section, groups: Sequence[Sequence[Contestant]], book: Book, scale: Scale) -> None:
    for group in groups:
        with ThreadPoolExecutor(max(1, len(group))) as pool:
            running = [pool.submit(_attempt, section, each, book, scale, "once") for each in group]
            try:
                for each in running:
                    each.result()
            except BaseException:
                end_all()
                raise


def _run(sections: Sequence[Section], contestants: Sequence[Contestant], book: Book, scale: Scale, rounds: int) -> None:
    for section in sections:
        taking_part = [each for each in contestants if section.floor or each.key != "floor"]
        if section.together == "all":
            _together(section, [taking_part], book, scale)
        elif section.together == "rivals":
            own = [each for each in taking_part if each.key == "raincheck"]
            _together(section, [own, [each for each in taking_part if each not in own]], book, scale)
        else:
            count = section.rounds or rounds
            for number in range(count):
                turn = number % len(taking_part) if taking_part else 0
                for each in [*taking_part[turn:], *taking_part[:turn]]:
                    _attempt(section, each, book, scale, f"round {number + 1} of {count}")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Measure what the arguments ask for. 0: measured; 1: something could not be measured; 130: stopped."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    book = Book()
    scale = Scale(calls=150, seconds=1.0) if arguments.quick else Scale()
    rounds = arguments.rounds or (2 if arguments.quick else ROUNDS)
    try:
        contestants, redis = _contestants(arguments)
        _run(_sections(arguments), contestants, book, scale, rounds)
    except KeyboardInterrupt:
        progress("stopped")
        return 130
    except BenchmarkError as error:
        progress(str(error))
        return 1
    finally:
        end_all()
    everything = not (arguments.quick or arguments.only or arguments.no_rival or arguments.no_raincheck)
    if arguments.write or (arguments.write is None and everything):
        minutes = (time.monotonic() - _started) / 60
        cores = os.cpu_count() or 1
        page = results_page(
            book, contestants, cores=cores, redis=redis, rounds=rounds, minutes=minutes, pause=RIVAL_PAUSE
        )
        RESULTS.write_text(page)
        progress("wrote benchmarks/RESULTS.md")
    if arguments.json:
        arguments.json.write_text(json.dumps(book.as_json(), indent=1))
    print(summary(book, contestants))
    # What a rival cannot do is a result, not a failure of the benchmark.
    ours = (book.cell(row, key) for section in SECTIONS for row in section.rows for key in ("floor", "raincheck"))
    return int(any(cell.note == FAILED for cell in ours))


if __name__ == "__main__":
    sys.exit(main())
