"""The reader of untrusted JSON: from callers, upstreams, commands and callbacks.

It takes what every JSON reader can take (RFC 8259, "Numbers" and "Parsers"): no deeper nesting than `DEEPEST`, and only
numbers that a double can hold. A byte order mark is passed over, and a lone surrogate is U+FFFD. What other readers
parsed comes here as values (`plain_json`).
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable
from typing import Any, cast

import pydantic_core

DEEPEST = 64
"""How many arrays and objects may stand in each other."""

# Of numbers with fewer digits than these and a shorter exponent none is beyond a double.
_LONG_EXPONENT = re.compile(rb"[eE]\+?[0-9]{3}")
_MANY_DIGITS = b"0" * 200
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_NO_NUMBER = re.compile(rb"NaN|Infinity")
_LONGEST_REASON = 120
# An escape in a text: a pair of surrogates, half of one (the group), any other.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class NotJson(ValueError):
    """The text is not JSON, or the value cannot be written as JSON. Its text is one short line, without the subject."""


class BeyondBounds(NotJson):
    """It is JSON, and beyond what is taken: nested too deeply, or with a number that is too large."""


class NestedTooDeeply(BeyondBounds):
    """It is nested more deeply than `DEEPEST`."""

    def __init__(self) -> None:
        super().__init__(f"nested too deeply; at most {DEEPEST} levels are allowed")


def read_json(text: bytes | str) -> Any:
    """The value that the text is.

    Raises:
        NotJson: It is not JSON.
        BeyondBounds: It is nested more deeply than `DEEPEST`, or holds a number beyond a double.
    """
    try:
        encoded = (text.encode() if isinstance(text, str) else text).removeprefix(codecs.BOM_UTF8)
        value = _parsed(encoded)
    except ValueError as error:
        raise _reason(error, text) from None
    if encoded.count(b"[") + encoded.count(b"{") > DEEPEST and _is_deeper(value):
        raise NestedTooDeeply
    if _LONG_EXPONENT.search(encoded) or _MANY_DIGITS in encoded.translate(_DIGITS_AS_ZEROS):
        json.loads(encoded, parse_float=_checked_number, parse_int=_checked_number)
    return value


def plain_json(value: Any) -> tuple[Any, bytes]:
    """The value as plain JSON values, and as JSON text.

    Raises:
        NotJson: JSON cannot hold it.
        BeyondBounds: As `read_json`.
    """
    try:
        text = pydantic_core.to_json(value)
    except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
        raise _reason(error) from None
    return read_json(text), text


def _parsed(encoded: bytes) -> Any:
    try:
        return pydantic_core.from_json(encoded, allow_inf_nan=False)
    except ValueError:
        # The grammar allows half of a pair in an escape (RFC 8259 §8.2), and no UTF-8 can hold one.
        mended = _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], encoded)
        if mended == encoded:
            raise
        return pydantic_core.from_json(mended, allow_inf_nan=False)


def _checked_number(text: str) -> None:
    if not math.isfinite(float(text)):
        raise _too_large()


def _is_deeper(value: Any) -> bool:
    level: list[Any] = [value] if type(value) in (dict, list) else []
    for _ in range(DEEPEST):
        if not level:
            return False
        level = [inner for each in level for inner in _members(each) if type(inner) in (dict, list)]
    return bool(level)


def _members(value: Any) -> Iterable[Any]:
    return cast("dict[str, Any]", value).values() if type(value) is dict else cast("list[Any]", value)


def _reason(error: Exception, read: bytes | str = b"") -> NotJson:
    text = str(error)
    if "recursion" in text or "depth" in text or "Circular reference" in text:
        return NestedTooDeeply()
    if "number out of range" in text:
        return _too_large()
    if "surrogates" in text:
        return NotJson("text with a lone surrogate, which UTF-8 cannot hold")
    if "unknown type" in text:
        return NotJson(f"not JSON: {' '.join(text.split())[:_LONGEST_REASON]}")
    if "expected value" in text and _NO_NUMBER.search(read if isinstance(read, bytes) else read.encode()):
        return NotJson("NaN, infinity or the like, which JSON cannot hold")
    return NotJson(f"not JSON: {' '.join(text.split())[:_LONGEST_REASON]}")


def _too_large() -> BeyondBounds:
    return BeyondBounds("a number beyond ±1.8e308, which is as large as a JSON number may be")
