"""Names in `secrets` that match nothing: refused, since their values would be shown."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from raincheck.operations.operation import Operation
from raincheck.operations.validation_messages import named


def secrets_of_nothing(operation: Operation) -> list[str]:
    """For each name in `secrets` of the operation that is surely mistaken a line that says so.

    A result may have any member where no schema names them: then only the near miss of a parameter is told.
    """
    parameters = _names(operation.executor.parameters_schema)
    members = _names(operation.output_schema)
    told: list[str] = []
    for name in operation.policy.secrets:
        if name in parameters or name in members:
            continue
        close = difflib.get_close_matches(name, [*parameters, *members], n=1, cutoff=0.7)
        if close or members:
            instead = f"did you mean {close[0]}?" if close else f"there are: {named([*parameters, *members])}"
            told.append(
                f"operation {operation.operation_type}: secrets names {name!r}, which is no parameter and no member of "
                f"the result; {instead}"
            )
    return told


def _names(schema: Mapping[str, Any] | None) -> list[str]:
    properties: Mapping[str, Any] = (schema or {}).get("properties") or {}
    return list(properties)
