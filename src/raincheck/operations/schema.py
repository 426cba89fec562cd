"""Parameters against a declared JSON Schema (2020-12), compiled once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, cast

import jsonschema
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from raincheck.errors import ConfigurationError
from raincheck.operations.argument_slips import as_declared
from raincheck.operations.problems import Problem, capped, invalid_parameters, named, not_json, shown
from raincheck.operations.values import stored_parameters

__all__ = ["ParameterSchema"]

_MOST_ERRORS = 50
_TOLD = {
    "type": "should be of type {}",
    "enum": "should be one of {}",
    "const": "should be {}",
    "minimum": "should be at least {}",
    "maximum": "should be at most {}",
    "exclusiveMinimum": "should be greater than {}",
    "exclusiveMaximum": "should be less than {}",
    "multipleOf": "should be a multiple of {}",
    "minLength": "should have at least {} characters",
    "maxLength": "should have at most {} characters",
    "pattern": "should match {}",
    "format": "should be in the format {}",
    "minItems": "should have at least {} items",
    "maxItems": "should have at most {} items",
    "uniqueItems": "should not hold an item twice",
    "minProperties": "should have at least {} members",
    "maxProperties": "should have at most {} members",
}


class ParameterSchema:
    """An object schema and its validator.

    Attributes:
        schema: The schema; `type` is "object", and `additionalProperties` is false unless it was declared otherwise.
        properties: The schemas of the declared parameters.
    """

    def __init__(self, schema: Mapping[str, Any], operation_type: str) -> None:
        """Compile `schema`.

        Raises:
            ConfigurationError: It is not a JSON Schema of an object; the message names the place.
        """
        self._operation_type = operation_type
        whole: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False, **schema}
        place = f"operation {operation_type!r}: parameters"
        if whole["type"] != "object":
            raise ConfigurationError(f'{place}: type is {shown(whole["type"])}; allowed: "object"')
        try:
            jsonschema.Draft202012Validator.check_schema(whole)
        except SchemaError as error:
            where = ".".join(str(part) for part in error.absolute_path)
            raise ConfigurationError(f"{place}{'.' * bool(where)}{where}: {_told(error)}") from None
        _check_references(whole, place)
        self.schema: Mapping[str, Any] = whole
        self.properties: Mapping[str, Any] = whole["properties"]
        self._defaults: dict[str, Any] = {
            name: part["default"]
            for name, part in self.properties.items()
            if isinstance(part, dict) and "default" in part
        }
        # An empty registry: a schema never makes the server fetch anything.
        self._validator: Any = jsonschema.Draft202012Validator(
            whole,
            registry=Registry[Any](),
            format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
        )

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as JSON values, the defaults of the top level filled in, and slips mended (`as_declared`).

        Raises:
            InvalidParameters: They do not fit; one line names the parameter and what is allowed.
        """
        stored, _ = stored_parameters(self._operation_type, arguments)
        whole = {**self._defaults, **stored}
        if self._validator.is_valid(whole):
            return whole
        mended = as_declared(self.schema, whole)
        if mended != whole and self._validator.is_valid(mended):
            return mended
        try:
            found: list[ValidationError] = list(islice(self._validator.iter_errors(whole), _MOST_ERRORS))
        except RecursionError as error:
            raise not_json(self._operation_type, error) from None
        problems = [problem for error in found for problem in self._problems(error)]
        raise invalid_parameters(self._operation_type, problems)

    def _problems(self, error: ValidationError) -> Iterator[Problem]:
        path = [str(part) for part in error.absolute_path]
        if error.validator == "required":
            instance: Any = error.instance
            missing = [name for name in cast("list[str]", error.validator_value) if name not in instance]
            # One error a name: each says its own.
            name = next((name for name in missing if error.message.startswith(repr(name))), missing[0])
            yield Problem(parameter=".".join([*path, name]), problem="required, and missing")
        elif error.validator == "additionalProperties" and error.validator_value is False:
            known: Mapping[str, Any] = cast("dict[str, Any]", error.schema).get("properties", {})
            patterns: Mapping[str, Any] = cast("dict[str, Any]", error.schema).get("patternProperties", {})
            for name in cast("dict[str, Any]", error.instance):
                if name not in known and not patterns:
                    told = f"unknown parameter; there are: {named(known)}"
                    yield Problem(parameter=".".join([*path, name]), problem=told)
            if patterns:
                yield Problem(parameter=".".join(path) or "(all)", problem="holds an unknown member")
        else:
            yield Problem(parameter=".".join(path) or "(all)", problem=f"{_told(error)} (got {shown(error.instance)})")


def _told(error: ValidationError | SchemaError) -> str:
    told = _TOLD.get(str(error.validator), f"does not fit {error.validator!r}: {{}}")
    return told.format(capped(json.dumps(error.validator_value, ensure_ascii=False, default=str), 120))


def _check_references(schema: Mapping[str, Any], place: str) -> None:
    resolver = Registry[Any]().with_resource("", DRAFT202012.create_resource(dict(schema))).resolver()

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            members = cast("dict[str, Any]", part)
            reference = members.get("$ref")
            if isinstance(reference, str):
                try:
                    resolver.lookup(reference)
                except Unresolvable:
                    raise ConfigurationError(
                        f"{place}: $ref {shown(reference)} leads nowhere; allowed: a place in this schema"
                    ) from None
            for member in members.values():
                walk(member)
        elif isinstance(part, list):
            for member in cast("list[Any]", part):
                walk(member)

    walk(schema)
