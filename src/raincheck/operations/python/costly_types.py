"""Annotations that pydantic checks in more than linear time: refused when declared, or bounded for each call.

pydantic tries the members of a union one after the other. Where several of them contain the union again, each level of
nesting doubles the work; a discriminator (`Field(discriminator=…)`) has one member tried. Sets and the keys of
dictionaries are hashed, and numbers can be chosen so that their hashes are all the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from raincheck.errors import ConfigurationError
from raincheck.operations.json_equality import canonical
from raincheck.operations.validation_messages import Problem, invalid_parameters, shown

_CHEAP_TRIES = 2000
_TRIES_A_MEMBER = 8
_FEW = 500
_MOST_OF_ONE_HASH = 100
_UUID = re.compile(r"[{]?(?:urn:uuid:)?([0-9A-Fa-f-]{32,36})[}]?")

_Kinds = Mapping[type, int]


def refuse_unbounded_patterns(core_schema: Any, place: str) -> None:
    """Refuse patterns that Python's `re` would match, and parameters that are patterns themselves.

    Raises:
        ConfigurationError: One line that names the pattern.
    """
    for part in _parts(core_schema):
        pattern = part.get("pattern")
        if isinstance(pattern, re.Pattern):
            raise _refused(place, shown(cast("re.Pattern[Any]", pattern).pattern), "give it as a text, not compiled")
        if part.get("regex_engine") == "python-re":
            raise _refused(place, "of a model", 'leave out regex_engine = "python-re"')
        function: Any = part.get("function")
        if getattr(function, "__module__", "").startswith("pydantic.") and function.__name__.startswith("pattern_"):
            raise ConfigurationError(
                f"{place}: a parameter is a re.Pattern, which whoever calls could make slow to compile; take a str"
            )


def _refused(place: str, pattern: str, instead: str) -> ConfigurationError:
    return ConfigurationError(f"{place}: pattern {pattern} would be matched by re, which a text can hold up; {instead}")


class CostlyTypes:
    """What is costly in one signature, and the bound on it for a call.

    Args:
        schema: The JSON Schema of the parameters.
        core_schema: pydantic's own.
    """

    def __init__(self, schema: Mapping[str, Any], core_schema: Any = None) -> None:
        self._tries = _tries(schema)
        self._hashes = any(_hashes_numbers(part) for part in _parts([dict(schema), core_schema]))

    def check(self, operation_type: str, arguments: Mapping[str, Any]) -> None:
        """Check that these arguments can be checked.

        Raises:
            InvalidParameters: They were made to be costly, or are nested too deeply for the signature's unions.
        """
        for name, value in arguments.items() if self._tries or self._hashes else ():
            if self._tries and _takes_too_many_tries(value, self._tries):
                problem = "nested too deeply to be checked, several types are tried at each level"
            elif self._hashes and any(_collides(each) for each, _ in _containers(value, {})):
                problem = f"more than {_MOST_OF_ONE_HASH} numbers with the same hash"
            else:
                continue
            raise invalid_parameters(operation_type, [Problem(parameter=name, problem=problem)])


def _parts(core_schema: Any) -> Iterator[Mapping[str, Any]]:
    waiting: list[Any] = [core_schema]
    seen: set[int] = set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            yield cast("dict[str, Any]", part)
            waiting += cast("dict[str, Any]", part).values()
        elif isinstance(part, list | tuple):
            waiting += cast("list[Any]", part)


def _containers(value: Any, tries: _Kinds) -> Iterator[tuple[Any, int]]:
    """The arrays and objects in a value, each with how often it is tried."""
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        each, times = waiting.pop()
        if type(each) in (dict, list):
            times *= tries.get(dict if type(each) is dict else list, 1)
            yield each, times
            waiting += [(member, times) for member in _members(each)]


def _members(container: Any) -> Iterable[Any]:
    return cast("dict[str, Any]", container).values() if type(container) is dict else container


# Unions.


def _tries(schema: Mapping[str, Any]) -> dict[type, int]:
    """How many members of one union are tried for an object, and for an array, that may hold the union again."""
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    reached = {name: _named_in(part, definitions) for name, part in definitions.items()}
    recursive = {name for name, within in reached.items() if name in within}
    most: dict[type, int] = {}
    for part in _parts(dict(schema)):
        if not isinstance(part.get("anyOf"), list):
            continue
        counted: dict[type, int] = defaultdict(int)
        for member in _flat(part, definitions, frozenset()):
            kind = {"object": dict, "array": list}.get(str(member.get("type")))
            if kind is not None and recursive & _named_in(member, definitions):
                counted[kind] += 1
        for kind, count in counted.items():
            if count > 1:
                most[kind] = max(count, most.get(kind, 0))
    return most


def _flat(
    part: Mapping[str, Any], definitions: Mapping[str, Any], above: frozenset[str]
) -> Iterator[Mapping[str, Any]]:
    """The members of a union, those of the unions in it among them."""
    name = str(part.get("$ref", "")).removeprefix("#/$defs/")
    if name in definitions and name not in above:
        yield from _flat(definitions[name], definitions, above | {name})
    elif isinstance(part.get("anyOf"), list):
        for member in part["anyOf"]:
            yield from _flat(member, definitions, above)
    else:
        yield part


def _named_in(part: Any, definitions: Mapping[str, Any]) -> set[str]:
    """The definitions that a part leads to."""
    found: set[str] = set()
    waiting: list[Any] = [part]
    while waiting:
        for each in _parts(waiting.pop()):
            name = str(each.get("$ref", "")).removeprefix("#/$defs/")
            if name in definitions and name not in found:
                found.add(name)
                waiting.append(definitions[name])
    return found


def _takes_too_many_tries(value: Any, tries: _Kinds) -> bool:
    taken = [times for _, times in _containers(value, tries)]
    return sum(taken) > _CHEAP_TRIES + _TRIES_A_MEMBER * len(taken)


# Hashes.


def _hashes_numbers(part: Mapping[str, Any]) -> bool:
    """Whether a part of pydantic's schema, or of a JSON Schema, becomes a set or keys that are no texts."""
    if part.get("type") in ("set", "frozenset"):
        return _type_of(part.get("items_schema")) != "str"
    if part.get("type") == "dict":
        return _type_of(part.get("keys_schema")) not in ("str", "any", None)
    return part.get("uniqueItems") is True and _type_of(part.get("items")) != "string"


def _type_of(part: Any) -> Any:
    return cast("dict[str, Any]", part).get("type") if isinstance(part, dict) else None


def _collides(container: Any) -> bool:
    if len(container) <= _FEW:
        return False
    alike: defaultdict[int, set[str]] = defaultdict(set)
    for member in container:  # of an object its names, which are the keys of a dictionary
        those = alike[_hash(member)]
        those.add(canonical(member))
        if len(those) > _MOST_OF_ONE_HASH:
            return True
    return False


def _hash(value: Any) -> int:
    """The hash of what pydantic may make of it: a number, a UUID, or a tuple or model of such."""
    if isinstance(value, str):
        if (found := _UUID.fullmatch(value)) is not None:
            return hash(int(found[1].replace("-", "") or "0", 16))
        try:
            return hash(Decimal(value)) if len(value) < 400 else hash(value)
        except (InvalidOperation, ValueError, TypeError):
            return hash(value)
    if isinstance(value, list):
        return hash(tuple(_hash(each) for each in cast("list[Any]", value)))
    if isinstance(value, dict):
        return hash(frozenset(_hash(each) for each in cast("dict[str, Any]", value).values()))
    return hash(value)
