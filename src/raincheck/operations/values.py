"""JSON in and out: parameters as they are stored, and results, which may be anything that JSON can hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from raincheck.errors import OperationFailed
from raincheck.operations.problems import capped, not_json
from raincheck.task import Outcome

__all__ = ["json_bytes", "json_value", "stored_parameters"]

_UNKNOWN = re.compile(r"Unable to serialize unknown type: <class '([^']+)'>")


def stored_parameters(operation_type: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The arguments as plain JSON values, and as JSON text.

    Raises:
        InvalidParameters: JSON cannot hold them.
    """
    try:
        text = pydantic_core.to_json(arguments)
        return pydantic_core.from_json(text, allow_inf_nan=False), text
    except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
        raise not_json(operation_type, error) from None


def json_value(value: Any, adapter: TypeAdapter[Any] | None = None) -> Any:
    """`value` as plain JSON values; an `Outcome` as it is.

    Dataclasses, pydantic models, dates, enums, sets, iterators and the like become what pydantic makes of them. Bytes
    must be UTF-8 text; NaN and the infinities are refused, since JSON has none and a silent null would lose them.

    Args:
        value: What the operation returned.
        adapter: The type of its return annotation; the value has to fit it.

    Raises:
        OperationFailed: JSON cannot hold the value, or it does not fit the annotation.
    """
    return value if isinstance(value, Outcome) else _parsed(json_bytes(value, adapter))


def json_bytes(value: Any, adapter: TypeAdapter[Any] | None = None) -> bytes:
    """`value` as JSON text (NaN not yet refused, see `json_value`).

    Raises:
        OperationFailed: As `json_value`.
    """
    try:
        if adapter is not None:
            return adapter.dump_json(adapter.validate_python(value), by_alias=True)
        return pydantic_core.to_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        at = f" at {capped(where, 80)}" if where else ""
        raise OperationFailed(
            f"the operation returned a value that does not fit its return annotation{at}: {capped(first['msg'])}"
        ) from error
    except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
        raise OperationFailed(f"the operation returned a value that JSON cannot hold: {_why(error, value)}") from error


def _parsed(text: bytes) -> Any:
    try:
        return pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        # Our own output is well-formed, so these are all that a parser can find in it.
        deep = "recursion" in str(error)
        why = "it is nested too deeply" if deep else "NaN, infinity or a number of thousands of digits"
        raise OperationFailed(f"the operation returned a value that JSON cannot hold: {why}") from error


def _why(error: Exception, value: Any) -> str:
    text = str(error)
    if unknown := _UNKNOWN.search(text):
        return f"an object of type {unknown[1]}"
    if "Circular reference" in text or "depth" in text:
        return "it contains itself, or is nested too deeply"
    if "invalid utf-8" in text or "surrogates" in text:
        return "bytes or text that is not UTF-8 (return base64 text instead)"
    return f"{capped(text)} (in a {type(value).__name__})"
