"""The records of the memory store; the store holds its lock around each of these."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from raincheck.ports.records import Record
from raincheck.stores.memory.timer_heap import TimerHeap
from raincheck.stores.shared.payload_codec import decode_value, encode_value


@dataclass(slots=True)
class _Kept:
    """A stored record; its own value is never handed out, a fresh one is made of the JSON."""

    record: Record
    value: str | None

    def fresh(self) -> Record:
        return replace(self.record, value=decode_value(self.value))


class MemoryRecords:
    """See `raincheck.ports.records.RecordStore`."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._keys: dict[str, list[str]] = {}
        self._due: dict[str, TimerHeap[str, datetime]] = {}
        self._expiring: TimerHeap[tuple[str, str], datetime] = TimerHeap()

    def get(self, kind: str, key: str) -> Record | None:
        """One record."""
        kept = self._kept.get((kind, key))
        return None if kept is None else kept.fresh()

    def put(self, record: Record) -> bool:
        """Write it where its version is the next one."""
        kept = self._kept.get((record.kind, record.key))
        if record.version != (1 if kept is None else kept.record.version + 1):
            return False
        self._write(record, encode_value(record.value))
        return True

    def write(self, records: Sequence[Record]) -> None:
        """Write them over whatever is there: all, or none where one has no JSON value."""
        for record, value in [(each, encode_value(each.value)) for each in records]:
            kept = self._kept.get((record.kind, record.key))
            self._write(replace(record, version=1 if kept is None else kept.record.version + 1), value)

    def remove(self, record: Record) -> bool:
        """Remove that version."""
        kept = self._kept.get((record.kind, record.key))
        if kept is None or kept.record.version != record.version:
            return False
        self._forget(record.kind, record.key)
        return True

    def due(self, kind: str, until: datetime, limit: int) -> Sequence[Record]:
        """What has come due."""
        heap = self._due.get(kind)
        return [] if heap is None else [self._kept[kind, key].fresh() for _, key in heap.first(limit, until)]

    def page(self, kind: str, after: str, limit: int) -> Sequence[Record]:
        """What comes after a key."""
        keys = self._keys.get(kind, [])
        start = bisect_right(keys, after)
        return [self._kept[kind, key].fresh() for key in keys[start : start + limit]]

    def purge(self, now: datetime, limit: int) -> None:
        """Remove what has expired."""
        for _, (kind, key) in self._expiring.first(limit, now):
            self._forget(kind, key)

    def _write(self, record: Record, value: str | None) -> None:
        place = (record.kind, record.key)
        if place not in self._kept:
            insort(self._keys.setdefault(record.kind, []), record.key)
        self._kept[place] = _Kept(record, value)
        due = self._due.setdefault(record.kind, TimerHeap())
        if record.due_at is None:
            due.discard(record.key)
        else:
            due.put(record.key, record.due_at)
        if record.expires_at is None:
            self._expiring.discard(place)
        else:
            self._expiring.put(place, record.expires_at)

    def _forget(self, kind: str, key: str) -> None:
        del self._kept[kind, key]
        self._keys[kind].remove(key)
        self._due[kind].discard(key)
        self._expiring.discard((kind, key))
