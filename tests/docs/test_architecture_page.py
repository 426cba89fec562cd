"""docs/architecture.md against the source: its layers, where each behaviour is, and the files that it names."""

from __future__ import annotations

import importlib
import re

import pytest
from docs.pages import DOCS, ROOT  # pyright: ignore[reportMissingImports]
from test_architecture import LAYERS

PAGE = (DOCS / "architecture.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| `(raincheck[\w.]+)` \| `(\w+)` \|$", PAGE, re.MULTILINE)


def test_it_draws_the_layers_that_the_source_is_held_to() -> None:
    drawn = PAGE.partition("```\n")[2].partition("```")[0].splitlines()
    folders = [set(re.split(r"\s{2,}", line)[0].split()) for line in reversed(drawn)]
    held = [{room for room in layer if not room.startswith("_")} for layer in LAYERS[:-1]]
    assert folders == held


def test_it_tells_of_thirty_behaviours() -> None:
    assert len(ROWS) >= 30


@pytest.mark.parametrize(("behaviour", "module", "name"), ROWS, ids=[row[0] for row in ROWS])
def test_a_behaviour_is_where_the_page_says(behaviour: str, module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name), behaviour


def test_the_files_that_it_names_are_there() -> None:
    named = {name for name in re.findall(r"`((?:tests|[a-z_]+)/[\w/]+(?:\.py)?)`", PAGE) if "NAME" not in name}
    roots = (ROOT, ROOT / "src", ROOT / "src" / "raincheck")
    missing = [name for name in named if not any((root / name).exists() for root in roots)]
    assert missing == []
