"""The pages of the documentation, and the code blocks in them.

`python tests/docs/pages.py` writes each block that names a file of examples/ anew from that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
EXAMPLES = ROOT / "examples"

_FENCE = re.compile(
    r"(?:<!-- (?P<marker>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced code block, and the comment before it that says where it comes from."""

    page: Path
    marker: str
    language: str
    code: str

    @property
    def example(self) -> Path | None:
        return ROOT / self.marker.removeprefix("from ") if self.marker.startswith("from ") else None


def blocks(*pages: Path) -> Iterator[Block]:
    for page in pages or PAGES:
        for found in _FENCE.finditer(page.read_text(encoding="utf-8")):
            yield Block(page=page, marker=found["marker"] or "", language=found["language"], code=found["code"])


def block(page: Path, marker: str) -> Block:
    """The one block of a page with that comment before it."""
    (found,) = [each for each in blocks(page) if each.marker == marker]
    return found


def table(page: Path, marker: str) -> dict[str, list[str]]:
    """The table under a comment or a heading: the cells of each row, by the first one without its backticks."""
    after = page.read_text(encoding="utf-8").split(f"{marker}\n", 1)[1]
    rows: dict[str, list[str]] = {}
    for line in after.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            rows[cells[0]] = cells[1:]
        elif rows:
            break
    return {first.strip("`"): cells for first, cells in list(rows.items())[2:]}


def fill() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")

        def filled(found: re.Match[str]) -> str:
            marker = found["marker"] or ""
            if not marker.startswith("from examples/"):
                return found[0]
            code = (ROOT / marker.removeprefix("from ")).read_text(encoding="utf-8")
            return f"<!-- {marker} -->\n```{found['language']}\n{code}```"

        page.write_text(_FENCE.sub(filled, text), encoding="utf-8")


if __name__ == "__main__":
    fill()
