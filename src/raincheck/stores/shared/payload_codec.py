"""The JSON forms of what a task holds: one encoding for every store.

Arguments, questions and outcomes are JSON values (`raincheck.domain.task`); what comes back from a store is always a
fresh copy, so that no reader can change what another one sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from raincheck.domain.caller import Caller
from raincheck.domain.task import InputRequest, LargeResult, Outcome, Progress, Raised, TaskError


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    raise TypeError(f"{type(value).__name__} is not a JSON value")


_encode = json.JSONEncoder(separators=(",", ":"), default=_plain).encode
_decode = json.JSONDecoder().decode


def encode_arguments(arguments: Mapping[str, Any]) -> str:
    """A JSON object, ASCII only (so that any store's text can hold it).

    Raises:
        TypeError: A member is not a JSON value.
    """
    return _encode(arguments)


def decode_arguments(text: str) -> dict[str, Any]:
    """The arguments again."""
    return _decode(text)


def encode_caller(caller: Caller | None) -> str | None:
    """Who called, as JSON without its scope; None where nothing is known."""
    return None if caller is None else _encode(caller.whole())


def decode_caller(scope: str, text: str | None) -> Caller | None:
    """Who called, again."""
    return None if text is None else Caller.of(scope, _decode(text))


def encode_inputs(inputs: tuple[InputRequest, ...]) -> str | None:
    """The questions as JSON, None where there are none."""
    if not inputs:
        return None
    return _encode([[each.key, each.method, each.params, each.response] for each in inputs])


def decode_inputs(text: str | None) -> tuple[InputRequest, ...]:
    """The questions again."""
    if text is None:
        return ()
    return tuple(
        InputRequest(key=key, method=method, params=params, response=response)
        for key, method, params, response in _decode(text)
    )


def encode_outcome(outcome: Outcome | None) -> str | None:
    """The outcome as JSON, without its empty members; None where there is no outcome."""
    if outcome is None:
        return None
    members: dict[str, Any] = {}
    if outcome.value is not None:
        members["value"] = outcome.value
    if outcome.mcp_result is not None:
        members["mcp_result"] = outcome.mcp_result
    if outcome.error is not None:
        members["error"] = outcome.error.public()
        if outcome.error.raised is not None:
            members["raised"] = outcome.error.raised
    if outcome.rpc_error is not None:
        members["rpc_error"] = outcome.rpc_error
    if outcome.secret:
        members["secret"] = outcome.secret
    if outcome.large is not None:
        members["large"] = asdict(outcome.large)
    return _encode(members)


def decode_outcome(text: str | None) -> Outcome | None:
    """The outcome again."""
    if text is None:
        return None
    members: dict[str, Any] = _decode(text)
    error, raised, large = members.get("error"), members.get("raised"), members.get("large")
    return Outcome(
        value=members.get("value"),
        mcp_result=members.get("mcp_result"),
        error=TaskError(**error, raised=Raised(*raised) if raised else None) if error is not None else None,
        rpc_error=members.get("rpc_error"),
        secret=tuple(members.get("secret", ())),
        large=LargeResult(**large) if large is not None else None,
    )


def encode_progress(progress: Progress | None) -> str | None:
    """The progress as JSON."""
    return None if progress is None else _encode([progress.fraction, progress.message])


def decode_progress(text: str | None) -> Progress | None:
    """The progress again."""
    if text is None:
        return None
    fraction, message = _decode(text)
    return Progress(fraction=fraction, message=message)


def encode_value(value: Any) -> str | None:
    """Any JSON value as JSON: what an operation saved, what a record holds. None is no value, and no text."""
    return None if value is None else _encode(value)


def decode_value(text: str | None) -> Any:
    """It again."""
    return None if text is None else _decode(text)
