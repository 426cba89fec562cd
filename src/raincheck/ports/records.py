"""Records: small durable records beside the tasks, in the same store.

They hold what processes share beside the tasks: deliveries still to be made, an operation's durations, its permits, the
state of its breaker. One port with compare-and-set, so that each of these is written once for all stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

LARGEST_RECORD = 256 * 1024
"""The largest value of a record, in bytes of JSON (ASCII): what the smallest store holds."""

MOST_RECORDS = 8
"""How many records one step writes with a task."""

CLEAR_KINDS = frozenset({"program", "readiness"})
"""The kinds of records that hold no user data: they stay in clear, so that they outlive every key."""

_LONGEST_NAME = 200


def record_key(operation_type: str) -> str:
    """The key of an operation's record: its name, or a digest where a record cannot be called so (an adopted tool may
    have any name)."""
    if operation_type.isascii() and operation_type.isprintable() and 0 < len(operation_type) <= _LONGEST_NAME:
        return operation_type
    return "sha256:" + hashlib.sha256(operation_type.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A small record beside the tasks.

    Attributes:
        kind: What it is, 1 to 32 of `a-z0-9-`: listings are by kind.
        key: Which of its kind, 1 to 255 printable ASCII characters.
        value: A JSON value of at most `LARGEST_RECORD` bytes.
        version: 1 where it is new; else the stored one plus one (compare-and-set).
        due_at: When it is to be looked at; None: never.
        expires_at: When it may be removed; None: never. Say one for everything that is not kept for ever.
    """

    kind: str
    key: str
    value: Any
    version: int = 1
    due_at: datetime | None = None
    expires_at: datetime | None = None


class RecordQuery(NamedTuple):
    """Which records a page has.

    Attributes:
        kind: Of this kind.
        due: Those whose `due_at` has come by then, earliest first; None: all, in the order of their keys (by code
            point).
        after: Without `due`: those whose key comes after this one.
        limit: How many at most.
    """

    kind: str
    due: datetime | None = None
    after: str = ""
    limit: int = 50


def check_records(records: Sequence[Record]) -> Sequence[Record]:
    """The records of one step (`TaskStore.replace`).

    Raises:
        ValueError: There are too many, or two of one kind and key.
    """
    if len(records) > MOST_RECORDS or len({(each.kind, each.key) for each in records}) < len(records):
        raise ValueError(f"one step writes at most {MOST_RECORDS} records, each of another kind and key")
    return records


class RecordStore(Protocol):
    """The records of a store. Raises and durability are those of `raincheck.ports.task_store.TaskStore`; changes are
    not announced.

    The version of a record written by `TaskStore.replace` is 1, or the stored one plus one.

    A record whose `expires_at` has come may still be found until it is removed: its reader checks.
    """

    async def get_record(self, kind: str, key: str) -> Record | None:
        """The record as it is now, or None."""
        ...

    async def put_record(self, record: Record) -> bool:
        """Write it: with version 1 only if there is none of that kind and key, else only if the stored version is
        `record.version - 1`. False when it is not so, and then nothing was written."""
        ...

    async def remove_record(self, record: Record) -> bool:
        """Remove it, only if the stored version is `record.version`; whether it was."""
        ...

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        """A page of the records of a kind."""
        ...
