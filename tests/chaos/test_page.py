"""docs/chaos.md tells what the suite does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from chaos.checker import CHECKS
from chaos.ground import GROUNDS
from chaos.plan import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "chaos.md").read_text(encoding="utf-8")


def rows(heading: str) -> Iterator[tuple[str, str]]:
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(f"{heading}\n"))
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    yield from ((row[0], row[1]) for row in table[2:])


def test_the_page_explains_every_check_as_the_checker_does() -> None:
    assert dict(rows("What is checked")) == CHECKS


def test_the_page_explains_every_fault() -> None:
    assert [name for name, _ in rows("The faults")] == list(KINDS)


def test_the_page_names_every_pair() -> None:
    assert [name for name, _ in rows("The pairs")] == list(GROUNDS)
