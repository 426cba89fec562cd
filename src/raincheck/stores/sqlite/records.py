"""Records of the SQLite store: rows and writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raincheck.domain.task import Task
from raincheck.ports.records import Record
from raincheck.stores.shared.payload_codec import decode_value, encode_value
from raincheck.stores.shared.timestamps import micros_or_none, moment_or_none
from raincheck.stores.sqlite.rows import SQL, Row

if TYPE_CHECKING:
    from raincheck.stores.sqlite.writes import Transaction


def record_row(record: Record) -> Row:
    """The row of a record.

    Raises:
        TypeError: Its value is not a JSON value.
    """
    due_at, expires_at = micros_or_none(record.due_at), micros_or_none(record.expires_at)
    return record.kind, record.key, record.version, due_at, expires_at, encode_value(record.value)


def record_from(row: Row) -> Record:
    """The record of a row of `record_columns`."""
    kind, key, version, due_at, expires_at, value = row
    return Record(
        kind=kind,
        key=key,
        value=decode_value(value),
        version=version,
        due_at=moment_or_none(due_at),
        expires_at=moment_or_none(expires_at),
    )


class PutRecord:
    """`RecordStore.put_record`."""

    __slots__ = ("_row", "done")

    def __init__(self, record: Record, done: asyncio.Future[bool]) -> None:
        self.done = done
        self._row = record_row(record)

    def apply(self, transaction: Transaction) -> bool:
        """See `Write.apply`."""
        kind, key, version, *rest = self._row
        if version == 1:
            return transaction.execute(SQL["insert_record"], self._row).rowcount == 1
        return transaction.execute(SQL["update_record"], (version, *rest, kind, key, version - 1)).rowcount == 1

    def changed(self, result: bool) -> Task | None:
        """See `Write.changed`: no task changes."""
        return None


class RemoveRecord:
    """`RecordStore.remove_record`."""

    __slots__ = ("_which", "done")

    def __init__(self, record: Record, done: asyncio.Future[bool]) -> None:
        self.done = done
        self._which = (record.kind, record.key, record.version)

    def apply(self, transaction: Transaction) -> bool:
        """See `Write.apply`."""
        return transaction.execute(SQL["delete_record"], self._which).rowcount == 1

    def changed(self, result: bool) -> Task | None:
        """See `Write.changed`: no task changes."""
        return None
