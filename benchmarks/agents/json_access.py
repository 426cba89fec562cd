"""Members of JSON objects that may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["child", "children"]


def child(parent: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object that is this member; an empty one where there is none."""
    found: Any = parent.get(key)
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]  JSON


def children(parent: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects in the list that is this member; none where there is no list."""
    found: Any = parent.get(key)
    return found if isinstance(found, list) else []  # pyright: ignore[reportUnknownVariableType]  JSON
