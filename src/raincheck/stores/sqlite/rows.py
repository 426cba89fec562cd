"""Between task records and rows of the SQLite store: hand-written tuples, since every call goes through here."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from typing import Any, NamedTuple

from raincheck.domain.task import Task, TaskStatus
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
from raincheck.stores.shared.sql_files import load_statements
from raincheck.stores.shared.timestamps import EPOCH, from_micros, micros_or_none, moment_or_none, to_micros

SQL = load_statements("sqlite", "queries.sql")
"""The statements of the SQLite store by name."""

ARGUMENTS, INPUTS, OUTCOME, CHECKPOINT, CALLER = 1, 2, 4, 8, 16
"""The parts of a task that are kept apart where they are large: bits of `task.apart`, and `payload.part`."""

Row = tuple[Any, ...]
Parts = tuple[tuple[int, str], ...]

# In characters. A row that fits one page with all its parts is read and written as one.
_INLINE = 1024

_STATUS = {str(status): status for status in TaskStatus}


def storable(text: str) -> str | bytes:
    """Text as SQLite can hold it: a string that is not Unicode text (lone surrogates) becomes a blob."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")
    return text


def _text(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode(errors="surrogatepass")


def insert_row(task: Task) -> tuple[Row, Parts]:
    """The row of a new task, and the parts of it that are kept apart.

    Raises:
        TypeError: Its arguments or its outcome are not JSON values.
    """
    columns, parts = _changing(task)
    arguments: str | None = encode_arguments(task.arguments)
    if len(arguments) > _INLINE:
        parts = (*parts, (ARGUMENTS, arguments))
        arguments = None
    caller, large_caller = encode_caller(task.caller), False
    if caller is not None and len(caller) > _INLINE:
        parts, caller, large_caller = (*parts, (CALLER, caller)), None, True
    *changing, inputs, outcome, checkpoint, apart = columns
    row = (
        task.task_ref,
        storable(task.scope),
        storable(task.operation_type),
        to_micros(task.created_at),
        to_micros(task.deadline_at),
        task.ttl_seconds,
        task.max_attempts,
        task.retry_when_lost,
        None if task.idempotency_key is None else storable(task.idempotency_key),
        task.fingerprint,
        *changing,
        arguments,
        inputs,
        outcome,
        checkpoint,
        apart | (ARGUMENTS if arguments is None else 0) | (CALLER if large_caller else 0),
        task.priority,
        None if task.callback_url is None else storable(task.callback_url),
        caller,
    )
    return row, parts


class Replacement(NamedTuple):
    """The next version of a task, as the statements `replace` (and `replace_same_status`) take it."""

    task_ref: str
    version: int
    status: str
    columns: Row
    parts: Parts
    apart: int


def replacement(task: Task) -> Replacement:
    """What changes with the task's next version.

    Raises:
        TypeError: Its outcome or a question is not a JSON value.
    """
    columns, parts = _changing(task)
    return Replacement(task.task_ref, task.version, columns[0], columns[:-1], parts, columns[-1])


def _changing(task: Task) -> tuple[Row, Parts]:
    deadline, lease = to_micros(task.deadline_at), micros_or_none(task.lease_until)
    due = None if task.terminal else deadline if lease is None else min(deadline, lease)
    inputs, outcome = encode_inputs(task.inputs), encode_outcome(task.outcome)
    checkpoint = encode_value(task.checkpoint)
    parts: Parts = ()
    apart = 0
    if inputs is not None and len(inputs) > _INLINE:
        parts, apart, inputs = ((INPUTS, inputs),), INPUTS, None
    if outcome is not None and len(outcome) > _INLINE:
        parts, apart, outcome = (*parts, (OUTCOME, outcome)), apart | OUTCOME, None
    if checkpoint is not None and len(checkpoint) > _INLINE:
        parts, apart, checkpoint = (*parts, (CHECKPOINT, checkpoint)), apart | CHECKPOINT, None
    error = task.outcome.error if task.outcome is not None else None
    columns = (
        str(task.status),
        task.version,
        to_micros(task.updated_at),
        micros_or_none(task.settled_at),
        micros_or_none(task.expires_at),
        task.attempt,
        task.fence,
        None if task.worker_id is None else storable(task.worker_id),
        lease,
        micros_or_none(task.started_at),
        due,
        None if error is None else error.code,
        encode_progress(task.progress),
        inputs,
        outcome,
        checkpoint,
        apart,
    )
    return columns, parts


def task_from(row: Row, connection: sqlite3.Connection) -> Task:
    """The task of a row of `columns`; the parts that are kept apart are read with that connection.

    Where there are such parts (the last column is not 0), the row must have been read in the transaction under way.
    """
    (
        task_id,
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
        checkpoint,
        priority,
        callback_url,
        caller,
        apart,
    ) = row
    if apart:
        if apart & ARGUMENTS:
            arguments = _part(connection, task_id, ARGUMENTS)
        if apart & INPUTS:
            inputs = _part(connection, task_id, INPUTS)
        if apart & OUTCOME:
            outcome = _part(connection, task_id, OUTCOME)
        if apart & CHECKPOINT:
            checkpoint = _part(connection, task_id, CHECKPOINT)
        if apart & CALLER:
            caller = _part(connection, task_id, CALLER)
    return Task(
        task_ref=task_ref,
        scope=_text(scope),
        operation_type=_text(operation_type),
        arguments=decode_arguments(arguments),
        created_at=EPOCH + timedelta(microseconds=created_at),
        updated_at=EPOCH + timedelta(microseconds=updated_at),
        deadline_at=EPOCH + timedelta(microseconds=deadline_at),
        ttl_seconds=ttl_seconds,
        status=_STATUS[status],
        version=version,
        settled_at=moment_or_none(settled_at),
        expires_at=moment_or_none(expires_at),
        attempt=attempt,
        max_attempts=max_attempts,
        retry_when_lost=bool(retry_when_lost),
        fence=fence,
        worker_id=None if worker_id is None else _text(worker_id),
        lease_until=moment_or_none(lease_until),
        started_at=moment_or_none(started_at),
        idempotency_key=None if idempotency_key is None else _text(idempotency_key),
        fingerprint=fingerprint,
        priority=priority,
        callback_url=None if callback_url is None else _text(callback_url),
        caller=decode_caller(_text(scope), caller),
        checkpoint=decode_value(checkpoint),
        progress=decode_progress(progress),
        inputs=decode_inputs(inputs),
        outcome=decode_outcome(outcome),
    )


def _part(connection: sqlite3.Connection, task_id: int, part: int) -> str:
    return connection.execute(SQL["payload"], (task_id, part)).fetchall()[0][0]


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
        task_ref=task_ref,
        scope=_text(scope),
        operation_type=_text(operation_type),
        status=_STATUS[status],
        created_at=from_micros(created_at),
        updated_at=from_micros(updated_at),
        deadline_at=from_micros(deadline_at),
        settled_at=moment_or_none(settled_at),
        attempt=attempt,
        worker_id=None if worker_id is None else _text(worker_id),
        progress=decode_progress(progress),
        error_code=error_code,
    )
