"""Writes to the SQLite store: one class a verb, each applied inside a transaction of the writer's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from raincheck.domain.task import TERMINAL, Task, TaskStatus
from raincheck.errors import QueueFull
from raincheck.ports.records import Record, check_records
from raincheck.ports.task_store import Inserted, PendingLimit
from raincheck.stores.shared.pending_limit import check_pending_limit
from raincheck.stores.sqlite.records import record_row
from raincheck.stores.sqlite.rows import (
    ARGUMENTS,
    CALLER,
    CHECKPOINT,
    INPUTS,
    OUTCOME,
    SQL,
    Row,
    insert_row,
    replacement,
    task_from,
)

_INSERT = SQL["insert"]
_CURRENT = SQL["current"]
_REPLACE = SQL["replace"]
_REPLACE_SAME_STATUS = SQL["replace_same_status"]
_PUT_PART = SQL["insert_payload"]
_TERMINAL = frozenset(map(str, TERMINAL))


class Transaction:
    """A transaction under way: its connection, and how the counters change by it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        # One cursor for all: making one costs a tenth of an insert. Read its rows before the next statement.
        self._cursor = connection.cursor()
        self.execute = self._cursor.execute
        self._counts: dict[str, int] = {}

    def count(self, status: str, number: int) -> None:
        """So many more tasks are in this status."""
        self._counts[status] = self._counts.get(status, 0) + number

    def remove(self, task_id: int, status: str, apart: int) -> None:
        """Delete a task with all its parts."""
        self.execute(SQL["delete"], (task_id,))
        if apart:
            self.execute(SQL["delete_payload"], (task_id,))
        self.count(status, -1)

    def put_record(self, row: Row) -> None:
        """Write a record over whatever is there."""
        kind, key, _, *rest = row
        self.execute(SQL["insert_record_over"], (kind, key, *rest))

    def check_pending_limit(self, pending_limit: PendingLimit, scope: str | bytes) -> None:
        """See that one more task may be pending.

        Raises:
            QueueFull: It may not.
        """
        total = per_scope = 0
        if pending_limit.total is not None:
            counts: dict[str, int] = dict(self.execute(SQL["count"]).fetchall())
            pending = str(TaskStatus.PENDING)
            total = counts[pending] + self._counts.get(pending, 0)
        if pending_limit.per_scope is not None:
            per_scope = self.execute(SQL["pending_of_scope"], (scope, pending_limit.per_scope)).fetchall()[0][0]
        check_pending_limit(pending_limit, total, per_scope)

    def finish(self) -> None:
        """Bring the stored counters up to date."""
        for status, number in self._counts.items():
            if number:
                self.execute(SQL["add_to_count"], (number, status))

    def close(self) -> None:
        """Let go of the connection: a cursor that an exception's traceback keeps would keep the file open."""
        self._cursor.close()


class Write(Protocol):
    """Something waiting to be written."""

    @property
    def done(self) -> asyncio.Future[Any] | concurrent.futures.Future[Any]:
        """Where the result goes: a future of the store's event loop, or one for another thread."""
        ...

    def apply(self, transaction: Transaction) -> Any:
        """Do it; the result. May be called again after a rollback."""
        ...

    def changed(self, result: Any) -> Task | None:
        """The task that listeners are told of, given the result."""
        ...


class Insert:
    """`TaskStore.insert`. A refusal is a result: an error would undo the writes beside it."""

    __slots__ = ("_parts", "_room", "_row", "_task", "done")

    def __init__(
        self, task: Task, done: asyncio.Future[Inserted | QueueFull], pending_limit: PendingLimit | None
    ) -> None:
        self.done = done
        self._task = task
        self._room = pending_limit
        self._row, self._parts = insert_row(task)

    def apply(self, transaction: Transaction) -> Inserted | QueueFull:
        """See `Write.apply`."""
        if self._room is not None:
            held = self._held(transaction)
            if held is not None:
                return Inserted(held, created=False)
            try:
                transaction.check_pending_limit(self._room, self._row[1])
            except QueueFull as refusal:
                return refusal
        cursor = transaction.execute(_INSERT, self._row)
        if cursor.rowcount == 0:
            held = self._held(transaction)
            if held is not None:
                return Inserted(held, created=False)
            cursor = transaction.execute(_INSERT, self._row)
        task_id = cursor.lastrowid
        transaction.count(str(self._task.status), 1)
        for part, body in self._parts:
            transaction.execute(_PUT_PART, (task_id, part, body))
        return Inserted(self._task, created=True)

    def changed(self, result: Inserted | QueueFull) -> Task | None:
        """See `Write.changed`."""
        return self._task if isinstance(result, Inserted) and result.created else None

    def _held(self, transaction: Transaction) -> Task | None:
        # The row is the insert's: scope is its second column, idempotency_key and key_kind its ninth and tenth.
        found: list[Row] = transaction.execute(SQL["get_by_key"], (self._row[1], *self._row[8:10])).fetchall()
        if not found:
            return None
        row = found[0]
        held = task_from(row, transaction.connection)
        if held.inflight and held.terminal:
            transaction.execute(SQL["part_from_key"], (row[0],))
            return None
        if held.inflight or held.expires_at is None or held.expires_at > self._task.created_at:
            return held
        transaction.remove(row[0], str(held.status), row[-1])
        return None


class Replace:
    """`TaskStore.replace`."""

    __slots__ = ("_next", "_records", "_seen_lease", "_task", "done")

    def __init__(
        self, task: Task, done: asyncio.Future[bool], seen_lease: int | None, records: Sequence[Record] = ()
    ) -> None:
        self.done = done
        self._records = [record_row(each) for each in check_records(records)]
        self._task = task
        self._seen_lease = seen_lease
        self._next = replacement(task)

    def apply(self, transaction: Transaction) -> bool:
        """See `Write.apply`."""
        task_ref, version, status, columns, parts, apart = self._next
        found = transaction.execute(_CURRENT, (task_ref,)).fetchall()
        if not found or found[0][1] != version - 1:
            return False
        task_id, _, before, apart_before, lease = found[0]
        if self._seen_lease is not None and lease != self._seen_lease:
            return False
        apart |= apart_before & (ARGUMENTS | CALLER)
        if status == before and status not in _TERMINAL:
            # Spares the indexes that hold the status.
            same = (*columns[1:3], *columns[5:11], columns[12], columns[13], columns[15], columns[16], apart, task_id)
            transaction.execute(_REPLACE_SAME_STATUS, same)
        else:
            transaction.execute(_REPLACE, (*columns, apart, task_id))
            transaction.count(before, -1)
            transaction.count(status, 1)
        for part, body in parts:
            transaction.execute(_PUT_PART, (task_id, part, body))
        for part in (INPUTS, OUTCOME, CHECKPOINT):
            if apart_before & ~apart & part:
                transaction.execute(SQL["delete_payload_part"], (task_id, part))
        for record in self._records:
            transaction.put_record(record)
        return True

    def changed(self, result: bool) -> Task | None:
        """See `Write.changed`."""
        return self._task if result else None


class Renew:
    """`TaskStore.renew`."""

    __slots__ = ("_lease_until", "_leases", "_worker_id", "done")

    def __init__(
        self,
        worker_id: str | bytes,
        leases: Mapping[str, int],
        lease_until: int,
        done: concurrent.futures.Future[set[str]],
    ) -> None:
        self.done = done
        self._worker_id = worker_id
        self._leases = dict(leases)
        self._lease_until = lease_until

    def apply(self, transaction: Transaction) -> set[str]:
        """See `Write.apply`."""
        leases = json.dumps(self._leases)
        cursor = transaction.execute(SQL["renew"], (self._lease_until, leases, self._worker_id))
        if cursor.rowcount == len(self._leases):
            return set()
        held = {row[0] for row in transaction.execute(SQL["held"], (leases, self._worker_id)).fetchall()}
        return self._leases.keys() - held

    def changed(self, result: set[str]) -> Task | None:
        """See `Write.changed`: a renewal is no change that a caller can see."""
        return None


class SetClock:
    """The first `TaskStore.time` since the machine's start."""

    __slots__ = ("_boot", "_offset", "done")

    def __init__(self, boot: str, offset: int, done: asyncio.Future[int]) -> None:
        self.done = done
        self._boot = boot
        self._offset = offset

    def apply(self, transaction: Transaction) -> int:
        """See `Write.apply`: the offset that holds, this one or that of a faster process."""
        transaction.execute(SQL["set_clock"], (self._boot, self._offset))
        return transaction.execute(SQL["clock"], (self._boot,)).fetchall()[0][0]

    def changed(self, result: int) -> Task | None:
        """See `Write.changed`: no task changes."""
        return None


class Purge:
    """One bounded step of `TaskStore.purge`."""

    __slots__ = ("_limit", "_now", "done")

    def __init__(self, now: int, limit: int, done: asyncio.Future[int]) -> None:
        self.done = done
        self._now = now
        self._limit = limit

    def apply(self, transaction: Transaction) -> int:
        """See `Write.apply`."""
        expired = transaction.execute(SQL["expired"], (self._now, self._limit)).fetchall()
        for task_id, status, apart in expired:
            transaction.remove(task_id, status, apart)
        transaction.execute(SQL["delete_expired_records"], (self._now, self._limit))
        return len(expired)

    def changed(self, result: int) -> Task | None:
        """See `Write.changed`: what is removed was settled and told of long ago."""
        return None
