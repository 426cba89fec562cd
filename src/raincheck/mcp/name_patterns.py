"""Name patterns of tools (`Raincheck(tools=…)`), and the error of one that matches none."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from raincheck.operations.validation_messages import named


def is_named(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns (`fnmatch`) names this tool."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def naming_none(patterns: Iterable[str], names: Collection[str]) -> dict[str, str]:
    """The patterns that name none of these tools, each with a line that says so, and the near miss."""
    return {
        pattern: f"tools = {pattern!r} names no tool of this server{_instead(pattern, sorted(names))}"
        for pattern in patterns
        if not any(fnmatchcase(name, pattern) for name in names)
    }


def _instead(pattern: str, names: list[str]) -> str:
    if not names:
        return ": it has none"
    # A pattern is mistyped in its letters: they are compared with as many of each name.
    letters = pattern.strip("*?").casefold()
    starts = {name: name.casefold()[: len(letters)] if pattern.endswith("*") else name.casefold() for name in names}
    close = difflib.get_close_matches(letters, set(starts.values()), n=1, cutoff=0.6)
    found = [name for name in names if starts[name] in close]
    return f"; did you mean {named(found[:3])}?" if found else f"; there are: {named(names)}"
