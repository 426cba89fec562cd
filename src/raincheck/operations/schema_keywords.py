"""JSON Schema's keywords, each linear in its instance, and validators whose work is bounded.

jsonschema compares items in pairs, matches by `re`, and tries all branches of a recursive schema however often that
doubles the work. Here items are compared by canonical form, patterns matched by `raincheck.operations.patterns`, and
the time that the keywords take together is bounded (`bounded_work`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from typing import Any, cast

import jsonschema
import jsonschema.validators
from jsonschema.exceptions import ValidationError
from referencing.jsonschema import DRAFT202012

from raincheck.operations.bounded_work import WORK, TooMuchWork
from raincheck.operations.json_equality import canonical
from raincheck.operations.patterns import matcher

_LOOK_EVERY = 32

_Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError]]


def _counted(keyword: _Keyword) -> _Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        WORK.steps += 1
        if WORK.steps % _LOOK_EVERY == 0 and WORK.until and time.thread_time() > WORK.until:
            raise TooMuchWork
        return keyword(validator, value, instance, schema)

    return check


class Choices(list[Any]):
    """The values of an `enum`, which are looked up, not compared one by one."""

    def __init__(self, values: list[Any]) -> None:
        super().__init__(values)
        self.keys = frozenset(canonical(value) for value in values)


def errors(validator: Any, instance: Any, *, most: int) -> list[ValidationError]:
    """The first errors of the instance.

    Raises:
        TooMuchWork, RecursionError: It takes too long, or goes too deep.
    """
    WORK.remembers = True
    try:
        return list(islice(validator.iter_errors(instance), most))
    finally:
        WORK.remembers = False
        WORK.known.clear()


def _is_valid(validator: Any, instance: Any, part: Any) -> bool:
    if not (WORK.remembers and type(instance) in (dict, list)):
        return next(validator.descend(instance, part), None) is None
    place = (id(part), id(instance))
    known = WORK.known.get(place)
    if known is None:
        known = WORK.known[place] = next(validator.descend(instance, part), None) is None
    return known


def _placed(validator: Any, part: Any) -> Any:
    """The validator of a part that many instances are checked against."""
    resolver = validator._resolver.in_subresource(DRAFT202012.create_resource(part))
    return validator.evolve(schema=part, _resolver=resolver)


def _ref(validator: Any, reference: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    found = validator._resolver.lookup(reference)
    place = (id(found.contents), id(instance))
    remembers = WORK.remembers and type(instance) in (dict, list)
    if remembers and WORK.known.get(place):
        return
    failed = False
    for error in validator.descend(instance, found.contents, resolver=found.resolver):
        failed = True
        yield error
    if remembers and not failed:
        WORK.known[place] = True


def _items(validator: Any, part: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    first = len(schema.get("prefixItems", ()))
    if not validator.is_type(instance, "array") or len(instance) <= first:
        return
    if part is False:
        yield ValidationError("items")
        return
    placed = _placed(validator, part)
    for at in range(first, len(instance)):
        for error in placed.iter_errors(instance[at]):
            error.path.appendleft(at)
            yield error


def _type(validator: Any, types: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    allowed = [types] if isinstance(types, str) else types
    if not any(validator.is_type(instance, each) for each in allowed):
        yield ValidationError("type")


def _enum(validator: Any, values: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    keys = values.keys if isinstance(values, Choices) else Choices(values).keys
    if canonical(instance) not in keys:
        yield ValidationError("enum")


def _const(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if canonical(instance) != canonical(value):
        yield ValidationError("const")


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if unique and validator.is_type(instance, "array") and len({canonical(each) for each in instance}) < len(instance):
        yield ValidationError("uniqueItems")


def _multiple_of(validator: Any, divisor: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "number"):
        return
    if isinstance(instance, int) and isinstance(divisor, int):
        remainder = instance % divisor
    else:
        # Of numbers as they are written: 0.3 is a multiple of 0.1, whatever their nearest doubles are.
        remainder = Fraction(repr(instance)) % Fraction(repr(divisor))
    if remainder:
        yield ValidationError("multipleOf")


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not matcher(pattern)(instance):
        yield ValidationError("pattern")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, part in patterns.items():
        matches = matcher(pattern)
        for name, member in instance.items():
            if matches(name):
                yield from validator.descend(member, part, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    named, patterns = schema.get("properties", {}), [matcher(each) for each in schema.get("patternProperties", {})]
    extras = [name for name in instance if name not in named and not any(matches(name) for matches in patterns)]
    if allowed is False and extras:
        yield ValidationError("additionalProperties")
    elif isinstance(allowed, dict):
        for name in extras:
            yield from validator.descend(instance[name], allowed, path=name)


def _any_of(validator: Any, parts: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not any(_is_valid(validator, instance, part) for part in parts):
        yield ValidationError("anyOf")


def _one_of(validator: Any, parts: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    fitting = (part for part in parts if _is_valid(validator, instance, part))
    if next(fitting, None) is None or next(fitting, None) is not None:
        yield ValidationError("oneOf")


# What other keywords of a schema have evaluated (2020-12, "Keywords for Applying Subschemas to … Unevaluated …").


def _applied(validator: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The schemas that apply to the same instance beside this one, each with the validator that knows its place."""
    for key in ("$ref", "$dynamicRef"):
        if (reference := schema.get(key)) is not None:
            found = validator._resolver.lookup(reference)
            yield validator.evolve(schema=found.contents, _resolver=found.resolver), found.contents
    for key in ("allOf", "anyOf", "oneOf"):
        for part in schema.get(key, ()):
            if _is_valid(validator, instance, part):
                yield validator, part
    if "if" in schema:
        met = _is_valid(validator, instance, schema["if"])
        for key in ("if", "then") if met else ("else",):
            if key in schema:
                yield validator, schema[key]
    for name, part in schema.get("dependentSchemas", {}).items():
        if name in instance:
            yield validator, part


def _evaluated_names(validator: Any, instance: Any, part: Any) -> set[str]:
    if not isinstance(part, dict):
        return set()
    schema = cast("dict[str, Any]", part)
    named = schema.get("properties", {})
    found = {name for name in instance if name in named}
    for pattern in schema.get("patternProperties", {}):
        matches = matcher(pattern)
        found.update(name for name in instance if matches(name))
    for key in ("additionalProperties", "unevaluatedProperties"):
        if key in schema:
            found.update(name for name, member in instance.items() if _is_valid(validator, member, schema[key]))
    for its_validator, applied in _applied(validator, instance, schema):
        found |= _evaluated_names(its_validator, instance, applied)
    return found


def _evaluated_items(validator: Any, instance: Any, part: Any) -> set[int]:
    if not isinstance(part, dict):
        return set()
    schema = cast("dict[str, Any]", part)
    if "items" in schema:
        return set(range(len(instance)))
    found = set(range(min(len(schema.get("prefixItems", ())), len(instance))))
    for key in ("contains", "unevaluatedItems"):
        if key in schema:
            found.update(at for at, item in enumerate(instance) if _is_valid(validator, item, schema[key]))
    for its_validator, applied in _applied(validator, instance, schema):
        found |= _evaluated_items(its_validator, instance, applied)
    return found


def _unevaluated_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    rest = {key: value for key, value in schema.items() if key != "unevaluatedProperties"}
    evaluated = _evaluated_names(validator, instance, rest)
    if not all(_is_valid(validator, instance[name], allowed) for name in instance if name not in evaluated):
        yield ValidationError("unevaluatedProperties")


def _unevaluated_items(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "array"):
        return
    rest = {key: value for key, value in schema.items() if key != "unevaluatedItems"}
    evaluated = _evaluated_items(validator, instance, rest)
    if not all(_is_valid(validator, item, allowed) for at, item in enumerate(instance) if at not in evaluated):
        yield ValidationError("unevaluatedItems")


_OURS: dict[str, _Keyword] = {
    "$ref": _ref,
    "items": _items,
    "type": _type,
    "enum": _enum,
    "const": _const,
    "uniqueItems": _unique_items,
    "multipleOf": _multiple_of,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "unevaluatedProperties": _unevaluated_properties,
    "unevaluatedItems": _unevaluated_items,
}
_BASE: Any = jsonschema.Draft202012Validator

_validators: Any = jsonschema.validators

BoundedValidator: Any = _validators.extend(
    _BASE, {name: _counted(keyword) for name, keyword in {**_BASE.VALIDATORS, **_OURS}.items()}
)
"""Draft 2020-12 with these keywords."""
