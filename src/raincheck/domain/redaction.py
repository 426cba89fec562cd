"""Redaction of secret parameters and results: kept for the operation, hidden from everything else.

A secret parameter is stored in an envelope of its own (`{"$secret": value}`), so that every reader of a task knows what
to hide, without the operation's declaration. The runner takes it out again. A secret member of a result is named in the
outcome (`Outcome.secret`): its caller gets it, listings, logs and webhooks do not.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

from raincheck.domain.task import Outcome, TaskError

REDACTED: Final = "(withheld)"
"""What is shown in a secret's place."""

_withheld: ContextVar[frozenset[str]] = ContextVar("raincheck_withheld", default=frozenset())

_Told = TypeVar("_Told")
_ENVELOPE = "$secret"
# Shorter texts would be found in every other word.
_SHORTEST = 4
# Beyond so many nothing is told at all: each would be looked for in every line that is logged.
_MOST_TEXTS = 3000


def secret_properties(schema: Mapping[str, Any] | None) -> frozenset[str]:
    """The properties of an object's JSON Schema that are marked secret: `"writeOnly": true`, somewhere in them.

    That is what JSON Schema (2020-12, validation, section 9.4) has for it, and what pydantic makes of `SecretStr`.
    """
    properties: Any = (schema or {}).get("properties")
    definitions: Any = (schema or {}).get("$defs", {})
    if not isinstance(properties, Mapping):
        return frozenset()
    members = cast("Mapping[str, Any]", properties)
    return frozenset(name for name, part in members.items() if _is_secret(part, definitions, 0))


def wrap_secrets(arguments: Mapping[str, Any], secret: Collection[str]) -> dict[str, Any]:
    """The arguments as they are stored, the secret ones each in its envelope."""
    return {
        name: {_ENVELOPE: value} if name in secret or _in_envelope(value) else value
        for name, value in arguments.items()
    }


def unwrap_secrets(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments as the operation gets them: `wrapped` undone."""
    if not any(_in_envelope(value) for value in arguments.values()):
        return arguments
    return {name: value[_ENVELOPE] if _in_envelope(value) else value for name, value in arguments.items()}


def redact_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The stored arguments as they may be shown."""
    return {name: REDACTED if _in_envelope(value) else value for name, value in arguments.items()}


def mark_secret_members(outcome: Outcome, secret: Collection[str]) -> Outcome:
    """The outcome, with the members of its result named that are secret."""
    present = tuple(sorted(set(secret) & set(_members(outcome))))
    return replace(outcome, secret=present) if present else outcome


def redact_outcome(outcome: Outcome) -> Outcome:
    """The outcome as it may be shown to others than its caller."""
    if not outcome.secret:
        return outcome
    result = outcome.mcp_result
    if result is None:
        return replace(outcome, value=_members_hidden(outcome.value, outcome.secret))
    # The text of a tool result says the same once more, in a form that is the tool's own.
    told = [{"type": "text", "text": f"{REDACTED}: the result has secret members"}]
    structured = _members_hidden(result.get("structuredContent"), outcome.secret)
    return replace(outcome, mcp_result={**result, "content": told, "structuredContent": structured})


def texts_of(arguments: Mapping[str, Any]) -> frozenset[str]:
    """The texts and numbers in the secrets of stored arguments: what no message may repeat."""
    found: set[str] = set()
    for value in arguments.values():
        if _in_envelope(value):
            _gather(value[_ENVELOPE], found)
    return frozenset(found)


def secret_texts(arguments: Mapping[str, Any], secret: Collection[str]) -> frozenset[str]:
    """`texts_of` for arguments as a caller sent them, of which these are secret."""
    return texts_of({name: {_ENVELOPE: arguments[name]} for name in secret if name in arguments})


@contextmanager
def redacting(texts: Collection[str]) -> Generator[None]:
    """Whatever is logged meanwhile, in this context and in tasks and threads that begin in it, is without these texts
    and without tracebacks (`raincheck.domain.logs`)."""
    if not texts:
        yield
        return
    token = _withheld.set(_withheld.get() | frozenset(texts))
    try:
        yield
    finally:
        _withheld.reset(token)


def redacted_texts() -> frozenset[str]:
    """What nothing that is logged in this context may repeat."""
    return _withheld.get()


def without(text: str, secrets: Collection[str], mark: str = REDACTED) -> str:
    """The text with each of these withheld; all of it where they are too many to look for."""
    if len(secrets) > _MOST_TEXTS:
        return mark
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, mark)
    return text


def redact(told: _Told) -> _Told:
    """The text, or JSON value, without what nothing in this context may repeat: what is cut is cut after that, as a
    part of a secret is not found."""
    secrets = redacted_texts()
    return _scrub(told, secrets) if secrets else told


def redact_error(error: TaskError, secrets: Collection[str]) -> TaskError:
    """The error without these texts in its message and details."""
    if not secrets:
        return error
    message = without(error.message, secrets)
    return replace(error, message=message, details=cast("Mapping[str, Any]", _scrub(error.details, secrets)))


def redact_texts(outcome: Outcome, secrets: Collection[str]) -> Outcome:
    """The failed outcome without these texts, in whatever form it tells of its error."""
    return replace(
        outcome,
        error=outcome.error and redact_error(outcome.error, secrets),
        mcp_result=_scrub(outcome.mcp_result, secrets),
        rpc_error=_scrub(outcome.rpc_error, secrets),
    )


def _is_secret(part: Any, definitions: Any, depth: int) -> bool:
    if depth > 8 or not isinstance(part, Mapping | list):
        return False
    if isinstance(part, list):
        return any(_is_secret(each, definitions, depth + 1) for each in cast("list[Any]", part))
    members = cast("Mapping[str, Any]", part)
    if members.get("writeOnly") is True:
        return True
    reference: Any = members.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        return _is_secret(definitions.get(reference.removeprefix("#/$defs/")), definitions, depth + 1)
    return any(_is_secret(each, definitions, depth + 1) for each in members.values())


def _in_envelope(value: Any) -> bool:
    return isinstance(value, Mapping) and len(cast("Mapping[str, Any]", value)) == 1 and _ENVELOPE in value


def _members(outcome: Outcome) -> Collection[str]:
    value = outcome.value if outcome.mcp_result is None else outcome.mcp_result.get("structuredContent")
    return cast("Mapping[str, Any]", value).keys() if isinstance(value, Mapping) else ()


def _members_hidden(value: Any, secret: Collection[str]) -> Any:
    if not isinstance(value, Mapping):
        return value
    members = cast("Mapping[str, Any]", value)
    return {name: REDACTED if name in secret else member for name, member in members.items()}


def _gather(value: Any, found: set[str]) -> None:
    if len(found) > _MOST_TEXTS:
        return
    if isinstance(value, Mapping):
        for member in cast("Mapping[str, Any]", value).values():
            _gather(member, found)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            _gather(item, found)
    elif isinstance(value, str | int | float) and not isinstance(value, bool) and len(text := str(value)) >= _SHORTEST:
        found.add(text)
        # As it may stand in JSON, or in the repr of an exception.
        found.update((json.dumps(text)[1:-1], repr(text)[1:-1]))


def _scrub(value: Any, secrets: Collection[str]) -> Any:
    if isinstance(value, str):
        return without(value, secrets)
    if isinstance(value, Mapping):
        return {without(name, secrets): _scrub(member, secrets) for name, member in cast("Any", value).items()}
    if isinstance(value, list):
        return [_scrub(item, secrets) for item in cast("list[Any]", value)]
    return REDACTED if isinstance(value, int | float) and str(value) in secrets else value
