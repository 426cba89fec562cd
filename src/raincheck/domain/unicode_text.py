"""Text as UTF-8 can hold it: the one cleaning that every exit applies, from the wire to the command line.

Python has strings that are no Unicode text: a lone surrogate stands for a byte of a file's name that is not UTF-8
(PEP 383), or came of a careless `"\\ud83d"`. Whatever writes UTF-8 fails at one, so each becomes U+FFFD.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast


def well_formed(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, and the character for each pair of them.

    Text that has none is itself, and costs no more than a look.
    """
    return text if _is_well_formed(text) else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def well_formed_json(value: Any) -> Any:
    """The JSON value with every text of it `well_formed`, names of members too; itself where nothing is odd."""
    rest = [value]
    while rest:
        each: Any = rest.pop()
        kind = each.__class__
        # The usual kinds first: the question whether it is a Mapping costs more than all the others.
        if kind is str:
            if not each.isascii() and not _is_well_formed(each):
                return _cleaned(value)
        elif kind is dict:
            rest += each
            rest += each.values()
        elif kind is list or kind is tuple:
            rest += each
        elif kind not in _PLAIN:
            rest += _parts(each)
    return value


_PLAIN = (int, float, bool, type(None))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [str(value)]
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        return [*members, *members.values()]
    return list(cast("list[Any]", value)) if isinstance(value, list | tuple) else []


def _is_well_formed(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        return {_cleaned(name): _cleaned(member) for name, member in members.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in cast("list[Any]", value)]
    return value
