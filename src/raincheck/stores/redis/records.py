"""Between records and the hashes of the Redis store (lua/record.lua)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raincheck.ports.records import Record
from raincheck.stores.redis.rows import stored_text, text_from
from raincheck.stores.redis.scripts import encode_command
from raincheck.stores.shared.payload_codec import decode_value, encode_value
from raincheck.stores.shared.timestamps import from_micros, micros_or_none

_NONE = b"-"

NO_NOTE = [b""]
"""What replace.lua takes where no record is written with the task."""


def put_row(record: Record) -> list[bytes]:
    """A record as put_record.lua takes it after the nonce.

    Raises:
        TypeError: Its value is not a JSON value.
    """
    return [b"%d" % record.version, b"%d" % (record.version - 1), *written_row(record)]


def written_row(record: Record) -> list[bytes]:
    """A record as it is written over whatever is there.

    Raises:
        TypeError: Its value is not a JSON value.
    """
    times = [micros_or_none(record.due_at), micros_or_none(record.expires_at)]
    value = (encode_value(record.value) or "").encode()
    return [
        record.kind.encode(),
        stored_text(record.key),
        *(_NONE if at is None else b"%d" % at for at in times),
        value,
    ]


def remove_row(record: Record) -> list[bytes]:
    """A record as remove_record.lua takes it after the nonce."""
    return [b"%d" % record.version, record.kind.encode(), stored_text(record.key)]


def get_command(root: bytes, kind: str, key: str) -> bytes:
    """What asks for one record; `record_from` reads the answer."""
    return encode_command((b"HMGET", b"%brecord:%b:%b" % (root, kind.encode(), stored_text(key)), b"n", b"v"))


def record_from(kind: str, key: str, fields: Sequence[bytes | None]) -> Record | None:
    """The record of the values of n and v; None where it is not there, or removed."""
    state, value = fields
    if state is None or value is None:
        return None
    version, *times = state.split(b" ")
    due_at, expires_at = (None if at == _NONE else from_micros(int(at)) for at in times)
    return Record(
        kind=kind,
        key=key,
        value=decode_value(value.decode() or None),
        version=int(version),
        due_at=due_at,
        expires_at=expires_at,
    )


def records_from(kind: str, answer: list[Any]) -> Sequence[Record]:
    """The records of an answer of records.lua."""
    each = iter(answer)
    found = (record_from(kind, text_from(key), fields) for key, *fields in zip(each, each, each, strict=True))
    return [record for record in found if record is not None]
