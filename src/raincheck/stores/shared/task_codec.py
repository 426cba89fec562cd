"""The fields of a task, each with its stored form: names as text, moments as microseconds, payloads as JSON.

A store says how it holds text, and places the members: in which column or attribute, inline or apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from raincheck.domain.task import KeyKind, Task, TaskStatus
from raincheck.ports.task_store import TaskSummary
from raincheck.stores.shared.payload_codec import (
    decode_arguments,
    decode_caller,
    decode_inputs,
    decode_outcome,
    decode_progress,
    decode_value,
    encode_arguments,
    encode_caller,
    encode_inputs,
    encode_outcome,
    encode_progress,
    encode_value,
)
from raincheck.stores.shared.timestamps import from_micros, to_micros


class _Form(NamedTuple):
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None


_PLAIN = _Form()
_MOMENT = _Form(to_micros, from_micros)
_STATUS = _Form(str, {str(status): status for status in TaskStatus}.__getitem__)


def _forms(text: _Form) -> tuple[dict[str, _Form], dict[str, _Form]]:
    fixed = {
        "scope": text,
        "operation_type": text,
        "created_at": _MOMENT,
        "deadline_at": _MOMENT,
        "ttl_seconds": _PLAIN,
        "max_attempts": _PLAIN,
        "retry_when_lost": _Form(None, bool),
        "idempotency_key": text,
        "key_kind": _Form(str, {str(kind): kind for kind in KeyKind}.__getitem__),
        "fingerprint": text,
        "priority": _PLAIN,
        "callback_url": text,
        "own_webhook": _Form(None, bool),
        # Is decoded with the scope.
        "caller": _Form(encode_caller),
        "arguments": _Form(encode_arguments, decode_arguments),
    }
    changing = {
        "status": _STATUS,
        "version": _PLAIN,
        "updated_at": _MOMENT,
        "settled_at": _MOMENT,
        "expires_at": _MOMENT,
        "attempt": _PLAIN,
        "fence": _PLAIN,
        "worker_id": text,
        "lease_until": _MOMENT,
        "started_at": _MOMENT,
        "due_at": _MOMENT,
        "error_code": text,
        "progress": _Form(encode_progress, decode_progress),
        "inputs": _Form(encode_inputs, decode_inputs),
        "outcome": _Form(encode_outcome, decode_outcome),
        "checkpoint": _Form(encode_value, decode_value),
        "awaiting_external": _Form(None, bool),
    }
    return fixed, changing


_DERIVED = {"due_at", "error_code"}
SUMMARY_FIELDS = frozenset(field.name for field in fields(TaskSummary))
"""What a summary is made of."""


class TaskCodec:
    """Between tasks and their members as a store keeps them.

    Args:
        storable: A text as the store can hold it.
        text_from: The text again.
    """

    def __init__(
        self, storable: Callable[[str], Any] | None = None, text_from: Callable[[Any], str] | None = None
    ) -> None:
        fixed, changing = _forms(_Form(storable, text_from))
        self._fixed = [(name, form.encode) for name, form in fixed.items()]
        self._changing = [(name, form.encode) for name, form in changing.items()]
        decoded = [(name, form.decode) for name, form in (fixed | changing).items() if form.decode is not None]
        self._task = [(name, decode) for name, decode in decoded if name not in _DERIVED]
        self._summary = [(name, decode) for name, decode in decoded if name in SUMMARY_FIELDS]

    def fixed(self, task: Task) -> dict[str, Any]:
        """What is written once; `task_ref`, the key, is not among it.

        Raises:
            TypeError: The arguments or the caller are not JSON values.
        """
        return _encoded(task, self._fixed)

    def changing(self, task: Task) -> dict[str, Any]:
        """What is written with every version.

        Raises:
            TypeError: The outcome, the checkpoint or a question is not a JSON value.
        """
        return _encoded(task, self._changing)

    def task(self, stored: dict[str, Any]) -> Task:
        """The task of its members but for those that are derived; takes the mapping over."""
        _decode(stored, self._task)
        stored["caller"] = decode_caller(stored["scope"], stored["caller"])
        if stored["inputs"] is None:
            stored["inputs"] = ()
        return Task(**stored)

    def summary(self, stored: dict[str, Any]) -> TaskSummary:
        """The summary of its members; takes the mapping over."""
        _decode(stored, self._summary)
        return TaskSummary(**stored)


def _encoded(task: Task, forms: Sequence[tuple[str, Callable[[Any], Any] | None]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, encode in forms:
        value = getattr(task, name)
        members[name] = value if value is None or encode is None else encode(value)
    return members


def _decode(stored: dict[str, Any], forms: Sequence[tuple[str, Callable[[Any], Any]]]) -> None:
    for name, decode in forms:
        value = stored[name]
        if value is not None:
            stored[name] = decode(value)
