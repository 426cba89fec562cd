"""What a command's stdout is: a JSON value, or a text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

from raincheck.operations.untrusted_json import NestedTooDeeply, NotJson, read_json

OutputForm = Literal["auto", "json", "text"]

_LARGEST_WHOLE = 2**53 - 1
"""Beyond it other readers of JSON round (RFC 7493 §2.2)."""

# Up to 15 digits a double keeps, unless the number is next to nothing.
_LONG = re.compile(r"[0-9.]{17}|[eE]-[0-9]{3}")


def stdout_value(output: bytes, form: OutputForm) -> Any:
    """The value that the output is.

    "text": the text, without one line end at its end. "json": JSON. "auto": JSON where nothing is lost by that, else
    the text: a bare number that JSON shows otherwise (`1234e56`, `3.10`, a whole one beyond 2^53) stays the text, and
    so do an object that names a member twice, and a value with a number in it of which a double loses digits.

    Raises:
        NotJson: It is to be JSON, and is none; "auto": it is JSON, and nested too deeply.
    """
    if form == "json":
        return read_json(output)
    text = output.decode("utf-8", "replace")
    text = text[:-1].removesuffix("\r") if text.endswith("\n") else text
    if form == "text":
        return text
    try:
        value = read_json(output)
    except NestedTooDeeply:
        raise
    except NotJson:
        return text
    return value if _keeps_all(value, text) else text


def _keeps_all(value: Any, text: str) -> bool:
    if isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        fits = isinstance(value, float) or abs(value) <= _LARGEST_WHOLE
        return fits and json.dumps(value) == text.strip()
    if not isinstance(value, dict | list) or ("{" not in text and _LONG.search(text) is None):
        return True
    try:
        json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_once, parse_float=_kept)
    except (ValueError, ArithmeticError):
        return False
    return True


def _once(members: Sequence[tuple[str, Any]]) -> None:
    if len({name for name, _ in members}) < len(members):
        raise ValueError


def _kept(number: str) -> None:
    """Refuse a number of whose digits its double loses some; what is a double to so many digits has lost none."""
    if _LONG.search(number) is None:
        return
    digits = len(Decimal(number).as_tuple().digits)
    if Decimal(f"{float(number):.{digits - 1}e}") != Decimal(number):
        raise ValueError
