"""Slips that models make with parameters: `"5"` for a number, `"true"` for a boolean, JSON text for an object.

Only what can mean one thing is taken; whatever else is left as it is, for the schema to refuse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, cast

from raincheck.operations.untrusted_json import NotJson, read_json

_LONGEST = 64
_INTEGER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.0+)?", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)


def as_declared(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, a text as the number or boolean that it is where an object's schema declares one and nothing else.

    Parameters that may be a text too, or one of several kinds, stay as they are; so do members further in.
    """
    properties: Mapping[str, Any] = schema.get("properties", {})
    return {
        name: _declared(_type_of(properties.get(name)), value) if isinstance(value, str) else value
        for name, value in arguments.items()
    }


def _declared(kind: str | None, text: str) -> Any:
    if kind in ("number", "integer"):
        number = number_of(text, whole=kind == "integer")
        return text if number is None else number
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    return text


def _type_of(schema: Any) -> str | None:
    """The one type that the schema allows, beside null; None where there are several or none is said."""
    if not isinstance(schema, dict):
        return None
    part = cast("dict[str, Any]", schema)
    if isinstance(either := part.get("anyOf"), list) and "type" not in part:
        kinds = {_type_of(each) for each in cast("list[Any]", either)} - {"null"}
    else:
        kind: Any = part.get("type")
        allowed = cast("list[Any]", kind) if isinstance(kind, list) else [kind]
        kinds = set(allowed) - {"null"} if len(allowed) > 1 else set(allowed)
    return kinds.pop() if len(kinds) == 1 else None


def number_of(text: str, *, whole: bool = False) -> int | float | None:
    """The number that the text is in JSON, None where it is none; `whole`: one without a fraction."""
    if len(text) > _LONGEST or not (_INTEGER if whole else _NUMBER).fullmatch(text):
        return None
    if _INTEGER.fullmatch(text):
        return int(text.partition(".")[0])
    number = float(text)
    return number if math.isfinite(number) else None


def object_of(text: str) -> dict[str, Any] | None:
    """The object that the text is in JSON, None where it is none."""
    try:
        value = read_json(text)
    except NotJson:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
