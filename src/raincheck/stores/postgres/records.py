"""Records on PostgreSQL: those that are written or read at the same time go together, as tasks do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from raincheck.errors import StoreUnavailable
from raincheck.ports.records import Record
from raincheck.stores.postgres.batches import Request
from raincheck.stores.postgres.connections import Connection
from raincheck.stores.postgres.rows import Row, record_from, record_members, row_text, storable
from raincheck.stores.postgres.writes import patience, refuse

_Place = tuple[str, str]
_CHANGED_SINCE = "the connection was lost, and the record was changed by others since"


class GetRecord(Request):
    """`RecordStore.get_record`."""

    __slots__ = ("place",)

    def __init__(self, kind: str, key: str, done: asyncio.Future[Record | None]) -> None:
        super().__init__(done, len(key))
        self.place = storable(kind), storable(key)


class GetRecords:
    """Serves the reading of single records."""

    def __init__(self, sql: Mapping[str, LiteralString]) -> None:
        self._sql = sql

    async def __call__(self, connection: Connection, gets: Sequence[GetRecord], _: float) -> None:
        """Answer them."""
        cursor = await connection.execute(self._sql["get_records"], _places(gets))
        rows: dict[_Place, Row] = {row[:2]: row for row in await cursor.fetchall()}
        for get in gets:
            if not get.done.done():
                row = rows.get(get.place)
                # A record for each: no reader can change what another one sees.
                get.done.set_result(None if row is None else record_from(row))


class WriteRecord(Request):
    """`RecordStore.put_record`, or `RecordStore.remove_record` where it `removes`.

    Attributes:
        stored: The version that it goes over, 0 where there is to be none.
    """

    __slots__ = ("change_id", "place", "removes", "row", "stored")

    writes = True

    def __init__(self, record: Record, done: asyncio.Future[bool], *, removes: bool) -> None:
        self.place = storable(record.kind), storable(record.key)
        self.change_id = random.getrandbits(62)
        self.removes = removes
        self.stored = record.version if removes else record.version - 1
        members = record_members(record, self.change_id)
        self.row = row_text({**members, "stored": self.stored, "removes": removes})
        super().__init__(done, len(self.row))


class WriteRecords:
    """Serves writes of records that no task is written with."""

    def __init__(self, sql: Mapping[str, LiteralString], place: str) -> None:
        self._sql = sql
        self._place = place

    async def __call__(self, connection: Connection, writes: Sequence[WriteRecord], seconds: float) -> None:
        """Answer them; one over another version than the first of its record is left without an answer, for its
        turn."""
        first = {each.place: each for each in reversed(writes)}
        rows = f"[{','.join(each.row for each in first.values())}]"
        cursor = await connection.execute(self._sql["write_records"], {"rows": rows, "patience": patience(seconds)})
        written: set[_Place] = {row[:2] for row in await cursor.fetchall()}
        doubtful: list[WriteRecord] = []
        for each in writes:
            sent = first[each.place]
            if sent is each and each.place in written:
                _answer(each, True)
            elif sent.stored == each.stored:
                # Of rivals for one version one is written, or none can be.
                if each.doubtful:
                    doubtful.append(each)
                else:
                    _answer(each, False)
        if doubtful:
            await self._resolve(connection, doubtful)

    async def _resolve(self, connection: Connection, doubtful: Sequence[WriteRecord]) -> None:
        """Answer those that were sent before, and are not written now: it may be because they were then."""
        cursor = await connection.execute(self._sql["last_record_changes"], _places(doubtful))
        last = {(kind, key): (version, change_id) for kind, key, version, change_id in await cursor.fetchall()}
        for each in doubtful:
            version, change_id = last.get(each.place, (None, None))
            if change_id == each.change_id:
                _answer(each, True)
            elif version is not None and version <= each.stored + (not each.removes):
                _answer(each, False)
            else:
                told = f"The task store {self._place} does not answer: {_CHANGED_SINCE}."
                refuse(each, StoreUnavailable(told, maybe_done=True))


def _places(requests: Sequence[GetRecord] | Sequence[WriteRecord]) -> dict[str, Any]:
    places = list({request.place for request in requests})
    return {"kinds": [kind for kind, _ in places], "keys": [key for _, key in places]}


def _answer(write: WriteRecord, result: bool) -> None:
    if not write.done.done():
        write.done.set_result(result)
