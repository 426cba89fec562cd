"""When two JSON values are equal, as JSON Schema says (2020-12, Core, "Instance Equality")."""

from __future__ import annotations

import json
from typing import Any


def canonical(value: Any) -> str:
    """A text that is the same for values that JSON Schema holds equal: 1 is 1.0, and neither is true.

    Texts of Python hash unforeseeably, numbers do not: a set of these cannot be made slow by choosing its members.
    """
    if isinstance(value, str):
        return f'"{value}'
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(_normal(value))
    return _encode(_normal(value))


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _normal(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {name: _normal(member) for name, member in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_normal(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
