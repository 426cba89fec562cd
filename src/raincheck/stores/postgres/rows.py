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

from raincheck.domain.task import Task
from raincheck.ports.records import Record
from raincheck.ports.task_store import TaskSummary
from raincheck.stores.shared.payload_codec import decode_value, encode_value
from raincheck.stores.shared.sql_files import load_statements
from raincheck.stores.shared.task_codec import TaskCodec
from raincheck.stores.shared.timestamps import micros_or_none, moment_or_none

Row = tuple[Any, ...]

_STATEMENTS = load_statements("postgres", "queries.sql")
_COLUMNS, _SUMMARY = (re.findall(r"\w+", _STATEMENTS[name]) for name in ("columns", "summary"))
row_text = json.JSONEncoder(separators=(",", ":")).encode
"""A row as its statement takes it."""

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


_CODEC = TaskCodec(storable, text_from)


def key_digest(task: Task) -> str | None:
    """What stands for the key of the task's scope in the index; None where it has no key."""
    if task.idempotency_key is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    first = task.scope.encode(errors="surrogatepass")
    digest.update(b"%d:" % len(first))
    digest.update(first)
    digest.update(b"%b:" % task.key_kind.encode())
    digest.update(task.idempotency_key.encode(errors="surrogatepass"))
    return digest.hexdigest()


def insert_row(task: Task, digest: str | None) -> str:
    """The row of a new task and the digest of its key, for the statement `insert`.

    Raises:
        TypeError: Its arguments or its outcome are not JSON values.
    """
    row = _CODEC.fixed(task) | _CODEC.changing(task)
    row |= {"task_ref": storable(task.task_ref), "turn": -row.pop("priority"), "key_digest": digest, "change_id": 0}
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
    row = _CODEC.changing(task)
    row |= {"task_ref": storable(task.task_ref), "change_id": change_id, "seen_lease": seen_lease}
    if task.lease_until is not None:
        row["lease_length"] = lease_length
    if records:
        row["records"] = [record_members(each, change_id) for each in records]
    return row_text(row)


def task_from(row: Row) -> Task:
    """The task of a row of `columns`."""
    stored = dict(zip(_COLUMNS, row, strict=True))
    stored["task_ref"] = text_from(stored["task_ref"])
    stored["priority"] = -stored.pop("turn")
    return _CODEC.task(stored)


def summary_from(row: Row) -> TaskSummary:
    """The summary of a row of `summary`."""
    stored = dict(zip(_SUMMARY, row, strict=True))
    stored["task_ref"] = text_from(stored["task_ref"])
    return _CODEC.summary(stored)


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
