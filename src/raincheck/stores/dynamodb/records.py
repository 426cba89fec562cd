"""The records, an item each: its value and all, since the largest one has room in an item.

Two of the tables' indexes serve them: `of_operation` has a partition for each kind, in the order of their keys, and
`agenda` one for each kind, of what is due. What is never due but expires stands in a partition of that one, by the
hour, so that a record that is written again and again changes no index; `purge` removes it. What is due and has expired
goes where a process looks for what is due. DynamoDB's own expiry comes a month after either.

The first version and a removal are transactions, whose repetition DynamoDB knows; a further version carries a mark.
"""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from raincheck.ports.records import Record
from raincheck.stores.dynamodb.client import Calls, together
from raincheck.stores.dynamodb.errors import ConditionFailed
from raincheck.stores.dynamodb.expressions import Changes, delete_record, update_record
from raincheck.stores.dynamodb.index_queries import Range
from raincheck.stores.dynamodb.items import KEY, MARGIN, MARKS, TTL, Item, is_ours, key, mark, number, text, version_of
from raincheck.stores.dynamodb.local_locks import LocalLocks
from raincheck.stores.dynamodb.reads import Reads
from raincheck.stores.dynamodb.table import AGENDA, BY_OPERATION
from raincheck.stores.dynamodb.transactions import transact
from raincheck.stores.shared.payload_codec import decode_value, encode_value
from raincheck.stores.shared.timestamps import micros_or_none, moment_or_none, to_micros

# In characters: a value above the first is compressed, one above the second in a thread.
_SHORT = 1000
_LARGE = 64 * 1024
_HOUR = 3600 * 1_000_000
_EXPIRING = "records-expiring"
_AT_ONCE = 8


def record_name(record: Record) -> str:
    """The name of a record's item."""
    return f"record#{record.kind}#{record.key}"


async def written_over(table: str, record: Record) -> Mapping[str, Any]:
    """The part of a transaction that writes a record over whatever is there."""
    request = update_record(table, key(record_name(record)), await _changes(record), version=None)
    return {"Update": request}


class Records:
    """See `raincheck.ports.records.RecordStore`."""

    def __init__(self, calls: Calls, reads: Reads, turns: LocalLocks) -> None:
        self._calls = calls
        self._table = calls.table
        self._reads = reads
        self._turns = turns

    async def get(self, kind: str, name: str) -> Record | None:
        """One record."""
        item = key(f"record#{kind}#{name}")
        answer = await self._calls.on_table("get_item", Key=item, ConsistentRead=True)
        return await _record(answer["Item"]) if "Item" in answer else None

    async def put(self, record: Record) -> bool:
        """Write it where its version is the next one."""
        written = secrets.token_urlsafe(9)
        changes = {**await _changes(record), mark(record.version): text(written)}
        update = update_record(self._table, key(record_name(record)), changes, version=record.version - 1)
        async with self._turns.alone(record_name(record)):
            try:
                if record.version == 1:
                    await transact(self._calls, self._turns, {"record": {"Update": update}})
                else:
                    await self._calls.call("update_item", **update)
            except ConditionFailed as failed:
                stored = failed.items[0]
                if stored and is_ours(stored, record.version, written):
                    return True
                if (
                    failed.repeated
                    and record.version > 1
                    and (not stored or version_of(stored) >= record.version + MARKS)
                ):
                    # It may have been written, and removed or written over since.
                    raise self._calls.connection.unknown() from None
                return False
        return True

    async def remove(self, record: Record) -> bool:
        """Remove that version."""
        async with self._turns.alone(record_name(record)):
            return await self._remove(record_name(record), record.version)

    async def _remove(self, name: str, version: int) -> bool:
        try:
            await transact(self._calls, self._turns, {"record": delete_record(self._table, key(name), version)})
        except ConditionFailed:
            return False
        return True

    async def page(self, kind: str, after: str, limit: int) -> Sequence[Record]:
        """What comes after a key."""
        part = Range(index=BY_OPERATION, partition=f"record#{kind}", above=after or None)
        found = await self._reads.chosen([part], limit, lambda _: True)
        return [await _record(item) for item in found]

    async def due(self, kind: str, until: datetime, limit: int) -> Sequence[Record]:
        """What has come due; what has expired by then, and by DynamoDB's clock, is removed."""
        at, now = to_micros(until), self._calls.clock.now()
        over = at if now is None else min(at, to_micros(now))
        expired: list[Item] = []

        def is_due(item: Item) -> bool:
            if "due_at" not in item or int(item["due_at"]["N"]) > at:
                return False
            if "expires_at" in item and int(item["expires_at"]["N"]) <= over:
                expired.append(item)
                return False
            return True

        part = Range(index=AGENDA, partition=f"record#{kind}", below=at)
        found = await self._reads.chosen([part], limit, is_due)
        await self._remove_all(expired)
        return [await _record(item) for item in found]

    async def purge(self, now: datetime, limit: int) -> list[Item]:
        """Remove what has expired and is never due; what there was of it."""
        until = to_micros(now)

        def is_over(item: Item) -> bool:
            return "expires_at" in item and int(item["expires_at"]["N"]) <= until

        part = Range(index=AGENDA, partition=_EXPIRING, below=until)
        expired = await self._reads.chosen([part], limit, is_over, KEY, "version", "expires_at")
        await self._remove_all(expired)
        return expired

    async def _remove_all(self, items: Sequence[Item]) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def remove(item: Item) -> None:
            async with slots:
                await self._remove(item[KEY]["S"], version_of(item))

        await together([remove(item) for item in items])


async def _changes(record: Record) -> Changes:
    body = encode_value(record.value)
    short = body is None or len(body) <= _SHORT
    packed = None
    if body is not None and not short:
        packed = await asyncio.to_thread(_compressed, body) if len(body) > _LARGE else _compressed(body)
    due, expires = micros_or_none(record.due_at), micros_or_none(record.expires_at)
    agenda, agenda_at = f"record#{record.kind}", due
    if due is None:
        agenda, agenda_at = _EXPIRING, None if expires is None else -(-expires // _HOUR) * _HOUR
    return {
        "value": text(body) if body is not None and short else None,
        "body": None if packed is None else {"B": packed},
        "due_at": None if due is None else number(due),
        "expires_at": None if expires is None else number(expires),
        "agenda": None if agenda_at is None else text(agenda),
        "agenda_at": None if agenda_at is None else number(agenda_at),
        "of_operation": text(f"record#{record.kind}"),
        "place": text(record.key),
        TTL: None if record.expires_at is None else number(_removal(record.expires_at)),
    }


def _removal(expires_at: datetime) -> int:
    return to_micros(expires_at + MARGIN + timedelta(seconds=1)) // 1_000_000


def _compressed(body: str) -> bytes:
    return zlib.compress(body.encode("ascii"), 1)


def _restored(body: bytes) -> str:
    return zlib.decompress(body).decode("ascii")


async def _record(item: Item) -> Record:
    body: str | None = item["value"]["S"] if "value" in item else None
    if "body" in item:
        packed = item["body"]["B"]
        body = await asyncio.to_thread(_restored, packed) if len(packed) > _LARGE else _restored(packed)
    _, kind, name = item[KEY]["S"].split("#", 2)
    return Record(
        kind=kind,
        key=name,
        value=decode_value(body),
        version=version_of(item),
        due_at=moment_or_none(int(item["due_at"]["N"]) if "due_at" in item else None),
        expires_at=moment_or_none(int(item["expires_at"]["N"]) if "expires_at" in item else None),
    )
