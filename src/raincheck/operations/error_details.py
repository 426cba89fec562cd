"""The details of an error as they are kept: whatever an operation put there, as JSON values, and within bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from typing import Any, cast

import pydantic_core

from raincheck.previews import json_preview
from raincheck.secrecy import without_withheld
from raincheck.unicode_text import well_formed

__all__ = ["LARGEST_DATA", "plain_details", "plain_text", "plain_value"]

LARGEST_DATA = 64 * 1024
"""The largest `data` of a JSON-RPC error, in bytes of JSON."""

# As deep as JSON from others may be (`raincheck.operations.foreign_json`), without what stands around the details.
_DEEPEST = 32
_LONGEST_OF_AN_OBJECT = 500
_LARGEST_WHOLE_NUMBER = 2**1023


def plain_details(details: Any, limit: int) -> dict[str, Any]:
    """The details as `plain_value` makes them; an object in any case."""
    plain: Any = plain_value(details, limit)
    return cast("dict[str, Any]", plain) if isinstance(plain, dict) else {"details": plain}


def plain_value(value: Any, limit: int) -> Any:
    """The value as JSON values; where it is more than `limit` bytes of JSON, what it looks like. Without what is
    withheld in this context (`raincheck.secrecy.withholding`).

    NaN and the infinities become texts, and so does what is no JSON value and nothing that pydantic makes one of.
    """
    plain = without_withheld(_plain(value, ()))
    return plain if len(json.dumps(plain, separators=(",", ":"))) <= limit else json_preview(plain)


def plain_text(text: Any) -> str:
    """The text with U+FFFD in place of what is no Unicode text (lone surrogates); anything else as a text."""
    return well_formed(text) if isinstance(text, str) else _named(text)


def _plain(value: Any, around: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return plain_text(str.__str__(value))
    if isinstance(value, int):
        return int(value) if abs(value) < _LARGEST_WHOLE_NUMBER else _named(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if id(value) in around or len(around) > _DEEPEST:
        return "…"
    around = (*around, id(value))
    try:
        if isinstance(value, Mapping):
            members = cast("Mapping[Any, Any]", value)
            return {_name(key): _plain(member, around) for key, member in members.items()}
        if isinstance(value, list | tuple | Set):
            return [_plain(item, around) for item in cast("list[Any]", value)]
        return _plain(pydantic_core.to_jsonable_python(value, inf_nan_mode="strings"), around)
    except Exception:  # noqa: BLE001  an object of the operation's, and its error has to be told all the same
        return _named(value)


def _name(key: Any) -> str:
    return _plain(key, ()) if isinstance(key, str) else _named(key)


def _named(value: Any) -> str:
    try:
        return plain_text(without_withheld(str(value))[:_LONGEST_OF_AN_OBJECT])
    except Exception:  # noqa: BLE001  as above
        return f"a {type(value).__name__}"
