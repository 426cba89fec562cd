"""`inherit`: which of the server's variables child processes find; secrets of the configuration are none of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field

from raincheck.operations.environment import INHERITED, not_inheritable

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _checked(names: tuple[str, ...]) -> tuple[str, ...]:
    if (wrong := not_inheritable(names)) is not None:
        raise ValueError(wrong)
    return names


Inherit = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_checked)]
"""Names of variables, beside those that every child finds."""


def named_variables(settings: Mapping[str, Any]) -> frozenset[str]:
    """The variables that a `${NAME}` anywhere in the settings stands for, without the fixed ones of every child."""
    return frozenset(name for text in _texts(settings) for name in _REFERENCE.findall(text)) - set(INHERITED)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for member in cast("Mapping[str, Any]", value).values():
            yield from _texts(member)
    elif isinstance(value, list | tuple):
        for item in cast("list[Any]", value):
            yield from _texts(item)
