"""Previews of large results, in two kilobytes: the head of a text, the shape of a JSON value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from raincheck.domain.unicode_text import well_formed

LARGEST_PREVIEW = 2048
"""The largest preview, in bytes of JSON."""


class _Cut(NamedTuple):
    """How much of a value is shown: characters of a text, items of a list, members of an object, levels."""

    text: int
    items: int
    members: int
    depth: int


# From generous to bare: the first that gives a small enough preview is taken.
_CUTS = (
    _Cut(400, 5, 40, 6),
    _Cut(160, 3, 24, 5),
    _Cut(80, 2, 12, 4),
    _Cut(40, 1, 8, 3),
    _Cut(20, 1, 5, 2),
    _Cut(10, 0, 3, 1),
)


def text_preview(text: str) -> str:
    """The head of the text, up to the end of a line where that costs little."""
    head = text[:LARGEST_PREVIEW]
    room = LARGEST_PREVIEW - 2
    while _size(head) > room:
        head = head[: min(len(head) - 1, len(head) * room // _size(head))]
    line_end = head.rfind("\n")
    return head if len(head) == len(text) or line_end < len(head) * 3 // 4 else head[: line_end + 1]


def json_preview(value: Any) -> Any:
    """The value with its long texts, lists and objects cut, each saying how much there is; valid JSON itself."""
    shown: Any = None
    for cut in _CUTS:
        shown = _shown(value, cut, cut.depth)
        if _size(shown) <= LARGEST_PREVIEW:
            return shown
    return _kind(value)


def _shown(value: Any, cut: _Cut, depth: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= cut.text else f"{value[: cut.text]}… ({len(value)} characters)"
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        if depth == 0:
            return _kind(members)
        shown = {_name(key): _shown(members[key], cut, depth - 1) for key in list(members)[: cut.members]}
        if len(members) > cut.members:
            shown["…"] = f"{len(members) - cut.members} more members"
        return shown
    if isinstance(value, Sequence):
        items = cast("Sequence[Any]", value)
        if depth == 0:
            return _kind(items)
        listed = [_shown(item, cut, depth - 1) for item in items[: cut.items]]
        return [*listed, f"… {len(items) - cut.items} more items"] if len(items) > cut.items else listed
    return value


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object of {len(cast('Mapping[str, Any]', value))} members"
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, Sequence):
        return f"a list of {len(cast('Sequence[Any]', value))} items"
    return "a number" if isinstance(value, int | float) else str(type(value).__name__)


def _name(key: str) -> str:
    return key if len(key) <= 80 else f"{key[:80]}…"


def _size(value: Any) -> int:
    return len(well_formed(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode())
