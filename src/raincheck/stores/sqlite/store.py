"""The SQLite store: durable, shared by the processes of one machine, nothing to install.

Writes wait for the writer thread (`raincheck.stores.sqlite.writer_thread`), which commits together what came together;
reads happen at once on the event loop, on a connection of their own, and see every write that was acknowledged.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from datetime import datetime
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import QueueFull, StoreUnavailable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import (
    Capabilities,
    Inserted,
    LeaseRenewer,
    Listener,
    PendingLimit,
    TaskQuery,
    TaskSummary,
)
from raincheck.stores.shared.listeners import Listeners
from raincheck.stores.shared.timestamps import from_micros, to_micros
from raincheck.stores.shared.waiting import share
from raincheck.stores.sqlite.errors import is_damage, is_locked, needs_new_connection, store_error
from raincheck.stores.sqlite.records import PutRecord, RemoveRecord, record_from
from raincheck.stores.sqlite.rows import SQL, Row, storable, summary_from, task_from
from raincheck.stores.sqlite.schema import connect_reader, packaged_migrations
from raincheck.stores.sqlite.writer_thread import Done, SqliteWriter, WriterSettings, resolve
from raincheck.stores.sqlite.writes import Insert, Purge, Renew, Replace, SetClock, Write
from raincheck.timing.clock import monotonic, utc_now

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_GET = SQL["get"]

# Of a purge: so many tasks are removed in one transaction, others get in between.
_PURGE_STEP = 200


class SqliteStore:
    """A `raincheck.ports.task_store.TaskStore` in one SQLite file.

    Use it on one event loop; `renew` on any other thread.

    Args:
        path: The file; it is made if it is not there, readable for its owner only.
        synchronous: "full": what was acknowledged survives a power cut; "normal": the death of the process.
        poll_interval: Within how many seconds listeners hear of other processes' changes.
        busy_seconds: How long a write waits while another process holds the file, before `StoreUnavailable`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Literal["full", "normal"] = "full",
        poll_interval: float = 0.04,
        busy_seconds: float = 5.0,
    ) -> None:
        self._settings = WriterSettings(
            path=os.path.abspath(path),
            synchronous=synchronous,
            poll_interval=poll_interval,
            busy_seconds=busy_seconds,
            migrations=packaged_migrations(),
        )
        self._listeners = Listeners()
        self._writer: SqliteWriter | None = None
        self._reader: sqlite3.Connection | None = None

    @property
    def capabilities(self) -> Capabilities:
        """See `TaskStore.capabilities`."""
        return Capabilities(durable=True, shared=True, pushes=False)

    async def open(self) -> None:
        """See `TaskStore.open`.

        Raises:
            StoreUnusable: The file is damaged, another program's, or of a newer schema.
            StoreUnavailable: The file cannot be made or opened now.
        """
        if self._settings.synchronous != "full":
            logger.warning(
                "the task store %s does not wait for the disk (synchronous is %s): a power cut may take every ticket "
                "since the start or the last 16 MB, start again what was done, and repeat fencing numbers",
                self._settings.path,
                self._settings.synchronous,
            )
        writer = SqliteWriter(self._settings, asyncio.get_running_loop(), self._deliver, self._disconnect)
        try:
            await writer.start()
            writer.watch(len(self._listeners) > 0)
        except BaseException:
            await writer.stop()
            raise
        self._writer = writer

    async def close(self) -> None:
        """See `TaskStore.close`."""
        writer, self._writer = self._writer, None
        self._disconnect()
        if writer is not None:
            await writer.stop()
        self._listeners.clear()

    async def insert(self, task: Task, *, pending_limit: PendingLimit | None = None) -> Inserted:
        """See `TaskStore.insert`."""
        done: asyncio.Future[Inserted | QueueFull] = asyncio.get_running_loop().create_future()
        self._put(Insert(task, done, pending_limit))
        answer = await done
        if isinstance(answer, QueueFull):
            raise answer
        return answer

    async def get(self, task_ref: str) -> Task | None:
        """See `TaskStore.get`."""
        return await self._read(lambda connection: _get(connection, storable(task_ref)))

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        records: Sequence[Record] = (),
    ) -> bool:
        """See `TaskStore.replace`. Of the record, what an insert fixes for good is not written again: arguments,
        deadline, retention, keys."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._put(Replace(task, done, None if seen_lease is None else to_micros(seen_lease), records))
        return await done

    async def renew(
        self,
        worker_id: str,
        leases: Mapping[str, int],
        lease_until: datetime,
        *,
        lease_seconds: float | None = None,
    ) -> set[str]:
        """See `TaskStore.renew`."""
        if not leases:
            return set()
        done: concurrent.futures.Future[set[str]] = concurrent.futures.Future()
        self._put(Renew(storable(worker_id), leases, to_micros(lease_until), done))
        return await asyncio.shield(asyncio.wrap_future(done))

    def renewer(self) -> contextlib.AbstractAsyncContextManager[LeaseRenewer]:
        """See `TaskStore.renewer`: `renew` is for every thread."""
        return contextlib.nullcontext(self)

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """See `TaskStore.claimable`."""
        types = [storable(each) for each in set(operation_types)]
        return await self._read(lambda connection: _claimable(connection, types, limit))

    async def waiting(
        self, operation_types: Collection[str], limit: int, *, after: str = "", leave_out: Collection[str] = ()
    ) -> Sequence[Task]:
        """See `TaskStore.waiting`."""
        types = [storable(each) for each in set(operation_types)]
        start, without = storable(after + "\0"), {storable(each) for each in leave_out}
        return await self._read(lambda connection: _waiting(connection, types, limit, start, without))

    async def overdue(self, now: datetime, limit: int) -> Sequence[Task]:
        """See `TaskStore.overdue`."""
        return await self._read(lambda connection: _overdue(connection, to_micros(now), limit))

    async def purge(self, now: datetime, limit: int) -> int:
        """See `TaskStore.purge`."""
        loop = asyncio.get_running_loop()
        removed = 0
        while removed < limit:
            step = min(_PURGE_STEP, limit - removed)
            done: asyncio.Future[int] = loop.create_future()
            self._put(Purge(to_micros(now), step, done))
            number = await done
            removed += number
            if number < step:
                break
        return removed

    async def list(self, query: TaskQuery) -> Sequence[TaskSummary]:
        """See `TaskStore.list`."""
        scope, statuses, operation_type, after, limit = query
        within = () if scope is None else (storable(scope),)
        before = () if after is None else (to_micros(after.created_at), storable(after.task_ref))
        named = None if operation_type is None else storable(operation_type)

        def page(connection: sqlite3.Connection) -> list[TaskSummary]:
            statement = SQL[f"list_{'scope' if within else 'all'}{'_after' if before else ''}"]
            # Of one moment: a task that changes its status between two ranges would be missed, or seen twice.
            with _snapshot(connection):
                ranges = [
                    (*within, str(status), each, *before, limit)
                    for status in set(statuses or TaskStatus)
                    for each in ([named] if named is not None else _operations(connection, str(status), within))
                ]
                return [summary_from(row) for row in _merged(connection, statement, ranges, limit, newest_first=True)]

        return await self._read(page)

    async def count(self) -> Mapping[TaskStatus, int]:
        """See `TaskStore.count`."""
        rows = await self._read(lambda connection: connection.execute(SQL["count"]).fetchall())
        return {TaskStatus(status): number for status, number in rows}

    async def versions(self, task_refs: Collection[str]) -> Mapping[str, int]:
        """See `TaskStore.versions`."""
        wanted = json.dumps(list(task_refs))
        return dict(await self._read(lambda connection: connection.execute(SQL["versions"], (wanted,)).fetchall()))

    async def get_record(self, kind: str, key: str) -> Record | None:
        """See `RecordStore.get_record`."""
        rows = await self._read(lambda connection: connection.execute(SQL["get_record"], (kind, key)).fetchall())
        return record_from(rows[0]) if rows else None

    async def put_record(self, record: Record) -> bool:
        """See `RecordStore.put_record`."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._put(PutRecord(record, done))
        return await done

    async def remove_record(self, record: Record) -> bool:
        """See `RecordStore.remove_record`."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._put(RemoveRecord(record, done))
        return await done

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        """See `RecordStore.records`."""
        kind, due, after, limit = query
        statement, place = ("records_after", after) if due is None else ("records_due", to_micros(due))
        rows = await self._read(lambda connection: connection.execute(SQL[statement], (kind, place, limit)).fetchall())
        return [record_from(row) for row in rows]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `TaskStore.subscribe`."""
        end = self._listeners.add(listener)
        self._watch()

        def unsubscribe() -> None:
            end()
            self._watch()

        return unsubscribe

    async def time(self) -> datetime | None:
        """See `TaskStore.time`: the machine's uptime, from what its wall clock said at the first use since its start.

        All its processes are on one machine, and a wall clock that is set must neither end the leases of those that
        live nor keep those of the dead. Where the platform does not tell its start: None.
        """
        boot = boot_id()
        if boot is None:
            return None
        found = await self._read(lambda connection: connection.execute(SQL["clock"], (boot,)).fetchall())
        offset: int = found[0][0] if found else await self._first_time(boot)
        return from_micros(offset + round(monotonic() * 1e6))

    async def _first_time(self, boot: str) -> int:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._put(SetClock(boot, to_micros(utc_now()) - round(monotonic() * 1e6), done))
        return await done

    def _watch(self) -> None:
        watching = len(self._listeners) > 0
        if self._writer is not None and self._writer.watching != watching:
            self._writer.watch(watching)

    def _put(self, write: Write) -> None:
        if self._writer is None:
            raise StoreUnavailable(f"The task store {self._settings.path} is not open.")
        self._writer.put(write)

    def _deliver(self, done: Sequence[Done], foreign: bool) -> None:
        for write, result, error in done:
            resolve(write.done, result, error)
        if not self._listeners:
            return
        if foreign:
            self._listeners.tell(None)
        for write, result, error in done:
            if error is None and (task := write.changed(result)) is not None:
                self._listeners.tell(task)

    async def _read(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        give_up_at = time.monotonic() + self._settings.busy_seconds
        while True:
            try:
                return action(self._connected())
            except sqlite3.Error as error:
                # Readers of a WAL wait only for its recovery after a crash.
                if not is_locked(error) or time.monotonic() > give_up_at:
                    if needs_new_connection(error):
                        self._disconnect()
                    failing = is_damage(error) and await self._disk_fails()
                    raise store_error(error, self._settings.path, disk_fails=failing) from error
            await asyncio.sleep(0.002)

    async def _disk_fails(self) -> bool:
        return self._writer is not None and await asyncio.to_thread(self._writer.file.disk_fails)

    def _connected(self) -> sqlite3.Connection:
        if self._writer is None:
            raise StoreUnavailable(f"The task store {self._settings.path} is not open.")
        self._writer.file.check()
        if self._reader is None:
            self._reader = connect_reader(self._settings.path)
        return self._reader

    def _disconnect(self) -> None:
        if self._reader is not None:
            with contextlib.suppress(sqlite3.Error):
                self._reader.close()
            self._reader = None


@contextlib.contextmanager
def _snapshot(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


def _get(connection: sqlite3.Connection, task_ref: str | bytes) -> Task | None:
    rows = connection.execute(_GET, (task_ref,)).fetchall()
    if not rows:
        return None
    if not rows[0][-1]:
        return task_from(rows[0], connection)
    # It has parts of their own: row and parts of one moment.
    with _snapshot(connection):
        rows = connection.execute(_GET, (task_ref,)).fetchall()
        return task_from(rows[0], connection) if rows else None


def _overdue(connection: sqlite3.Connection, now: int, limit: int) -> list[Task]:
    with _snapshot(connection):
        return [task_from(row, connection) for row in connection.execute(SQL["overdue"], (now, limit)).fetchall()]


def _claimable(connection: sqlite3.Connection, types: Collection[str | bytes], limit: int) -> list[Task]:
    with _snapshot(connection):
        ranges = [(each, limit) for each in types]
        ids = [row[3] for row in _merged(connection, SQL["pending"], ranges, limit, newest_first=False)]
        rows = [connection.execute(SQL["get_by_id"], (task_id,)).fetchall()[0] for task_id in ids]
        return [task_from(row, connection) for row in rows]


def _waiting(
    connection: sqlite3.Connection,
    types: Collection[str | bytes],
    limit: int,
    start: str | bytes,
    leave_out: Collection[str | bytes],
) -> list[Task]:
    ids: list[int] = []
    with _snapshot(connection):
        lines = [
            (priority, each) for each in types for (priority,) in connection.execute(SQL["priorities_waiting"], (each,))
        ]
        last = None
        for priority, each in sorted(lines, key=lambda line: -line[0]):
            if len(ids) >= limit and priority != last:
                break
            last, most = priority, limit + len(leave_out)
            named: dict[str | bytes, None] = {}
            for begin in (start, ""):
                found = connection.execute(SQL["scopes_waiting"], (each, priority, begin, most)).fetchall()
                named.update((scope, None) for (scope,) in found if scope not in leave_out)
            scopes = list(named)[:limit]
            for scope in scopes:
                line = (each, priority, scope, share(limit, scopes))
                ids += [row[0] for row in connection.execute(SQL["waiting_of_scope"], line)]
        rows = [connection.execute(SQL["get_by_id"], (task_id,)).fetchall()[0] for task_id in ids]
        return [task_from(row, connection) for row in rows]


def _operations(connection: sqlite3.Connection, status: str, within: tuple[str | bytes, ...]) -> list[str | bytes]:
    statement = SQL["operations_of_scope" if within else "operations_of_status"]
    return [row[0] for row in connection.execute(statement, (status, *within)).fetchall()]


def _merged(
    connection: sqlite3.Connection, statement: str, ranges: Sequence[Row], limit: int, *, newest_first: bool
) -> list[Any]:
    # Each range is in order already; of each, no more rows are read than are used.
    cursors = [connection.execute(statement, each) for each in ranges]
    try:
        return list(islice(merge(*cursors, reverse=newest_first), limit))
    finally:
        for cursor in cursors:
            cursor.close()


def boot_id() -> str | None:
    """What tells this start of the machine from others; None where the platform does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None
