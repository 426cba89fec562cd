"""Between task records and rows of the SQLite store."""

from __future__ import annotations

import re
import sqlite3
from typing import Any, NamedTuple

from raincheck.domain.task import Task
from raincheck.ports.task_store import TaskSummary
from raincheck.stores.shared.sql_files import load_statements
from raincheck.stores.shared.task_codec import TaskCodec

SQL = load_statements("sqlite", "queries.sql")
"""The statements of the SQLite store by name."""

ARGUMENTS, INPUTS, OUTCOME, CHECKPOINT, CALLER = 1, 2, 4, 8, 16
"""The parts of a task that are kept apart where they are large: bits of `task.apart`, and `payload.part`."""

Row = tuple[Any, ...]
Parts = tuple[tuple[int, str], ...]

# In characters. A row that fits one page with all its parts is read and written as one.
_INLINE = 1024

_PARTS = {"arguments": ARGUMENTS, "inputs": INPUTS, "outcome": OUTCOME, "checkpoint": CHECKPOINT, "caller": CALLER}
_COLUMNS, _SUMMARY = (re.findall(r"\w+", SQL[name]) for name in ("columns", "summary"))


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


_CODEC = TaskCodec(storable, _text)


def insert_row(task: Task) -> tuple[Row, Parts]:
    """The row of a new task, and the parts of it that are kept apart.

    Raises:
        TypeError: Its arguments or its outcome are not JSON values.
    """
    members = _CODEC.fixed(task) | _CODEC.changing(task)
    parts, apart = _take_apart(members)
    return (task.task_ref, *members.values(), apart), parts


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
    members = _CODEC.changing(task)
    parts, apart = _take_apart(members)
    return Replacement(task.task_ref, task.version, members["status"], tuple(members.values()), parts, apart)


def _take_apart(members: dict[str, Any]) -> tuple[Parts, int]:
    parts: Parts = ()
    apart = 0
    for name, part in _PARTS.items():
        body = members.get(name)
        if body is not None and len(body) > _INLINE:
            parts, apart, members[name] = (*parts, (part, body)), apart | part, None
    return parts, apart


def task_from(row: Row, connection: sqlite3.Connection) -> Task:
    """The task of a row of `columns`; the parts that are kept apart are read with that connection.

    Where there are such parts (the last column is not 0), the row must have been read in the transaction under way.
    """
    stored = dict(zip(_COLUMNS, row, strict=True))
    task_id, apart = stored.pop("id"), stored.pop("apart")
    if apart:
        for name, part in _PARTS.items():
            if apart & part:
                stored[name] = _part(connection, task_id, part)
    return _CODEC.task(stored)


def _part(connection: sqlite3.Connection, task_id: int, part: int) -> str:
    return connection.execute(SQL["payload"], (task_id, part)).fetchall()[0][0]


def summary_from(row: Row) -> TaskSummary:
    """The summary of a row of `summary`."""
    return _CODEC.summary(dict(zip(_SUMMARY, row, strict=True)))
