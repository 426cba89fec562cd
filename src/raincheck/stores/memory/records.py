"""The notes of the memory store; the store holds its lock around each of these."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from raincheck.ports.records import Note
from raincheck.stores.memory.timer_heap import Agenda
from raincheck.stores.shared.payload_codec import decode_value, encode_value

__all__ = ["MemoryNotes"]


@dataclass(slots=True)
class _Kept:
    """A stored note; its own value is never handed out, a fresh one is made of the JSON."""

    note: Note
    value: str | None

    def fresh(self) -> Note:
        return replace(self.note, value=decode_value(self.value))


class MemoryNotes:
    """See `raincheck.ports.records.NoteStore`."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._keys: dict[str, list[str]] = {}
        self._due: dict[str, Agenda[str, datetime]] = {}
        self._expiring: Agenda[tuple[str, str], datetime] = Agenda()

    def get(self, kind: str, key: str) -> Note | None:
        """One note."""
        kept = self._kept.get((kind, key))
        return None if kept is None else kept.fresh()

    def put(self, note: Note) -> bool:
        """Write it where its version is the next one."""
        kept = self._kept.get((note.kind, note.key))
        if note.version != (1 if kept is None else kept.note.version + 1):
            return False
        self._write(note)
        return True

    def write(self, note: Note) -> None:
        """Write it over whatever is there."""
        kept = self._kept.get((note.kind, note.key))
        self._write(replace(note, version=1 if kept is None else kept.note.version + 1))

    def remove(self, note: Note) -> bool:
        """Remove that version."""
        kept = self._kept.get((note.kind, note.key))
        if kept is None or kept.note.version != note.version:
            return False
        self._forget(note.kind, note.key)
        return True

    def due(self, kind: str, until: datetime, limit: int) -> Sequence[Note]:
        """What has come due."""
        agenda = self._due.get(kind)
        return [] if agenda is None else [self._kept[kind, key].fresh() for _, key in agenda.first(limit, until)]

    def page(self, kind: str, after: str, limit: int) -> Sequence[Note]:
        """What comes after a key."""
        keys = self._keys.get(kind, [])
        start = bisect_right(keys, after)
        return [self._kept[kind, key].fresh() for key in keys[start : start + limit]]

    def purge(self, now: datetime, limit: int) -> None:
        """Remove what has expired."""
        for _, (kind, key) in self._expiring.first(limit, now):
            self._forget(kind, key)

    def _write(self, note: Note) -> None:
        place = (note.kind, note.key)
        value = encode_value(note.value)
        if place not in self._kept:
            insort(self._keys.setdefault(note.kind, []), note.key)
        self._kept[place] = _Kept(note, value)
        due = self._due.setdefault(note.kind, Agenda())
        if note.due_at is None:
            due.discard(note.key)
        else:
            due.put(note.key, note.due_at)
        if note.expires_at is None:
            self._expiring.discard(place)
        else:
            self._expiring.put(place, note.expires_at)

    def _forget(self, kind: str, key: str) -> None:
        del self._kept[kind, key]
        self._keys[kind].remove(key)
        self._due[kind].discard(key)
        self._expiring.discard((kind, key))
