"""Messages for wrong parameters: one bounded line, the same form for every kind of operation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from raincheck.errors import InvalidParameters, OperationFailed

_SHOWN_CHARS = 80
_LINE_CHARS = 200
_IN_MESSAGE = 3
_IN_DETAILS = 10
_NAMES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One parameter (a path such as `pages.0.title`) and what is wrong with it, with what is allowed."""

    parameter: str
    problem: str


def capped(text: str, limit: int = _LINE_CHARS) -> str:
    """`text` on one line of at most `limit` characters."""
    line = " ".join(text[: limit * 2].split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def shown(value: Any) -> str:
    """A short sight of a value; the size of it where it is large, so that no payload is sent back."""
    if isinstance(value, dict):
        return f"an object with {len(cast('dict[str, Any]', value))} members"
    if isinstance(value, list | tuple):
        return f"an array of {len(cast('Sequence[Any]', value))} items"
    if isinstance(value, str):
        return json.dumps(capped(value, _SHOWN_CHARS), ensure_ascii=False)
    if value is None or isinstance(value, bool | float):
        return json.dumps(value)
    if isinstance(value, int):
        # The decimal form of a huge integer is slow to make, and refused by Python past some thousand digits.
        return str(value) if abs(value) < 10**30 else "a very large integer"
    return f"a value of type {type(value).__name__}"


def named(names: Iterable[str]) -> str:
    """`a, b, c`, bounded; `none` where there are none."""
    every = list(names)
    more = ["…"] if len(every) > _NAMES else []
    return ", ".join([capped(name, _SHOWN_CHARS) for name in every[:_NAMES]] + more) or "none"


def invalid_parameters(operation_type: str, problems: Sequence[Problem], total: int | None = None) -> InvalidParameters:
    """The error for the caller: the first problems in its line, some more in `details["errors"]`.

    Args:
        operation_type: Whose parameters they are.
        problems: The first problems found.
        total: How many there are, where `problems` does not hold them all.
    """
    total = len(problems) if total is None else total
    told = [f"{capped(p.parameter, _SHOWN_CHARS)}: {capped(p.problem)}" for p in problems[:_IN_MESSAGE]]
    if total > len(told):
        told.append(f"and {total - len(told)} more")
    listed = [
        {"parameter": capped(p.parameter, _SHOWN_CHARS), "problem": capped(p.problem)} for p in problems[:_IN_DETAILS]
    ]
    return InvalidParameters(f"parameters of {operation_type!r}: {'; '.join(told)}", details={"errors": listed})


def no_longer_fitting(problem: str) -> OperationFailed:
    """The error of a task whose stored parameters do not fit its operation, which has changed since."""
    return OperationFailed(f"the stored parameters do not fit the operation as it is now: {problem}")
