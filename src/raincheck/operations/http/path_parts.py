"""Path safety of request parameters: `.` and `..` in every encoding that some server reads."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from raincheck.operations.templates import Placeholder, formatted

_MOST_DECODINGS = 4
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SEPARATOR = re.compile(r"[/\\]")
_UNICODE_ESCAPE = re.compile(r"%u([0-9A-Fa-f]{4})")


def leads_out(parts: Sequence[str | Placeholder], values: Mapping[str, Any]) -> bool:
    """Whether a part of the path that holds a value is, or is read by some server as, `.`, `..` or with a NUL.

    Servers and proxies decode once or twice before they look, take `\\` for `/`, cut at `;`, and fold full-width signs.
    What was declared is the operator's own and may climb.

    Args:
        parts: The pieces of the address, as a template has them; from a `?` on it is no path.
        values: Those of its placeholders.
    """
    part_of_path, has_value = "", False
    for piece in (*parts, "/"):
        if isinstance(piece, Placeholder):
            part_of_path, has_value = part_of_path + formatted(values[piece.name]), True
            continue
        path, query, _ = piece.partition("?")
        first, *others = f"{path}/".split("/") if query else path.split("/")
        part_of_path += first
        for other in others:
            if has_value and _is_read_as_dots(part_of_path):
                return True
            part_of_path, has_value = other, False
        if query:
            break
    return False


def _is_read_as_dots(text: str) -> bool:
    for _ in range(_MOST_DECODINGS):
        text = unicodedata.normalize("NFKC", text)
        if CONTROL.search(text):
            return True
        names = (part.partition(";")[0].strip() for part in _SEPARATOR.split(text))
        if any(name in (".", "..") for name in names):
            return True
        unescaped = _UNICODE_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
        raw = unquote_to_bytes(unescaped.encode("utf-8", "replace"))
        if b"\xc0" in raw or b"\xc1" in raw:  # an ASCII sign in two bytes: never UTF-8, and read by some all the same
            return True
        decoded = raw.decode("utf-8", "replace")
        if decoded == text:
            return False
        text = decoded
    return True
