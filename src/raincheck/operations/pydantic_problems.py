"""Messages for what pydantic finds wrong with arguments, bounded in number and length."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, cast

from pydantic import ValidationError

from raincheck.errors import InvalidParameters
from raincheck.operations.validation_messages import Problem, invalid_parameters, named, shown

_MANY_ERRORS = 100


def pydantic_refusal(
    operation_type: str,
    error: ValidationError,
    names: Iterable[str],
    arguments: Any = None,
    again: Callable[[Any], Any] | None = None,
) -> InvalidParameters:
    """The refusal that tells the first of these errors.

    Args:
        operation_type: Whose arguments they are.
        error: What pydantic found.
        names: The parameters that there are.
        arguments, again: Them, and what checks them, where there may be very many errors.
    """
    if again is not None and error.error_count() > _MANY_ERRORS:
        error = _fewer(error, arguments, again)
    problems: list[Problem] = []
    for found in error.errors(include_url=False, include_context=False)[:10]:
        where = ".".join(str(part) for part in found["loc"]) or "(all)"
        match found["type"]:
            case "missing" | "missing_argument" | "missing_keyword_only_argument":
                told = "required, and missing"
            case "extra_forbidden" | "unexpected_keyword_argument":
                allowed = named(names) if len(found["loc"]) == 1 else ""
                told = "unknown parameter" + (f"; there are: {allowed}" if allowed else "")
            case _:
                told = f"{found['msg']} (got {shown(found['input'])})"
        problems.append(Problem(parameter=where, problem=told))
    return invalid_parameters(operation_type, problems, error.error_count())


def _fewer(error: ValidationError, arguments: Any, again: Callable[[Any], Any]) -> ValidationError:
    """The same error, found in a short form of the arguments."""
    # pydantic lists every error or none: a quarter of a million of them would hold the event loop for a second.
    try:
        again(_shortened(arguments))
    except ValidationError as first:
        return first
    return error


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        members = islice(cast("dict[str, Any]", value).items(), _MANY_ERRORS)
        return {name: _shortened(member) for name, member in members}
    if isinstance(value, list):
        return [_shortened(item) for item in cast("list[Any]", value)[:10]]
    return value
