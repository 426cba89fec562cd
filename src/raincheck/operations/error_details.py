"""Details of errors: any value that an operation put there, as bounded JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Set
from typing import Any, cast

import pydantic_core

from raincheck.domain.previews import json_preview
from raincheck.domain.redaction import redact
from raincheck.domain.unicode_text import well_formed

LARGEST_DATA = 64 * 1024
"""The largest `data` of a JSON-RPC error, in bytes of JSON."""

# As deep as JSON from others may be (`raincheck.operations.untrusted_json`), without what stands around the details.
_DEEPEST = 32
_MOST_VALUES = 50_000
_MOST_CHARACTERS = 4_000_000
_LONGEST_OF_AN_OBJECT = 500
_LARGEST_WHOLE_NUMBER = 2**1023


def plain_details(details: Any, limit: int) -> dict[str, Any]:
    """The details as `plain_value` makes them; an object in any case."""
    plain: Any = plain_value(details, limit)
    return cast("dict[str, Any]", plain) if isinstance(plain, dict) else {"details": plain}


def plain_value(value: Any, limit: int) -> Any:
    """The value as JSON values; where it is more than `limit` bytes of JSON, what it looks like. Without what is
    redacted in this context (`raincheck.domain.redaction.redacting`).

    NaN and the infinities become texts, and so does what is no JSON value and nothing that pydantic makes one of.
    """
    plain = redact(_Plain().of(value))
    return plain if len(json.dumps(plain, separators=(",", ":"))) <= limit else json_preview(plain)


def plain_text(text: Any) -> str:
    """The text with U+FFFD in place of what is no Unicode text (lone surrogates); anything else as a text."""
    return well_formed(text) if isinstance(text, str) else _named(text)


class _Plain:
    """One value made plain. What it names in many places is written in each, which may be more than fits anywhere: from
    `_MOST_VALUES` and `_MOST_CHARACTERS` on, "…" stands for each value."""

    def __init__(self) -> None:
        self._values = 0
        self._characters = 0

    def of(self, value: Any, around: tuple[int, ...] = ()) -> Any:
        self._values += 1
        if self._values > _MOST_VALUES or self._characters > _MOST_CHARACTERS:
            return "…"
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._counted(plain_text(str.__str__(value)))
        if isinstance(value, int):
            return int(value) if abs(value) < _LARGEST_WHOLE_NUMBER else _named(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if id(value) in around or len(around) > _DEEPEST:
            return "…"
        try:
            return self._members(value, (*around, id(value)))
        except Exception:  # noqa: BLE001  an object of the operation's, and its error has to be told all the same
            return _named(value)

    def _members(self, value: Any, around: tuple[int, ...]) -> Any:
        if isinstance(value, Mapping):
            members = cast("Mapping[Any, Any]", value)
            return {self._name(key): self.of(member, around) for key, member in members.items()}
        if isinstance(value, list | tuple | Set):
            return [self.of(item, around) for item in cast("list[Any]", value)]
        if isinstance(value, Iterator):
            # It may never end.
            return _named(value)
        return self.of(pydantic_core.to_jsonable_python(value, inf_nan_mode="strings"), around)

    def _name(self, key: Any) -> str:
        return self._counted(plain_text(str.__str__(key) if isinstance(key, str) else key))

    def _counted(self, text: str) -> str:
        self._characters += len(text)
        return text


def _named(value: Any) -> str:
    try:
        return plain_text(redact(str(value))[:_LONGEST_OF_AN_OBJECT])
    except Exception:  # noqa: BLE001  as above
        return f"a {type(value).__name__}"
