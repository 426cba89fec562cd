"""The notes of the SQLite store: their rows, and what can be written of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raincheck.domain.task import Task
from raincheck.ports.records import Note
from raincheck.stores.shared.payload_codec import decode_value, encode_value
from raincheck.stores.shared.timestamps import micros_or_none, moment_or_none
from raincheck.stores.sqlite.rows import SQL, Row

if TYPE_CHECKING:
    from raincheck.stores.sqlite.writes import Transaction

__all__ = ["PutNote", "RemoveNote", "note_from", "note_row"]


def note_row(note: Note) -> Row:
    """The row of a note.

    Raises:
        TypeError: Its value is not a JSON value.
    """
    due_at, expires_at = micros_or_none(note.due_at), micros_or_none(note.expires_at)
    return note.kind, note.key, note.version, due_at, expires_at, encode_value(note.value)


def note_from(row: Row) -> Note:
    """The note of a row of `note_columns`."""
    kind, key, version, due_at, expires_at, value = row
    return Note(
        kind=kind,
        key=key,
        value=decode_value(value),
        version=version,
        due_at=moment_or_none(due_at),
        expires_at=moment_or_none(expires_at),
    )


class PutNote:
    """`NoteStore.put_note`."""

    __slots__ = ("_row", "done")

    def __init__(self, note: Note, done: asyncio.Future[bool]) -> None:
        self.done = done
        self._row = note_row(note)

    def apply(self, transaction: Transaction) -> bool:
        """See `Write.apply`."""
        kind, key, version, *rest = self._row
        if version == 1:
            return transaction.execute(SQL["insert_note"], self._row).rowcount == 1
        return transaction.execute(SQL["update_note"], (version, *rest, kind, key, version - 1)).rowcount == 1

    def changed(self, result: bool) -> Task | None:
        """See `Write.changed`: no task changes."""
        return None


class RemoveNote:
    """`NoteStore.remove_note`."""

    __slots__ = ("_which", "done")

    def __init__(self, note: Note, done: asyncio.Future[bool]) -> None:
        self.done = done
        self._which = (note.kind, note.key, note.version)

    def apply(self, transaction: Transaction) -> bool:
        """See `Write.apply`."""
        return transaction.execute(SQL["delete_note"], self._which).rowcount == 1

    def changed(self, result: bool) -> Task | None:
        """See `Write.changed`: no task changes."""
        return None
