"""What the scripted model finds in the answers of tools, however a host wraps them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

__all__ = ["LINE", "digest", "lines_in", "objects_in"]

LINE = re.compile(r"(?<![0-9a-f])\d{5} [0-9a-f]{57}(?![0-9a-f])")
"""One line of an operation's result. The operations return nothing else, so a model can tell what it was given.

With its end of line it has 64 bytes, so that no page of a large result breaks it."""

_DECODER = json.JSONDecoder()
_DEEPEST = 8


def lines_in(texts: Iterable[str]) -> list[str]:
    """The distinct lines of a result, in their order."""
    return sorted({line for text in texts for line in LINE.findall(text)})


def digest(lines: Iterable[str]) -> str:
    """What stands for a result in the model's final answer."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def objects_in(value: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Every JSON object in a value, outermost first; also those that stand as text within text."""
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        for found in _decoded(value):
            yield from objects_in(found, depth + 1)
    elif isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        yield members
        for member in members.values():
            yield from objects_in(member, depth + 1)
    elif isinstance(value, list):
        for member in cast("list[Any]", value):
            yield from objects_in(member, depth + 1)


def _decoded(text: str) -> Iterator[Any]:
    """The JSON objects and lists that a text consists of or contains."""
    at = 0
    while (begin := _next_bracket(text, at)) >= 0:
        try:
            found, at = _DECODER.raw_decode(text, begin)
        except ValueError:
            at = begin + 1
        else:
            yield found


def _next_bracket(text: str, at: int) -> int:
    found = [place for place in (text.find("{", at), text.find("[", at)) if place >= 0]
    return min(found, default=-1)
