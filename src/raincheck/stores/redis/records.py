"""Between notes and the hashes of the Redis store (lua/note.lua)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raincheck.ports.records import Note
from raincheck.stores.redis.rows import stored_text, text_from
from raincheck.stores.redis.scripts import encode_command
from raincheck.stores.shared.payload_codec import decode_value, encode_value
from raincheck.stores.shared.timestamps import from_micros, micros_or_none

__all__ = ["NO_NOTE", "get_command", "note_from", "notes_from", "put_row", "remove_row", "written_row"]

_NONE = b"-"

NO_NOTE = [b""]
"""What replace.lua takes where no note is written with the task."""


def put_row(note: Note) -> list[bytes]:
    """A note as put_note.lua takes it after the nonce.

    Raises:
        TypeError: Its value is not a JSON value.
    """
    return [b"%d" % note.version, b"%d" % (note.version - 1), *written_row(note)]


def written_row(note: Note) -> list[bytes]:
    """A note as it is written over whatever is there.

    Raises:
        TypeError: Its value is not a JSON value.
    """
    times = [micros_or_none(note.due_at), micros_or_none(note.expires_at)]
    value = (encode_value(note.value) or "").encode()
    return [note.kind.encode(), stored_text(note.key), *(_NONE if at is None else b"%d" % at for at in times), value]


def remove_row(note: Note) -> list[bytes]:
    """A note as remove_note.lua takes it after the nonce."""
    return [b"%d" % note.version, note.kind.encode(), stored_text(note.key)]


def get_command(root: bytes, kind: str, key: str) -> bytes:
    """What asks for one note; `note_from` reads the answer."""
    return encode_command((b"HMGET", b"%bnote:%b:%b" % (root, kind.encode(), stored_text(key)), b"n", b"v"))


def note_from(kind: str, key: str, fields: Sequence[bytes | None]) -> Note | None:
    """The note of the values of n and v; None where it is not there, or removed."""
    state, value = fields
    if state is None or value is None:
        return None
    version, *times = state.split(b" ")
    due_at, expires_at = (None if at == _NONE else from_micros(int(at)) for at in times)
    return Note(
        kind=kind,
        key=key,
        value=decode_value(value.decode() or None),
        version=int(version),
        due_at=due_at,
        expires_at=expires_at,
    )


def notes_from(kind: str, answer: list[Any]) -> Sequence[Note]:
    """The notes of an answer of notes.lua."""
    each = iter(answer)
    found = (note_from(kind, text_from(key), fields) for key, *fields in zip(each, each, each, strict=True))
    return [note for note in found if note is not None]
