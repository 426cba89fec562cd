"""The PostgreSQL store: durable, shared by the processes of many machines, told of changes by the server itself.

What callers want at the same time goes to the server together (`raincheck.stores.postgres.batches`): one statement
inserts, replaces or reads many tasks, and commits by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import StoreUnavailable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import (
    Capabilities,
    Companion,
    Inserted,
    LeaseRenewer,
    Listener,
    PendingLimit,
    TaskQuery,
    TaskSummary,
)
from raincheck.ports.tls import Tls
from raincheck.stores.postgres.batches import Request, StatementBatcher
from raincheck.stores.postgres.connections import Address, Connection, Connections, cut_off_at, statements
from raincheck.stores.postgres.errors import is_starting, store_error
from raincheck.stores.postgres.notifications import Signals
from raincheck.stores.postgres.pending_limit import LimitedInsert
from raincheck.stores.postgres.records import GetRecord, GetRecords, WriteRecord, WriteRecords
from raincheck.stores.postgres.rows import Row, record_from, storable, summary_from, task_from, text_from
from raincheck.stores.postgres.schema import check, migrate, missing, packaged_migrations, warn_of_weak_settings
from raincheck.stores.postgres.writes import Insert, InsertMany, Replace, ReplaceMany, shard
from raincheck.stores.shared.listeners import Listeners
from raincheck.stores.shared.timestamps import length_in_micros, micros_or_none, to_micros

# Of a purge: so many tasks are removed in one transaction, others get in between.
_PURGE_STEP = 200
_LATER_THAN_ALL = (2**63 - 1, "")
_STARTING_PAUSE = 0.1


class _Get(Request):
    """`TaskStore.get`."""

    __slots__ = ("ref",)

    def __init__(self, ref: str, done: asyncio.Future[Task | None]) -> None:
        super().__init__(done, len(ref))
        self.ref = ref


class _Ask(Request):
    """Any other statement; asking twice does no harm."""

    __slots__ = ("name", "parameters")

    def __init__(self, name: str, parameters: Mapping[str, Any], done: asyncio.Future[Sequence[Row]]) -> None:
        super().__init__(done)
        self.name = name
        self.parameters = parameters


class PostgresStore:
    """A `raincheck.ports.task_store.TaskStore` in one schema of a PostgreSQL database.

    Use it on one event loop. Beside the pool it has one connection that listens, while a listener is subscribed, and
    one for each `renewer`.

    Args:
        url: `postgresql://user:password@host:port/database`, or what else libpq takes.
        schema: The schema that holds the tables; it is made if it is not there.
        pool_size: The most connections of the pool.
        timeout_seconds: How long an answer may take, connecting included, before `StoreUnavailable`.
        tls: Certificates.
        migrate: Whether to make or upgrade the schema; else it must be there already.
        companion: Makes the statement that goes beside each new task, in its transaction.
        poll_interval: How often listeners are told that anything may have changed, in seconds.

    Raises:
        ConfigurationError: The url is not an address of PostgreSQL.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "raincheck",
        pool_size: int = 10,
        timeout_seconds: float = 5.0,
        tls: Tls | None = None,
        migrate: bool = True,
        companion: Companion | None = None,
        poll_interval: float = 1.0,
    ) -> None:
        self._address = Address.of(url, schema=schema, tls=tls, timeout_seconds=timeout_seconds)
        self._pool_size = pool_size
        self._migrate = migrate
        self._companion = companion
        self._poll_interval = poll_interval
        self._sql = statements(schema)
        self._listeners = Listeners()
        self._running: _Running | None = None

    @property
    def capabilities(self) -> Capabilities:
        """See `TaskStore.capabilities`."""
        return Capabilities(durable=True, shared=True, pushes=True, remote=True)

    async def open(self) -> None:
        """See `TaskStore.open`.

        Raises:
            StoreUnusable: The schema is another program's, of a newer version, or missing and may not be made; or the
                server is too old.
            StoreUnavailable: The server does not answer, refuses the user, or a right is missing.
        """
        connections = Connections(self._address, self._pool_size)
        try:
            await self._prepare(connections)
        except (psycopg.Error, TimeoutError, OSError) as error:
            raise store_error(error, self._address.place) from error
        await self._start(connections)
        self._listen()

    async def close(self) -> None:
        """See `TaskStore.close`."""
        running, self._running = self._running, None
        if running is not None:
            await running.close()
        self._listeners.clear()

    async def insert(self, task: Task, *, pending_limit: PendingLimit | None = None) -> Inserted:
        """See `TaskStore.insert`."""
        running = self._opened()
        done: asyncio.Future[Inserted] = asyncio.get_running_loop().create_future()
        running.insert(Insert(task, self._companion, done, pending_limit))
        return await done

    async def get(self, task_ref: str) -> Task | None:
        """See `TaskStore.get`."""
        done: asyncio.Future[Task | None] = asyncio.get_running_loop().create_future()
        self._opened().gets.put(_Get(storable(task_ref), done))
        return await done

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        records: Sequence[Record] = (),
    ) -> bool:
        """See `TaskStore.replace`. Of the record, what an insert fixes for good is not written again."""
        running = self._opened()
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        change = Replace(task, done, micros_or_none(seen_lease), records, lease_length=length_in_micros(lease_seconds))
        running.replaces.put(change)
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
        asked = {
            "leases": json.dumps([{"task_ref": storable(ref), "fence": fence} for ref, fence in leases.items()]),
            "worker_id": storable(worker_id),
            "until": to_micros(lease_until),
            "length": length_in_micros(lease_seconds),
        }
        return leases.keys() - {text_from(row[0]) for row in await self._ask("renew", asked)}

    @asynccontextmanager
    async def renewer(self) -> AsyncGenerator[LeaseRenewer]:
        """See `TaskStore.renewer`."""
        other = copy(self)
        other._listeners = Listeners()
        await other._start(Connections(self._address, 1))
        try:
            yield other
        finally:
            await other.close()

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """See `TaskStore.claimable`."""
        operations = [storable(each) for each in set(operation_types)]
        rows = await self._ask("claimable", {"operations": operations, "limit": limit})
        return [task_from(row) for row in rows]

    async def waiting(
        self, operation_types: Collection[str], limit: int, *, after: str = "", leave_out: Collection[str] = ()
    ) -> Sequence[Task]:
        """See `TaskStore.waiting`."""
        asked = {
            "operations": [storable(each) for each in set(operation_types)],
            "limit": limit,
            "after": storable(after),
            "scopes": [storable(each) for each in leave_out],
        }
        return [task_from(row) for row in await self._ask("waiting", asked)]

    async def overdue(self, now: datetime, limit: int) -> Sequence[Task]:
        """See `TaskStore.overdue`."""
        return [task_from(row) for row in await self._ask("overdue", {"now": to_micros(now), "limit": limit})]

    async def purge(self, now: datetime, limit: int) -> int:
        """See `TaskStore.purge`."""
        tasks = records = 0
        while tasks < limit or records < limit:
            of_tasks, of_records = min(_PURGE_STEP, limit - tasks), min(_PURGE_STEP, limit - records)
            parameters = {"now": to_micros(now), "limit": of_tasks, "limit_of_records": of_records, "shard": shard()}
            (row,) = await self._ask("purge", parameters)
            tasks += row[0]
            records += row[1]
            if (of_tasks == 0 or row[0] < of_tasks) and (of_records == 0 or row[1] < of_records):
                break
        return tasks

    async def get_record(self, kind: str, key: str) -> Record | None:
        """See `RecordStore.get_record`."""
        done: asyncio.Future[Record | None] = asyncio.get_running_loop().create_future()
        self._opened().record_gets.put(GetRecord(kind, key, done))
        return await done

    async def put_record(self, record: Record) -> bool:
        """See `RecordStore.put_record`."""
        return await self._write_record(record, removes=False)

    async def remove_record(self, record: Record) -> bool:
        """See `RecordStore.remove_record`."""
        return await self._write_record(record, removes=True)

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        """See `RecordStore.records`."""
        kind, due, after, limit = query
        parameters: dict[str, Any] = {"kind": storable(kind), "limit": limit}
        if due is not None:
            rows = await self._ask("records_due", {**parameters, "due": to_micros(due)})
        else:
            rows = await self._ask("records_by_key", {**parameters, "after": storable(after)})
        return [record_from(row) for row in rows]

    async def list(self, query: TaskQuery) -> Sequence[TaskSummary]:
        """See `TaskStore.list`."""
        scope, statuses, operation_type, after, limit = query
        name = f"list_{'all' if scope is None else 'scope'}{'' if operation_type is None else '_operation'}"
        created_at, task_ref = _LATER_THAN_ALL
        if after is not None:
            created_at, task_ref = to_micros(after.created_at), storable(after.task_ref)
        parameters: dict[str, Any] = {
            "statuses": [str(status) for status in set(statuses or TaskStatus)],
            "created_at": created_at,
            "task_ref": task_ref,
            "limit": limit,
        }
        if scope is not None:
            parameters["scope"] = storable(scope)
        if operation_type is not None:
            parameters["operation_type"] = storable(operation_type)
        return [summary_from(row) for row in await self._ask(name, parameters)]

    async def count(self) -> Mapping[TaskStatus, int]:
        """See `TaskStore.count`."""
        rows = await self._ask("count", {})
        return dict(zip(TaskStatus, rows[0], strict=True))

    async def versions(self, task_refs: Collection[str]) -> Mapping[str, int]:
        """See `TaskStore.versions`."""
        rows = await self._ask("versions", {"refs": [storable(each) for each in task_refs]})
        return {text_from(ref): version for ref, version in rows}

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `TaskStore.subscribe`."""
        end = self._listeners.add(listener)
        self._listen()

        def unsubscribe() -> None:
            end()
            self._listen()

        return unsubscribe

    async def time(self) -> datetime:
        """See `TaskStore.time`: the server's clock."""
        moment: datetime = (await self._ask("time", {}))[0][0]
        return moment.astimezone(UTC)

    async def _start(self, connections: Connections) -> None:
        await connections.open()
        self._running = _Running(connections, self._sql, self._listeners, self._companion, self._poll_interval)

    def _opened(self) -> _Running:
        if self._running is None:
            raise StoreUnavailable(f"The task store {self._address.place} is not open.")
        return self._running

    def _listen(self) -> None:
        if self._running is not None:
            self._running.signals.listen(len(self._listeners) > 0)

    async def _ask(self, name: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        done: asyncio.Future[Sequence[Row]] = asyncio.get_running_loop().create_future()
        self._opened().asks.put(_Ask(name, parameters, done))
        return await done

    async def _write_record(self, record: Record, *, removes: bool) -> bool:
        running = self._opened()
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        running.record_writes.put(WriteRecord(record, done, removes=removes))
        return await done

    async def _prepare(self, connections: Connections) -> None:
        """Have the schema there."""
        until = asyncio.get_running_loop().time() + self._address.timeout_seconds
        migrations = packaged_migrations()
        latest = migrations[-1].version
        async with _first(connections, until) as connection:
            with cut_off_at(connection, until):
                await warn_of_weak_settings(connection, self._address)
                if await check(connection, self._address, latest):
                    return
            if not self._migrate:
                raise missing(self._address)
            await migrate(connection, self._address, migrations)
            await check(connection, self._address, latest)


class _Running:
    """What an open store has: its connections, and a batcher for each kind of request."""

    def __init__(
        self,
        connections: Connections,
        sql: Mapping[str, LiteralString],
        listeners: Listeners,
        companion: Companion | None,
        poll_interval: float,
    ) -> None:
        self._sql = sql
        self._connections = connections
        self._listeners = listeners
        self._inserting: set[str] = set()
        address = connections.address
        insert = InsertMany(sql, address, self._changed, companions=companion is not None)
        limited_insert = LimitedInsert(sql, address, self._changed, companions=companion is not None)
        replace = ReplaceMany(sql, address.place, self._changed)
        self.inserts = StatementBatcher(connections, insert, at_once=1)
        self.limited_inserts = StatementBatcher(connections, limited_insert, at_once=1)
        # Listeners hear of changes in the order of commitment: not of a second one before the first.
        self.replaces = StatementBatcher(
            connections, replace, at_once=1, ready=lambda each: each.ref not in self._inserting
        )
        self.gets = StatementBatcher(connections, self._get, at_once=2)
        self.record_gets = StatementBatcher(connections, GetRecords(sql), at_once=1)
        self.record_writes = StatementBatcher(connections, WriteRecords(sql, address.place), at_once=1)
        self.asks = StatementBatcher(connections, self._ask, at_once=16, alone=True)
        self.signals = Signals(connections, sql, listeners.tell, poll_interval=poll_interval)

    def insert(self, insert: Insert) -> None:
        """Have it inserted."""
        self._inserting.add(insert.ref)
        insert.done.add_done_callback(lambda _: self._inserted(insert.ref))
        (self.inserts if insert.pending_limit in (None, PendingLimit()) else self.limited_inserts).put(insert)

    async def close(self) -> None:
        """Serve what waits, then let go of everything."""
        batchers = self.inserts, self.limited_inserts, self.replaces, self.gets, self.record_gets, self.record_writes
        for batcher in (*batchers, self.asks):
            await batcher.drain()
        await self.signals.close()
        await self._connections.close()

    def _inserted(self, ref: str) -> None:
        self._inserting.discard(ref)
        self.replaces.wake()

    def _changed(self, task: Task) -> None:
        self._listeners.tell(task)
        self.signals.announce(task.task_ref)

    async def _get(self, connection: Connection, gets: Sequence[_Get], _: float) -> None:
        cursor = await connection.execute(self._sql["get"], {"refs": list({get.ref for get in gets})})
        rows: dict[str, Row] = {row[0]: row for row in await cursor.fetchall()}
        for get in gets:
            if not get.done.done():
                row = rows.get(get.ref)
                # A record for each: no reader can change what another one sees.
                get.done.set_result(None if row is None else task_from(row))

    async def _ask(self, connection: Connection, asks: Sequence[_Ask], _: float) -> None:
        for ask in asks:
            cursor = await connection.execute(self._sql[ask.name], ask.parameters)
            rows = await cursor.fetchall()
            if not ask.done.done():
                ask.done.set_result(rows)


@asynccontextmanager
async def _first(connections: Connections, until: float) -> AsyncGenerator[Connection]:
    """A connection of its own for the block; a server that is starting is waited for."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection = await connections.connect(until)
            break
        except psycopg.Error as error:
            if not is_starting(error) or loop.time() + _STARTING_PAUSE > until:
                raise
        await asyncio.sleep(_STARTING_PAUSE)
    try:
        yield connection
    finally:
        await connection.close()
