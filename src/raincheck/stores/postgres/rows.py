"""Between task records and rows of the PostgreSQL store.

Rows go in as JSON, many in one parameter: one statement writes whatever waits together. Text that PostgreSQL cannot
hold is escaped, in a way that keeps its order.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from raincheck.domain.task import Task, TaskStatus
from raincheck.ports.records import Record
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
from raincheck.stores.shared.timestamps import from_micros, micros_or_none, moment_or_none, to_micros

Row = tuple[Any, ...]

_STATUS = {str(status): status for status in TaskStatus}
row_text = json.JSONEncoder(separators=(",", ":")).encode
"""A row as its statement takes it."""

# A digest that begins so is that of a key which a task gives up when it ends; the statement `insert` knows it too.
_INFLIGHT = "inflight:"

# What cannot be stored (NUL, lone surrogates), and what stands for it.
_UNSTORABLE = re.compile("[\x00\x01\ud800-\udfff\ue000]")
_ESCAPED = re.compile("\x01[\x01\x02]|\ue000(?:[0-9a-f]{4}|g)")


def storable(text: str) -> str:
    """Text as PostgreSQL can hold it, different texts differently; the order by code points stays as it is."""
    return text if text.isprintable() and text.isascii() else _UNSTORABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character <= "\x01":
        return "\x01\x01" if character == "\x00" else "\x01\x02"
    # Surrogates stand between U+D7FF and U+E000, and hexadecimal digits before "g".
    return "\ue000g" if character == "\ue000" else f"\ue000{ord(character):04x}"


def text_from(stored: str) -> str:
    """The text again."""
    return stored if stored.isprintable() and stored.isascii() else _ESCAPED.sub(_unescape, stored)


def _unescape(match: re.Match[str]) -> str:
    mark, rest = match[0][0], match[0][1:]
    if mark == "\x01":
        return "\x00" if rest == "\x01" else "\x01"
    return "\ue000" if rest == "g" else chr(int(rest, 16))


def key_digest(task: Task) -> str | None:
    """What stands for the key of the task's scope in the index; None where it has no key."""
    if task.idempotency_key is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    first = task.scope.encode(errors="surrogatepass")
    digest.update(b"%d:" % len(first))
    digest.update(first)
    digest.update(task.idempotency_key.encode(errors="surrogatepass"))
    return f"{_INFLIGHT if task.inflight else ''}{digest.hexdigest()}"


def insert_row(task: Task, digest: str | None) -> str:
    """The row of a new task and the digest of its key, for the statement `insert`.

    Raises:
        TypeError: Its arguments or its outcome are not JSON values.
    """
    key = task.idempotency_key
    row = _changing(task)
    row |= {
        "scope": storable(task.scope),
        "operation_type": storable(task.operation_type),
        "created_at": to_micros(task.created_at),
        "deadline_at": to_micros(task.deadline_at),
        "ttl_seconds": task.ttl_seconds,
        "max_attempts": task.max_attempts,
        "retry_when_lost": task.retry_when_lost,
        "idempotency_key": None if key is None else storable(key),
        "key_digest": digest,
        "fingerprint": storable(task.fingerprint),
        "arguments": encode_arguments(task.arguments),
        "change_id": 0,
        "turn": -task.priority,
        "callback_url": None if task.callback_url is None else storable(task.callback_url),
        "caller": encode_caller(task.caller),
    }
    return row_text(row)


def replace_row(
    task: Task,
    change_id: int,
    seen_lease: int | None,
    records: Sequence[Record] = (),
    *,
    lease_length: int | None = None,
) -> str:
    """The next version of a task and the records beside it, for the statement `replace`; the lease that was seen, and
    the length of the one to come, in microseconds.

    Raises:
        TypeError: Its outcome, a question, its checkpoint or a record's value is not a JSON value.
    """
    row = _changing(task)
    row["change_id"] = change_id
    row["seen_lease"] = seen_lease
    if task.lease_until is not None:
        row["lease_length"] = lease_length
    if records:
        row["records"] = [record_members(each, change_id) for each in records]
    return row_text(row)


def _changing(task: Task) -> dict[str, Any]:
    deadline, lease = to_micros(task.deadline_at), micros_or_none(task.lease_until)
    error = task.outcome.error if task.outcome is not None else None
    return {
        "task_ref": storable(task.task_ref),
        "status": str(task.status),
        "version": task.version,
        "updated_at": to_micros(task.updated_at),
        "settled_at": micros_or_none(task.settled_at),
        "expires_at": micros_or_none(task.expires_at),
        "attempt": task.attempt,
        "fence": task.fence,
        "worker_id": None if task.worker_id is None else storable(task.worker_id),
        "lease_until": lease,
        "started_at": micros_or_none(task.started_at),
        "due_at": None if task.terminal else deadline if lease is None else min(deadline, lease),
        "error_code": None if error is None else storable(error.code),
        "progress": encode_progress(task.progress),
        "inputs": encode_inputs(task.inputs),
        "outcome": encode_outcome(task.outcome),
        "checkpoint": encode_value(task.checkpoint),
    }


def task_from(row: Row) -> Task:
    """The task of a row of `columns`."""
    (
        task_ref,
        scope,
        operation_type,
        created_at,
        deadline_at,
        ttl_seconds,
        max_attempts,
        retry_when_lost,
        idempotency_key,
        fingerprint,
        status,
        version,
        updated_at,
        settled_at,
        expires_at,
        attempt,
        fence,
        worker_id,
        lease_until,
        started_at,
        progress,
        arguments,
        inputs,
        outcome,
        turn,
        callback_url,
        caller,
        checkpoint,
    ) = row
    return Task(
        task_ref=text_from(task_ref),
        scope=text_from(scope),
        operation_type=text_from(operation_type),
        arguments=decode_arguments(arguments),
        created_at=from_micros(created_at),
        updated_at=from_micros(updated_at),
        deadline_at=from_micros(deadline_at),
        ttl_seconds=ttl_seconds,
        status=_STATUS[status],
        version=version,
        settled_at=moment_or_none(settled_at),
        expires_at=moment_or_none(expires_at),
        attempt=attempt,
        max_attempts=max_attempts,
        retry_when_lost=retry_when_lost,
        fence=fence,
        worker_id=None if worker_id is None else text_from(worker_id),
        lease_until=moment_or_none(lease_until),
        started_at=moment_or_none(started_at),
        idempotency_key=None if idempotency_key is None else text_from(idempotency_key),
        fingerprint=text_from(fingerprint),
        priority=-turn,
        callback_url=None if callback_url is None else text_from(callback_url),
        caller=decode_caller(text_from(scope), caller),
        checkpoint=decode_value(checkpoint),
        progress=decode_progress(progress),
        inputs=decode_inputs(inputs),
        outcome=decode_outcome(outcome),
    )


def summary_from(row: Row) -> TaskSummary:
    """The summary of a row of `summary`."""
    (
        created_at,
        task_ref,
        scope,
        operation_type,
        status,
        updated_at,
        deadline_at,
        settled_at,
        attempt,
        worker_id,
        progress,
        error_code,
    ) = row
    return TaskSummary(
        task_ref=text_from(task_ref),
        scope=text_from(scope),
        operation_type=text_from(operation_type),
        status=_STATUS[status],
        created_at=from_micros(created_at),
        updated_at=from_micros(updated_at),
        deadline_at=from_micros(deadline_at),
        settled_at=moment_or_none(settled_at),
        attempt=attempt,
        worker_id=None if worker_id is None else text_from(worker_id),
        progress=decode_progress(progress),
        error_code=None if error_code is None else text_from(error_code),
    )


def record_members(record: Record, change_id: int) -> dict[str, Any]:
    """The row of a record but for its version.

    Raises:
        TypeError: Its value is not a JSON value.
    """
    return {
        "kind": storable(record.kind),
        "key": storable(record.key),
        "value": encode_value(record.value),
        "change_id": change_id,
        "due_at": micros_or_none(record.due_at),
        "expires_at": micros_or_none(record.expires_at),
    }


def record_from(row: Row) -> Record:
    """The record of a row of `record_columns`."""
    kind, key, value, version, due_at, expires_at = row
    return Record(
        kind=text_from(kind),
        key=text_from(key),
        value=decode_value(value),
        version=version,
        due_at=moment_or_none(due_at),
        expires_at=moment_or_none(expires_at),
    )
