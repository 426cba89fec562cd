"""Whether what a caller answers is an answer to the question: the MCP result that its request has, and its schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from raincheck.errors import ConfigurationError, InvalidParameters
from raincheck.operations.bounded_work import TooMuchWork, bounded_work
from raincheck.operations.schema import ParameterSchema
from raincheck.operations.untrusted_json import NotJson, plain_json
from raincheck.operations.validation_messages import capped

_ACTIONS = ("accept", "decline", "cancel")
_ROLES = ("user", "assistant")
_SECONDS = 0.1


def checked_answer(key: str, method: str, params: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """The answer as the operation gets it.

    Of an elicitation that is `{"action", "content"}`, the content in the question's `requestedSchema` (with its
    defaults, and slips mended) and only where the action is "accept"; of a sampling request a message. A schema that is
    none, or whose patterns cannot be matched in linear time, is left to the operation to check.

    Raises:
        InvalidParameters: It is none; one line names the question, the place and what is allowed.
    """
    subject = f"the answer to {capped(key, 80)!r}"
    try:
        given, _ = plain_json(answer)
    except NotJson as error:
        raise InvalidParameters(f"{subject}: {error}") from None
    if method == "elicitation/create":
        return _elicited(subject, params, given)
    if method == "sampling/createMessage":
        _check_message(subject, given)
    return given


def _elicited(subject: str, params: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    action, content = given.get("action"), given.get("content")
    if action not in _ACTIONS:
        raise InvalidParameters(f"{subject}: action must be one of {', '.join(_ACTIONS)}")
    rest = {name: value for name, value in given.items() if name != "content"}
    if action != "accept" or params.get("mode") == "url":
        return rest
    if content is not None and not isinstance(content, dict):
        raise InvalidParameters(f"{subject}: content must be a JSON object")
    fitting = _fitting(subject, params.get("requestedSchema"), cast("dict[str, Any]", content or {}))
    return rest if content is None and not fitting else {**rest, "content": fitting}


def _fitting(subject: str, schema: Any, content: dict[str, Any]) -> dict[str, Any]:
    try:
        checked = _schema(json.dumps(schema)) if isinstance(schema, dict) else None
        if checked is None:
            return content
        with bounded_work(_SECONDS):
            return checked.validate(content)
    except TooMuchWork:
        raise InvalidParameters(f"{subject}: content takes too long to check; send less") from None
    except InvalidParameters as error:
        problems = (f"content.{each['parameter']}: {each['problem']}" for each in error.details["errors"][:3])
        raise InvalidParameters(f"{subject}: {'; '.join(problems)}", details=error.details) from None


@lru_cache(maxsize=128)
def _schema(text: str) -> ParameterSchema | None:
    try:
        # What the form does not ask for is no mistake (JSON Schema), and nothing to the operation.
        return ParameterSchema({"additionalProperties": True, **json.loads(text)}, "answer")
    except ConfigurationError:
        return None


def _check_message(subject: str, given: Mapping[str, Any]) -> None:
    if given.get("role") not in _ROLES:
        raise InvalidParameters(f"{subject}: role must be one of {', '.join(_ROLES)}")
    if not isinstance(given.get("content"), dict | list):
        raise InvalidParameters(f"{subject}: content must be a JSON object or a list of them")
    if not isinstance(given.get("model"), str):
        raise InvalidParameters(f"{subject}: model must be a text")
