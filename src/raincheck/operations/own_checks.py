"""Argument checks of adopted tools by pydantic, run before a task is accepted.

The tool gets its arguments as the caller sent them, and checks them again when it runs. What comes before is only what
no caller may make costly: the bounds of JSON (`raincheck.operations.untrusted_json`) and of `CostlyTypes`, and patterns
that Python's `re` would match, which are matched in linear time first.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import pydantic_core
from pydantic import ValidationError

from raincheck.operations.json_values import stored_parameters
from raincheck.operations.patterns import PatternRefused, matcher
from raincheck.operations.pydantic_problems import pydantic_refusal
from raincheck.operations.python.costly_types import CostlyTypes
from raincheck.operations.validation_messages import shown

logger = logging.getLogger(__name__)

_Check = Callable[[Any], Any]
_NO_SCHEMAS = {"config", "default", "expected", "metadata", "serialization"}
# An escape, a set of characters, or an end.
_PART = re.compile(r"\\.|\[\^?\]?(?:[^\]\\]|\\.)*+(?:\]|\\?\Z)|\$", re.DOTALL)
_FLAGS = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x"}


def object_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's input schema as that of an operation: an object's, also where it says nothing of it."""
    return {"type": "object", "properties": {}, **schema}


class OwnChecks:
    """The checks of one tool's arguments.

    Args:
        tool: Its name.
        schema: Its input schema.
        check: Checks arguments as the tool does, raising pydantic's `ValidationError`; None: it cannot be asked, so
            that a task is accepted and the tool refuses them when it runs.
        core_schema: pydantic's own schema, of what `check` takes.
        read: What the host makes of arguments before (text that is JSON becomes its value).
    """

    def __init__(
        self,
        tool: str,
        schema: Mapping[str, Any],
        check: _Check | None,
        core_schema: Any = None,
        read: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self._tool = tool
        self._names = tuple(schema.get("properties", ()))
        self._check = None if check is None else _linear(core_schema, tool) or check
        self._read = read
        self._costly = CostlyTypes(schema, core_schema)

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as they are to be stored: as they were given.

        Raises:
            InvalidParameters: The tool refuses them, or they are beyond the bounds.
        """
        stored, text = stored_parameters(self._tool, arguments)
        # The check may change what it is given; a value that is read from a text may be costly as any other.
        given = pydantic_core.from_json(text)
        if self._read is not None:
            given, _ = stored_parameters(self._tool, self._read(given))
        self._costly.check(self._tool, given)
        if self._check is not None:
            try:
                self._check(given)
            except ValidationError as error:
                raise pydantic_refusal(self._tool, error, self._names, given, self._check) from None
            except Exception as error:  # noqa: BLE001  the user's own code in the check, which fails when the tool runs
                logger.debug("the check of %r raised %s", self._tool, type(error).__name__)
        return stored


def _linear(core_schema: Any, tool: str) -> _Check | None:
    """The check whose patterns are all matched in linear time; None where the tool's own already is."""
    found: list[str] = []
    rewritten = _rewritten(core_schema, found, tool, by_re=False)
    if not found:
        return None
    make: Any = pydantic_core.SchemaValidator
    try:
        # Else models that stand in it would bring their own.
        return cast("_Check", make(rewritten, None, _use_prebuilt=False).validate_python)
    except TypeError:
        return cast("_Check", make(rewritten).validate_python)


def _rewritten(part: Any, found: list[str], tool: str, *, by_re: bool) -> Any:
    if isinstance(part, list | tuple):
        return [_rewritten(each, found, tool, by_re=by_re) for each in cast("list[Any]", part)]
    if not isinstance(part, dict):
        return part
    members = dict(cast("dict[str, Any]", part))
    config = members.get("config")
    if isinstance(config, dict) and "regex_engine" in config:
        settings = cast("dict[str, Any]", config)
        by_re = settings["regex_engine"] == "python-re"
        members["config"] = {key: value for key, value in settings.items() if key != "regex_engine"}
    if members.get("type") == "str" and "pattern" in members:
        own_engine = members.pop("regex_engine", None)
        if own_engine == "python-re" or by_re or isinstance(members["pattern"], re.Pattern):
            pattern = members.pop("pattern")
            found.append(str(pattern))
            try:
                members["pattern"] = _translated(pattern)
            except PatternRefused as error:
                said = shown(_text(pattern))
                logger.warning("tool %r: pattern %s is left to the tool to check: %s", tool, said, error)
        return members
    return {
        key: value if key in _NO_SCHEMAS else _rewritten(value, found, tool, by_re=by_re)
        for key, value in members.items()
    }


def _translated(pattern: str | re.Pattern[str]) -> str:
    """The pattern with its flags in it, and with `$` at its end as `re` takes it: before a last line feed, too.

    Raises:
        PatternRefused: The linear engine has no word for it.
    """
    compiled = re.compile(pattern)
    text = _text(pattern)
    ends = [found.start() for found in _PART.finditer(text) if found[0] == "$"]
    if ends and not compiled.flags & re.MULTILINE:
        if ends != [len(text) - 1]:
            raise PatternRefused("it has `$` before its end")
        text = text[:-1] + r"\n?$"
    flags = "".join(letter for flag, letter in _FLAGS.items() if compiled.flags & flag)
    flags += "-u" if compiled.flags & re.ASCII else ""
    translated = f"(?{flags}){text}" if flags else text
    matcher(translated)
    return translated


def _text(pattern: str | re.Pattern[str]) -> str:
    return pattern if isinstance(pattern, str) else pattern.pattern
