"""Output for people: tables, time spans, and text that cannot harm a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from raincheck.domain import task_json
from raincheck.domain.logs import printable
from raincheck.domain.unicode_text import well_formed_json

_UNITS = ((86400 * 2, 86400, "d"), (3600 * 2, 3600, "h"), (60 * 2, 60, "min"))
_TONES = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "processing": "cyan",
    "input_required": "magenta",
}


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text: with rich on a terminal, else as plain columns."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    if not (sys.stdout.isatty() and _print_rich(columns, cleaned)):
        _print_plain(columns, cleaned)


def document(value: Any) -> None:
    """Print a value as one JSON document."""
    click.echo(json.dumps(well_formed_json(value), indent=2))


def pretty(value: Any) -> str:
    """A JSON value for people, on as many lines as it needs."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "\n".join(clean(line) for line in text.split("\n"))


def clean(text: str) -> str:
    """The text on one line, with whatever could steer a terminal escaped."""
    return printable(text)


def span(seconds: float) -> str:
    """A length of time in one rounded unit: `45 s`, `3 min`, `12 h`, `4 d`."""
    for least, unit, name in _UNITS:
        if seconds >= least:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.3g} s"


def timestamp(moment: datetime | None) -> str | None:
    """As in the answers of the handle tools; None where there is no such moment."""
    return None if moment is None else task_json.timestamp(moment)


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    for row in (columns, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_tone(cell)) for cell in row))
    Console().print(table)
    return True


def _tone(cell: str) -> str:
    tones: Mapping[str, str] = _TONES
    return tones.get(cell.split(":")[0], "")
