"""Parameters against a declared JSON Schema (2020-12), compiled once."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import jsonschema
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from raincheck.errors import ConfigurationError, InvalidParameters
from raincheck.operations.argument_repairs import as_declared
from raincheck.operations.bounded_work import LONGEST_WORK_SECONDS, bounded_work
from raincheck.operations.formats import FORMATS, format_checker
from raincheck.operations.json_values import stored_parameters
from raincheck.operations.patterns import PatternRefused, matcher
from raincheck.operations.schema_circles import SchemaSteps
from raincheck.operations.schema_keywords import BoundedValidator, Choices, errors
from raincheck.operations.validation_messages import Problem, capped, invalid_parameters, named, shown

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
        operation_type: Whose parameters they are.
        schema: The schema; `type` is "object", and `additionalProperties` is false unless it was declared otherwise.
        properties: The schemas of the declared parameters.
    """

    def __init__(self, schema: Mapping[str, Any], operation_type: str) -> None:
        """Compile `schema`.

        Args:
            schema: Of an object.
            operation_type: Whose parameters they are.

        Raises:
            ConfigurationError: It is not a JSON Schema of an object; the message names the place.
        """
        self.operation_type = operation_type
        whole: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False, **schema}
        place = f"operation {operation_type!r}: parameters"
        if whole["type"] != "object":
            raise ConfigurationError(f'{place}: type is {shown(whole["type"])}; allowed: "object"')
        if strange := _no_json(whole):
            raise ConfigurationError(f"{place} hold {strange}, which JSON has not (a date is a text there)")
        try:
            # Patterns are for the engine that matches them to judge.
            jsonschema.Draft202012Validator.check_schema(whole, format_checker=jsonschema.FormatChecker(formats=()))
        except SchemaError as error:
            where = ".".join(str(part) for part in error.absolute_path)
            raise ConfigurationError(f"{place}{'.' * bool(where)}{where}: {_told(error)}") from None
        compiled = _compiled(whole, place)
        self.schema: Mapping[str, Any] = whole
        self.properties: Mapping[str, Any] = whole["properties"]
        self._defaults: dict[str, Any] = {
            name: part["default"]
            for name, part in self.properties.items()
            if isinstance(part, dict) and "default" in part
        }
        # An empty registry: a schema never makes the server fetch anything.
        self._validator: Any = BoundedValidator(compiled, registry=Registry[Any](), format_checker=format_checker())

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as JSON values, the defaults of the top level filled in, and slips mended (`as_declared`).

        Raises:
            InvalidParameters: They do not fit; one line names the parameter and what is allowed.
            TooMuchWork: A bound that the caller set (`bounded_work`) is passed.
        """
        stored, _ = stored_parameters(self.operation_type, arguments)
        whole = {**self._defaults, **stored}
        with bounded_work(LONGEST_WORK_SECONDS):
            try:
                if not errors(self._validator, whole, most=1):
                    return whole
                mended = as_declared(self.schema, whole)
                if mended != whole and not errors(self._validator, mended, most=1):
                    return mended
                found = errors(self._validator, whole, most=_MOST_ERRORS)
            except RecursionError:
                raise self._refused("nested too deeply for this operation's schema") from None
        problems = [problem for error in found for problem in self._problems(error)]
        raise invalid_parameters(self.operation_type, problems)

    def _refused(self, problem: str) -> InvalidParameters:
        return invalid_parameters(self.operation_type, [Problem(parameter="(all)", problem=problem)])

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
    if isinstance(error, SchemaError) and error.absolute_path and error.absolute_path[-1] == "type":
        return f"is {shown(error.instance)}; allowed: array, boolean, integer, null, number, object, string"
    told = _TOLD.get(str(error.validator), f"does not fit {error.validator!r}: {{}}")
    return told.format(capped(json.dumps(error.validator_value, ensure_ascii=False, default=str), 120))


def _no_json(value: Any) -> str:
    """A date or a number in it that TOML has and JSON has not; empty where there is none."""
    waiting: list[Any] = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            waiting += cast("Mapping[str, Any]", part).values()
        elif isinstance(part, list | tuple):
            waiting += cast("list[Any]", part)
        elif not (isinstance(part, str | bool | int | None) or (isinstance(part, float) and math.isfinite(part))):
            return str(part)[:80]
    return ""


_ONE = (
    *("items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def _compiled(schema: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A copy of the schema as `BoundedValidator` takes it, every part of it checked."""
    whole: dict[str, Any] = copy.deepcopy(dict(schema))
    steps = SchemaSteps()
    resolver = Registry[Any]().with_resource("", DRAFT202012.create_resource(whole)).resolver()
    waiting: list[Any] = [whole]
    seen: set[int] = set()
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict) or id(cast("object", part)) in seen:
            continue
        members = cast("dict[str, Any]", part)
        seen.add(id(members))
        # A part that names a dialect would be checked by that dialect's own keywords.
        members.pop("$schema", None)
        _check_patterns(members, place)
        if isinstance(members.get("format"), str) and members["format"] not in FORMATS:
            raise ConfigurationError(
                f"{place}: format {shown(members['format'])} would not be checked; allowed: {', '.join(FORMATS)}"
            )
        if isinstance(members.get("enum"), list):
            members["enum"] = Choices(members["enum"])
        waiting += [members[key] for key in _ONE if key in members]
        waiting += [each for key in _LISTED if isinstance(members.get(key), list) for each in members[key]]
        waiting += [each for key in _NAMED if isinstance(members.get(key), dict) for each in members[key].values()]
        for reference in (members.get("$ref"), members.get("$dynamicRef")):
            if not isinstance(reference, str):
                continue
            try:
                referred = resolver.lookup(reference).contents
            except Unresolvable:
                raise ConfigurationError(
                    f"{place}: $ref {shown(reference)} leads nowhere; allowed: a place in this schema"
                ) from None
            waiting.append(referred)
            steps.refer(members, referred, reference)
        steps.into(members)
    if (reference := steps.circle()) is not None:
        raise ConfigurationError(f"{place}: $ref {shown(reference)} leads back to itself: no value can be checked")
    return whole


def _check_patterns(part: dict[str, Any], place: str) -> None:
    named: Any = part.get("patternProperties")
    names = cast("dict[str, Any]", named) if isinstance(named, dict) else {}
    for pattern in (part.get("pattern"), *names):
        if isinstance(pattern, str):
            try:
                matcher(pattern)
            except PatternRefused as error:
                raise ConfigurationError(
                    f"{place}: pattern {shown(pattern)} cannot be matched: {error}; allowed: the syntax of Rust's "
                    "regex, which no text can hold up"
                ) from None
