"""What stands in the pages is what stands in the files, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs.pages import EXAMPLES, PAGES, ROOT, blocks

PROGRAMS = {"python", "toml", "json", "sh"}
OWNED_BY_A_TEST = ("answer of ", "error")
ELSEWHERE = {"configuration.md", "cli.md", "benchmarks.md"}


def _headings(page: Path) -> set[str]:
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


def test_every_program_and_configuration_in_the_pages_is_a_file_of_the_examples() -> None:
    for block in blocks():
        if block.language not in PROGRAMS or block.page.name in ELSEWHERE:
            continue
        where = f"{block.page.name}: {block.code[:60]!r}"
        if block.example is None:
            assert block.marker.startswith(OWNED_BY_A_TEST), f"no file of examples/ is named before {where}"
        else:
            assert block.code == block.example.read_text(encoding="utf-8"), f"not as in the file: {where}"


def test_every_example_is_shown_on_a_page_or_named_by_one() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for example in EXAMPLES.rglob("*"):
        if example.is_file() and "__pycache__" not in example.parts:
            assert str(example.relative_to(ROOT)) in pages, f"no page shows {example.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        leads_to = (page.parent / path).resolve() if path else page
        assert leads_to.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in _headings(leads_to), f"{page.name} links to {target}"


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    for page in PAGES[1:]:
        assert page == index or f"({page.name})" in index.read_text(encoding="utf-8"), (
            f"{page.name} is not in the index"
        )
