"""Messages for wrong settings: one line with the table, the key, the value found and what is allowed.

Values that may hold a secret (addresses, headers, environments, commands) are never repeated.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from raincheck.config.sections.operations import OPERATION_MODELS
from raincheck.config.settings import (
    NESTED_MODELS,
    OPERATION_TABLES,
    SECTION_MODELS,
    Section,
    table_name,
)

Origins = Mapping[tuple[str, ...], str]
"""Where a key was set, if not in the file: `(section, key)` -> "the environment (…)" or "the command line (…)"."""

TABLES = ", ".join(
    [
        *(table_name(name) for name in SECTION_MODELS),
        *(table_name(*path) for path in NESTED_MODELS),
        "[operations.NAME]",
        *(f"[operations.NAME.{name}]" for name in OPERATION_TABLES),
    ]
)

_SECRET_KEYS = frozenset({"argv", "body", "callback_secret", "env", "form", "headers", "queue_url", "secrets", "url"})
_LATER_KINDS = frozenset({"mcp"})
_NAMED_KEY = re.compile(r"'(\w+)'(?: in \[(\w+)\])?")
_PATTERNS = {
    r"^[A-Za-z_][A-Za-z0-9_]*$": "letters, digits and _, not starting with a digit",
    r"^[^:\s]+:[^:\s]+$": '"module:function"',
    r"^(https?://|\$\{)\S+$": 'an address that starts with "http://", "https://" or "${NAME}"',
    r"^https?://[^\s/?#@]+(/[^\s?#]*)?$": 'an address like "https://tools.example.com", without user, "?" and "#"',
    r"^[A-Za-z0-9-]{1,64}$": "a header's name: letters, digits and -",
    r"^\$.*$": 'a JSON path that starts with "$", as in "$.status"',
    r"^[^{}*?\[\]\\\s]+$": "1 to 100 characters, without blanks and without { } [ ] * ? \\",
    r"^[a-z_][a-z0-9_]{0,62}$": "1 to 63 of a-z, 0-9 and _, not starting with a digit",
    r"^[A-Za-z0-9_.-]{3,255}$": "3 to 255 letters, digits, _, . and -",
    r"^[a-z0-9-]*$": 'a-z, 0-9 and -, as in "eu-central-1"',
    r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$": "a bucket's name: 3 to 63 of a-z, 0-9, . and -",
    r"^[A-Za-z0-9_./-]{0,200}$": "up to 200 letters, digits, _, ., / and -",
    r"^[A-Za-z0-9_.-]{1,64}$": "1 to 64 letters, digits, _, . and -",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """What pydantic's `loc` points at: a key of a table, or a table itself (no key).

    Attributes:
        table: Path of the table.
        key: The key in it.
        model: The settings that the table holds.
        member: The field of a key that the user names himself, where the table is one of values.
    """

    table: tuple[str, ...]
    key: str | None = None
    model: type[Section] | None = None
    member: FieldInfo | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return table_name(*self.table)


def describe(error: ValidationError, *, source: str, origins: Origins) -> str:
    """The first mistake as one line, and how many more there are."""
    mistakes: dict[_Place, Any] = {}
    for found in error.errors(include_url=False):
        mistakes.setdefault(_place(found["loc"]), found)
    place, found = next(iter(mistakes.items()))
    message = _line(place, found, origins.get(_key_at_fault(place, found), source))
    return message if len(mistakes) == 1 else f"{message} (and {len(mistakes) - 1} more to correct)"


def _key_at_fault(place: _Place, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the wrong value stands; a rule about several keys begins its line with that key (and its table)."""
    named = _NAMED_KEY.match(str(found.get("ctx", {}).get("error", ""))) if place.key is None else None
    if place.member is not None:
        return place.table
    if named is None:
        return *place.table, place.key or ""
    return *((named[2],) if named[2] else place.table), named[1]


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` where a known word is close, else a full stop."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else "."


def wrong_value(key: str, value: Any, *, table: str, source: str, field: FieldInfo) -> str:
    """The line about a value that does not fit its key."""
    allowed = allowed_values(field)
    shown = "" if _is_secret(key, table) else f" {shorten(value)}"
    return f"invalid value{shown} for {key!r} in {table} of {source}; allowed: {allowed}{_meant(value, field)}"


def _meant(value: Any, field: FieldInfo) -> str:
    names = [each for plain in _alternatives(field.annotation) for each in get_args(plain) if isinstance(each, str)]
    return suggestion(value.lower(), names).removesuffix(".") if isinstance(value, str) else ""


def _is_secret(key: str, table: str) -> bool:
    nested = any(table == table_name(*path) or key == path[-1] for path in NESTED_MODELS)
    return nested or key in _SECRET_KEYS


def value_kind(
    field: FieldInfo,
) -> Literal["text", "integer", "number", "number or text", "boolean or text", "json"]:
    """What a key's value is, and so how it is read from a text."""
    plain = _alternatives(field.annotation)
    if len(plain) == 1:
        if plain[0] is int:
            return "integer"
        if plain[0] is float:
            return "number"
        if plain[0] is str or get_origin(plain[0]) is Literal:
            return "text"
    if len(plain) == 2 and any(get_origin(each) is Literal for each in plain):
        if float in plain:
            return "number or text"
        if bool in plain:
            return "boolean or text"
    return "json"


def allowed_values(field: FieldInfo) -> str:
    """What a key may hold, in words."""
    plain, limits = _alternatives(field.annotation), _limits(field)
    if value_kind(field) in ("number or text", "boolean or text"):
        # The word first, which is the default.
        ordered = sorted(plain, key=lambda each: get_origin(each) is not Literal)
        return " or ".join(_allowed_of(each, limits) for each in ordered)
    if len(plain) > 1:
        return "a text, a table or a list"
    if (member := _member_of(field)) is not None:
        return f"a table of {allowed_values(member).replace('a number', 'numbers')}"
    return _allowed_of(plain[0], limits)


def _allowed_of(plain: Any, limits: Mapping[str, Any]) -> str:
    if get_origin(plain) is Literal:
        return _either([f'"{value}"' for value in get_args(plain)])
    if plain is bool:
        return "true or false"
    if plain in (int, float):
        lowest = f"from {limits['ge']}" if "ge" in limits else f"above {limits['gt']}"
        return f"a {'whole number' if plain is int else 'number'} {lowest} up to {limits['le']}"
    if "pattern" in limits:
        return _PATTERNS[limits["pattern"]]
    if plain is str:
        return "a text, not empty" if "min_length" in limits else "a text"
    if get_origin(plain) is tuple:
        members = get_args(plain)[0]
        each = _either([f'"{value}"' for value in get_args(members)]) if members is not str else "texts"
        return f"a list of {each}{', not empty' if 'min_length' in limits else ''}"
    return "a table of texts" if get_args(plain)[1:] == (str,) else "a table"


def shorten(value: Any) -> str:
    """A value as the file has it, in a few characters on one line."""
    if isinstance(value, Mapping):
        return "(a table)"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "(a list)"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _place(loc: tuple[int | str, ...]) -> _Place:
    path = [str(part) for part in loc]
    nested = NESTED_MODELS.get((path[0], path[1])) if len(path) > 1 else None
    if nested is not None:
        return _Place(table=(path[0], path[1]), key=path[2] if len(path) > 2 else None, model=nested)
    if path and path[0] in SECTION_MODELS:
        return _place_in_section(path, SECTION_MODELS[path[0]])
    if len(path) > 1 and path[0] == "operations":
        # Pydantic puts the kind between the name and the key.
        model = OPERATION_MODELS[path[2]] if len(path) > 2 else None
        table = OPERATION_TABLES.get(path[3]) if len(path) > 3 else None
        if table is not None:
            return _Place(table=(path[0], path[1], path[3]), key=path[4] if len(path) > 4 else None, model=table)
        return _Place(table=(path[0], path[1]), key=path[3] if len(path) > 3 else None, model=model)
    return _Place(table=tuple(path[:1]))


def _place_in_section(path: Sequence[str], model: type[Section]) -> _Place:
    field = model.model_fields.get(path[1]) if len(path) > 2 else None
    member = None if field is None else _member_of(field)
    if member is not None:
        return _Place(table=(path[0], path[1]), key=path[2], model=model, member=member)
    return _Place(table=(path[0],), key=path[1] if len(path) > 1 else None, model=model)


def _line(place: _Place, found: Mapping[str, Any], source: str) -> str:
    kind, value = found["type"], found["input"]
    if place.key is None or place.model is None:
        return _line_on_table(place, kind, value, found.get("ctx", {}), source)
    if kind == "extra_forbidden":
        known = sorted(place.model.model_fields)
        close = suggestion(place.key.lower(), known)
        return f"unknown key {shorten(place.key)} in {place.name} of {source}{close} Allowed: {', '.join(known)}"
    field = place.member or place.model.model_fields[place.key]
    if kind == "missing":
        return f"missing key {place.key!r} in {place.name} of {source}; allowed: {allowed_values(field)}"
    if kind == "value_error":
        return f"invalid value for {place.key!r} in {place.name} of {source}: {found['ctx']['error']}"
    return wrong_value(place.key, value, table=place.name, source=source, field=field)


def _line_on_table(place: _Place, kind: str, value: Any, context: Mapping[str, Any], source: str) -> str:
    if kind == "value_error":
        return f"{context['error']} in {place.name} of {source}" if place.table else f"{source}: {context['error']}"
    if kind == "extra_forbidden":
        return _unknown_table(place.table[0], value, source)
    if kind.startswith("union_tag") and isinstance(value, Mapping):
        return _wrong_operation_kind(cast("Mapping[str, Any]", value).get("kind"), place.name, source)
    found = "" if _is_secret("", place.name) or place.table[2:] == ("webhook",) else f", found {shorten(value)}"
    return f"{place.name} of {source} must be a table{found}"


def _unknown_table(name: str, value: Any, source: str) -> str:
    if isinstance(value, Mapping):
        close = suggestion(name.lower(), [*SECTION_MODELS, "operations"])
        return f"unknown table {table_name(name)} in {source}{close} Allowed: {TABLES}"
    homes = [table_name(table) for table, model in SECTION_MODELS.items() if name in model.model_fields]
    hint = f"; it belongs into {' or '.join(homes)}" if homes else f". Allowed: {TABLES}"
    return f"unknown key {shorten(name)} outside of any table in {source}{hint}"


def _wrong_operation_kind(kind: Any, table: str, source: str) -> str:
    allowed = _either([f'"{name}"' for name in OPERATION_MODELS])
    if kind is None:
        return f"missing key 'kind' in {table} of {source}; allowed: {allowed}"
    if kind in _LATER_KINDS:
        return f"kind {kind!r} in {table} of {source} is not in this release; allowed: {allowed}"
    return f"invalid value {shorten(kind)} for 'kind' in {table} of {source}; allowed: {allowed}"


def _alternatives(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [plain for part in get_args(annotation) for plain in _alternatives(part)]
    return [] if annotation is type(None) else [annotation]


def _member_of(field: FieldInfo) -> FieldInfo | None:
    """The field of one value, where the key holds a table of bounded numbers by names of the user's own."""
    values = get_args(field.annotation)[1:] if get_origin(field.annotation) is Mapping else ()
    return FieldInfo.from_annotation(values[0]) if values and get_origin(values[0]) is Annotated else None


def _limits(field: FieldInfo) -> dict[str, Any]:
    metadata = list(field.metadata)
    for part in get_args(field.annotation):
        # The bounds of `Duration | None` stand on the first half of the union.
        if get_origin(part) is Annotated:
            metadata += [inner for meta in get_args(part)[1:] for inner in getattr(meta, "metadata", ())]
    names = ("ge", "gt", "le", "pattern", "min_length")
    return {name: getattr(meta, name) for meta in metadata for name in names if getattr(meta, name, None) is not None}


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
