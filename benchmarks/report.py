"""benchmarks/RESULTS.md, made from what was measured."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.contestants import HERE, Contestant
from benchmarks.rows import ROWS, Book, Cell, Row

__all__ = ["results_page", "summary"]

READING = """\
## How to read it

- One run measures every contestant, in rounds (A B C, B C A, …), so that the machine's moods hit all alike. A number
  is the median of the rounds; a ratio is that of raincheck to the floor *in the same round*: median, and lowest to
  highest. Compare ratios between machines, never the numbers.
- **floor**: a no-op `async def` tool of the official SDK; "submit, run, fetch" is two such calls. It stores nothing.
- **rival**: FastMCP with `fastmcp-tasks` (docket), called through the tasks extension; in memory (nothing survives the
  process) and on a Redis with an append-only file, `appendfsync everysec` (up to a second of acknowledgements is lost
  with the machine). Its client asks at its hint; in "submit, run, fetch" every {pause} s, which suits it best.
- **raincheck**: the handle tools over the SQLite store on defaults: every acknowledgement is on the disk
  (`synchronous=FULL`) before it is given. Its client holds: `resolve_task_status` with `wait_seconds`.
- Same transport for all: streamable HTTP on the loopback, JSON answers, keep-alive, no request log, protocol
  2026-07-28, one raw client process. The servers use what they install by themselves.
- Acknowledgements are measured with sleeping tasks behind them, so that accepting is measured and not the work; the row
  below has no-op work running in the same process meanwhile.
- The long rows are measured once; `kill -9` counts from the new start, SIGTERM from the signal.
"""


def _number(value: float, row: Row) -> str:
    return f"{value:,.{row.digits}f}"


def _cell(cell: Cell, row: Row) -> str:
    if cell.median is None:
        return cell.note or "–"
    shown = f"{_number(cell.median, row)} {row.unit}".replace(" /s", "/s")
    return f"{shown} ({cell.note})" if cell.note else shown


def _against_floor(book: Book, row: Row, contestant: str) -> str:
    ratios = book.ratios(row.key, contestant) if row.ratio else ()
    if not ratios:
        return "–"
    spread = f" ({min(ratios):.2f}–{max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.2f} ×{spread}"


def _verdict(book: Book, row: Row) -> str:
    reached = book.reached(row)
    return "–" if reached is None else "reached" if reached else "**not reached**"


def _table(book: Book, contestants: Sequence[Contestant]) -> list[str]:
    names = [contestant.title for contestant in contestants]
    heads = ["what", *names, "raincheck ÷ floor", "target", ""]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in ROWS:
        if not any(book.cell(row.key, each.key) != Cell() for each in contestants):
            continue
        cells = [_cell(book.cell(row.key, each.key), row) for each in contestants]
        target = row.target.text if row.target else "–"
        ratio = _against_floor(book, row, "raincheck")
        lines.append("| " + " | ".join([row.title, *cells, ratio, target, _verdict(book, row)]) + " |")
    return lines


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _machine(cores: int, redis: str) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("raincheck", "mcp", "uvicorn", "pydantic"))
    rival = [line for line in (HERE / "rival-requirements.txt").read_text().splitlines() if "fastmcp" in line]
    rival.append(f"Redis {redis}" if redis else "no redis-server on this machine")
    return "\n".join(
        [
            f"- {cores} cores, {_processor()}, {platform.system()} {platform.machine()}; load average at the end "
            f"{os.getloadavg()[2]:.1f} over 15 minutes (1 to 2 is the benchmark's own)",
            f"- Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {versions}",
            f"- rival: {', '.join(rival).replace('==', ' ')}",
        ]
    )


def results_page(
    book: Book, contestants: Sequence[Contestant], *, cores: int, redis: str, rounds: int, minutes: float, pause: float
) -> str:
    """The whole page."""
    now = datetime.now(UTC)
    return "\n".join(
        [
            "# Results",
            "",
            f"Written by `make bench` on {now:%Y-%m-%d %H:%M} UTC ({rounds} rounds, {minutes:.0f} minutes).",
            "",
            _machine(cores, redis),
            "",
            *_table(book, contestants),
            "",
            READING.format(pause=pause),
        ]
    )


def summary(book: Book, contestants: Sequence[Contestant]) -> str:
    """The table alone."""
    return "\n".join(_table(book, contestants))
