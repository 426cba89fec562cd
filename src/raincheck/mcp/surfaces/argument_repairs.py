"""Slips that models make with the arguments of the handle tools, mended where they can mean one thing only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from raincheck.mcp.surfaces.handle_definitions import HandleTool
from raincheck.operations.argument_repairs import number_of, object_of

_AROUND_A_REF = " \t\r\n\"'`<>“”‘’"


def mended(tool: HandleTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the tool reads them; whatever is ambiguous is left for it to refuse.

    Mended are null for what may be left out, a text for a number (`"25"`) or an object (`"{…}"`), and what stands
    around a `task_ref`.
    """
    return {
        key: _mended(key, cast("Mapping[str, Any]", tool.properties.get(key, {})).get("type"), value)
        for key, value in arguments.items()
        if value is not None or key in tool.required
    }


def _mended(key: str, kind: str | None, value: Any) -> Any:
    if key == "responses" and isinstance(found := _object(value), dict):
        return {name: _object(response) for name, response in cast("dict[str, Any]", found).items()}
    if kind == "object":
        return _object(value)
    if key == "task_ref" and isinstance(value, str):
        return value.strip(_AROUND_A_REF)
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind in ("number", "integer") and isinstance(value, str):
        number = number_of(value.strip(), whole=kind == "integer")
        return value if number is None else number
    return value


def _object(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = object_of(value)
    return value if found is None else found
