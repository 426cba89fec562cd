"""JSON in and out: parameters as they are stored, and results, which may be anything that JSON can hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from raincheck.domain.task import Outcome
from raincheck.domain.unicode_text import well_formed, well_formed_json
from raincheck.errors import OperationFailed
from raincheck.operations.untrusted_json import NotJson, plain_json, read_json
from raincheck.operations.validation_messages import Problem, capped, invalid_parameters

_UNKNOWN = re.compile(r"Unable to serialize unknown type: <class '([^']+)'>")


def stored_parameters(operation_type: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The arguments as plain JSON values, and as JSON text.

    Raises:
        InvalidParameters: JSON cannot hold them, or they are beyond its bounds (`raincheck.operations.untrusted_json`).
    """
    try:
        return plain_json(arguments)
    except NotJson as error:
        name, why = _at_fault(arguments, error)
        raise invalid_parameters(operation_type, [Problem(parameter=name, problem=why)]) from None


def _at_fault(arguments: Mapping[str, Any], error: NotJson) -> tuple[str, str]:
    for name, value in arguments.items():
        try:
            plain_json({name: value})
        except NotJson as its_own:
            return well_formed(name), str(its_own)
    return "(all)", str(error)


def json_value(value: Any, adapter: TypeAdapter[Any] | None = None) -> Any:
    """`value` as plain JSON values; an `Outcome` as it is.

    Dataclasses, pydantic models, dates, enums, sets, iterators and the like become what pydantic makes of them. Bytes
    must be UTF-8 text; NaN and the infinities are refused, since JSON has none and a silent null would lose them. A
    lone surrogate in a text is U+FFFD.

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
            value = adapter.validate_python(value)
        return _dumped(value, adapter)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        at = f" at {capped(where, 80)}" if where else ""
        raise OperationFailed(
            f"the operation returned a value that does not fit its return annotation{at}: {capped(first['msg'])}"
        ) from error
    except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
        raise OperationFailed(f"the operation returned a value that JSON cannot hold: {_why(error, value)}") from error


def _dumped(value: Any, adapter: TypeAdapter[Any] | None) -> bytes:
    try:
        return pydantic_core.to_json(value) if adapter is None else adapter.dump_json(value, by_alias=True)
    except pydantic_core.PydanticSerializationError as error:
        if "surrogates" not in str(error) or isinstance(value, Iterator):  # an iterator is used up by now
            raise
        # Names of members first: pydantic's own form needs them as UTF-8.
        value = well_formed_json(value)
        if adapter is None:
            plain: Any = pydantic_core.to_jsonable_python(value)
        else:
            plain = adapter.dump_python(value, mode="json", by_alias=True)
        return pydantic_core.to_json(well_formed_json(plain))


def _parsed(text: bytes) -> Any:
    try:
        return read_json(text)
    except NotJson as error:
        raise OperationFailed(f"the operation returned a value that JSON cannot hold: {error}") from error


def _why(error: Exception, value: Any) -> str:
    text = str(error)
    if unknown := _UNKNOWN.search(text):
        return f"an object of type {unknown[1]}"
    if "Circular reference" in text or "depth" in text:
        return "it contains itself, or is nested too deeply"
    if "invalid utf-8" in text or "surrogates" in text:
        return "bytes or text that is not UTF-8 (return base64 text instead)"
    return f"{capped(text)} (in a {type(value).__name__})"
