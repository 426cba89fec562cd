"""The formats of JSON Schema (2020-12, "Validation", section 7) that are checked, each in linear time.

What jsonschema checks depends on which packages stand beside it: a format is checked here, or refused where it is
declared.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import jsonschema

from raincheck.operations.patterns import matcher

_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_URI_PART = r"(?:[A-Za-z0-9!#$&'()*+,/:;=?@\[\]._~-]|%[0-9A-Fa-f]{2})*"
_POINTER = "(?:/(?:[^~/]|~[01])*)*"

_PATTERNS = {
    "date-time": f"^{_DAY}[Tt]{_TIME}$",  # RFC 3339
    "time": f"^{_TIME}$",
    "duration": "^P(?:[0-9]+W|(?:[0-9]+Y)?(?:[0-9]+M)?(?:[0-9]+D)?(?:T(?:[0-9]+H)?(?:[0-9]+M)?(?:[0-9]+S)?)?)$",
    "hostname": rf"^{_LABEL}(?:\.{_LABEL})*$",
    "uri": f"^[A-Za-z][A-Za-z0-9+.-]*:{_URI_PART}$",
    "uri-reference": f"^{_URI_PART}$",
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(?:0|[1-9][0-9]*)(?:#|{_POINTER})$",
}
_OF_JSONSCHEMA = ("date", "email", "idn-email", "ipv4", "ipv6", "uuid")
# To check one is to compile what a caller sent.
_ONLY_SAID = ("regex",)

FORMATS = tuple(sorted({*_PATTERNS, *_OF_JSONSCHEMA, *_ONLY_SAID}))
"""The formats that may be declared; all but `regex` are checked."""


def format_checker() -> jsonschema.FormatChecker:
    """What checks them."""
    checker = jsonschema.FormatChecker(formats=())
    known = jsonschema.Draft202012Validator.FORMAT_CHECKER.checkers
    ours: dict[str, Any] = {name: (_check(name), ()) for name in _PATTERNS}
    checker.checkers = {name: known[name] for name in _OF_JSONSCHEMA} | ours
    return checker


def _check(name: str) -> Callable[[object], bool]:
    matches = matcher(_PATTERNS[name])

    def check(value: object) -> bool:
        return not isinstance(value, str) or (matches(value) and _is_more_than_its_form(name, value))

    return check


def _is_more_than_its_form(name: str, text: str) -> bool:
    match name:
        case "date-time":
            try:
                return bool(datetime.date.fromisoformat(text[:10]))
            except ValueError:
                return False
        case "duration":
            return text != "P" and not text.endswith("T")
        case "hostname":
            return len(text) <= 253
        case _:
            return True
