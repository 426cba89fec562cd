"""The DynamoDB store: durable, shared by any number of machines, nothing to run.

One table holds everything, an item each: a task; a taken idempotency key; a chunk of a payload that is too large for
its task's item; a record; counters; the layout's number. A task is written by conditional writes, together with the
counters where its status changes (a transaction), and is always read consistently. Every item but the counters, the
layout, the list of operations and records that are kept for ever has an expiry of DynamoDB's own, a month after `purge`
should have removed it. (Tasks that DynamoDB had to remove, because no process served the table for that long, stay
counted, and take room if they were pending.)

Room for pending tasks costs nothing as long as no limit is set (`raincheck.stores.dynamodb.pending_limit` says how);
from the first insert with `room` on, each transaction in which a task becomes pending or ceases to be has one or two
items more, and inserts of all processes take turns at one of them: some hundred a second.

What listings, claims, the sweeper and `purge` look for, five indexes say. An index of DynamoDB follows its table with a
delay, most often of milliseconds: a new task may be claimed, listed or found overdue that much later (a record
likewise), and one that changes its status while a listing is made may be missing from that page. Nothing else depends
on it: each entry is looked up in the table before it is believed, and every decision is a condition of a write. A
partition of an index takes a thousand writes a second, so one operation, or one scope, takes some hundred tasks a
second.

This AWS identity needs the rights `DescribeTable`, `DescribeTimeToLive`, `GetItem`, `BatchGetItem`, `PutItem`,
`UpdateItem`, `DeleteItem` and `BatchWriteItem` on the table and `Query` on its indexes; to make or upgrade it also
`CreateTable`, `UpdateTable` and `UpdateTimeToLive`.

A write that DynamoDB does not answer in time raises `StoreUnavailable` though it may have been carried out, or may yet
be: only DynamoDB knows. A write that is repeated within that time is answered truly.

What the verbs ask of DynamoDB, without payloads above 900 characters (which cost one request more for each 390 KB):

| verb | requests |
| --- | --- |
| `insert` | 1 transaction: the task, a counter, and the key if there is one (2 more where the key is taken) |
| `insert` with `room` | the same; 3 reads more (34 items) every 10 s, and when all known room is taken |
| `get` | 1 |
| `replace` | 1: a transaction of 2 items where the status changes, a conditional update where it does not |
| `replace` with a record | 1 transaction, of one item more |
| `renew` | 1 for each lease |
| `claimable` | 1 read, 1 query for each operation and each of its priorities, 1 batch read for each 100 tasks found |
| `waiting` | as `claimable`, and 1 query more for each scope with many tasks |
| `overdue` | 4 queries, and 1 batch read for each 100 found |
| `purge` | 5 queries, 1 batch read for each 100 found, 1 transaction for each removed (with room 1 a scope) |
| `list` | 1 query for each status asked for (6 for any), 1 batch read for each 100 found |
| `list` of all scopes | as many queries for each operation, 1 for each priority of its pending tasks, and 1 read more |
| `count` | 1 batch read of 32 items |
| `versions` | 1 batch read for each 100 tasks |
| `get_record` | 1 |
| `put_record` | 1: a transaction for the first version, a conditional update for a further one |
| `remove_record` | 1 transaction |
| `records` | 1 query, 1 batch read for each 100 found, 1 transaction for each that is due and has expired |
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from copy import copy
from datetime import datetime
from typing import Any, TypeVar

from raincheck.domain.task import Task, TaskStatus
from raincheck.ports.records import Record, RecordQuery, check_records
from raincheck.ports.task_store import (
    Capabilities,
    Inserted,
    LeaseRenewer,
    Listener,
    PendingLimit,
    TaskQuery,
    TaskSummary,
)
from raincheck.ports.tls import Tls
from raincheck.stores.dynamodb.client import Calls, Connection, begun, together
from raincheck.stores.dynamodb.index_queries import Range
from raincheck.stores.dynamodb.items import (
    COUNT_SHARDS,
    KEY,
    SUMMARY,
    Item,
    agenda_shards,
    count_key,
    expires_at,
    holder_key_of,
    is_due,
    partition,
    place,
    scope_of,
    status_of,
    summary_from,
    to_micros,
    version_of,
)
from raincheck.stores.dynamodb.lease_renewal import renew_leases
from raincheck.stores.dynamodb.local_locks import LocalLocks
from raincheck.stores.dynamodb.operation_index import Operations
from raincheck.stores.dynamodb.payload_chunks import Parts, read_items
from raincheck.stores.dynamodb.pending_limit import Rooms
from raincheck.stores.dynamodb.reads import Reads, SeenTasks
from raincheck.stores.dynamodb.records import Records, record_name
from raincheck.stores.dynamodb.table import AGENDA, BY_BOTH, BY_OPERATION, BY_SCOPE, prepare_table
from raincheck.stores.dynamodb.waiting import waiting_in
from raincheck.stores.dynamodb.writes import Writes
from raincheck.stores.shared.listeners import Listeners

_T = TypeVar("_T")
# Of a purge: so many tasks are removed at once.
_AT_ONCE = 8


class DynamoDBStore:
    """A `raincheck.ports.task_store.TaskStore` in one DynamoDB table.

    Use it on one event loop. The credentials are those of the AWS environment.

    Args:
        table: The table's name.
        region: The AWS region; empty: as the AWS environment says.
        endpoint: The server's address; empty: AWS's own.
        pool_size: How many connections to keep.
        timeout_seconds: How long one request may take, its repetitions included, before `StoreUnavailable`.
        tls: TLS beyond what the address says.
        migrate: Whether `open` makes the table, and upgrades it.
        poll_interval: Within how many seconds listeners hear of other processes' changes. While a caller waits for a
            task, each look costs a read of that task.
    """

    def __init__(
        self,
        table: str = "raincheck_tasks",
        *,
        region: str = "",
        endpoint: str = "",
        pool_size: int = 10,
        timeout_seconds: float = 5.0,
        tls: Tls | None = None,
        migrate: bool = True,
        poll_interval: float = 0.5,
    ) -> None:
        self._connection = Connection(
            table=table,
            region=region,
            endpoint=endpoint,
            pool_size=pool_size,
            timeout_seconds=timeout_seconds,
            tls=tls,
        )
        self._migrate = migrate
        self._poll_interval = poll_interval
        self._listeners = Listeners()
        self._poll: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls = Calls(self._connection)
        self._open = False
        self._parts = Parts(self._calls)
        self._seen = SeenTasks()
        self._reads = Reads(self._calls, self._parts, self._seen)
        self._turns = LocalLocks(self._calls)
        self._operations = Operations(self._calls)
        self._rooms = Rooms(self._calls, self._turns, self._reads, self._operations)
        self._writes = Writes(self._calls, self._parts, self._reads, self._seen, self._turns, self._rooms)
        self._records = Records(self._calls, self._reads, self._turns)
        self._under_way: set[asyncio.Task[Any]] = set()

    @property
    def capabilities(self) -> Capabilities:
        """See `TaskStore.capabilities`."""
        return Capabilities(durable=True, shared=True, pushes=False, remote=True)

    async def open(self) -> None:
        """See `TaskStore.open`.

        Raises:
            StoreUnusable: The table is another program's, of a newer raincheck, or (without `migrate`) incomplete.
            StoreUnavailable: It cannot be reached, or this AWS identity lacks a right.
        """
        await self._calls.open()
        try:
            await prepare_table(self._calls, migrate=self._migrate)
        except BaseException:
            await self._calls.close()
            raise
        self._open = True
        self._loop = asyncio.get_running_loop()
        self._watch()

    async def close(self) -> None:
        """See `TaskStore.close`."""
        self._open = False
        while self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._parts.finish()
        self._listeners.clear()
        self._watch()
        await self._calls.close()
        self._seen.clear()

    async def insert(self, task: Task, *, pending_limit: PendingLimit | None = None) -> Inserted:
        """See `TaskStore.insert`."""
        # Of one name each: a request that waits for a key holds no task that the key's owner may want.
        names = [f"task#{task.task_ref}"]
        if (holder := holder_key_of(task)) is not None:
            names.insert(0, holder[KEY]["S"])

        async def write() -> Inserted:
            await self._operations.add(task.operation_type, task.priority)
            async with self._turns.alone(*names):
                return await self._writes.insert(task, pending_limit)

        return await self._carried_out(write(), lambda inserted: inserted.created, task)

    async def get(self, task_ref: str) -> Task | None:
        """See `TaskStore.get`."""
        self._check_open()
        return await self._reads.task(task_ref)

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        records: Sequence[Record] = (),
    ) -> bool:
        """See `TaskStore.replace`. Of the record, what an insert fixes for good is not written again: arguments,
        deadline, retention, key, priority, where to call back."""

        async def write() -> bool:
            names = [f"task#{task.task_ref}", *map(record_name, check_records(records))]
            async with self._turns.alone(*names):
                return await self._writes.replace(task, seen_lease, lease_seconds, records)

        return await self._carried_out(write(), lambda replaced: replaced, task)

    async def renew(
        self,
        worker_id: str,
        leases: Mapping[str, int],
        lease_until: datetime,
        *,
        lease_seconds: float | None = None,
    ) -> set[str]:
        """See `TaskStore.renew`."""
        self._check_open()
        if not self._calls.is_open:
            await self._calls.open()
        return await renew_leases(self._calls, worker_id, leases, self._calls.clock.after(lease_seconds, lease_until))

    @asynccontextmanager
    async def renewer(self) -> AsyncGenerator[LeaseRenewer]:
        """See `TaskStore.renewer`."""
        other = copy(self)
        other._calls = Calls(self._connection, self._calls.clock)
        try:
            yield other
        finally:
            await other._calls.close()

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """See `TaskStore.claimable`."""
        wanted = set(operation_types)

        async def prior() -> Sequence[Range]:
            known = await self._operations.all()
            return [_pending(name, priority) for name in wanted & known.keys() for priority in known[name] if priority]

        ranges = [_pending(name, 0) for name in wanted]
        return await self._chosen(ranges, limit, _is_pending, further=prior)

    async def waiting(
        self, operation_types: Collection[str], limit: int, *, after: str = "", leave_out: Collection[str] = ()
    ) -> Sequence[Task]:
        """See `TaskStore.waiting`."""
        self._check_open()
        known = await self._operations.all()
        names: list[str] = []
        for priority in sorted({each for name in operation_types for each in known.get(name, ())}, reverse=True):
            lines = [
                waiting_in(self._calls, name, priority, limit, after=after, leave_out=leave_out)
                for name in set(operation_types) & known.keys()
                if priority in known[name]
            ]
            names += [name for line in await together(lines) for name in line]
            if len(names) >= limit:
                break
        if not names:
            return []
        items = {item[KEY]["S"]: item for item in await read_items(self._calls, [{KEY: {"S": name}} for name in names])}
        pending = [items[name] for name in names if name in items and _is_pending(items[name])]
        return await self._reads.wholes(pending, _is_pending)

    async def get_record(self, kind: str, key: str) -> Record | None:
        """See `RecordStore.get_record`."""
        self._check_open()
        return await self._records.get(kind, key)

    async def put_record(self, record: Record) -> bool:
        """See `RecordStore.put_record`."""
        return await self._carried_out(self._records.put(record))

    async def remove_record(self, record: Record) -> bool:
        """See `RecordStore.remove_record`."""
        return await self._carried_out(self._records.remove(record))

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        """See `RecordStore.records`."""
        kind, due, after, limit = query
        self._check_open()
        if due is not None:
            return await self._records.due(kind, due, limit)
        return await self._records.page(kind, after, limit)

    async def overdue(self, now: datetime, limit: int) -> Sequence[Task]:
        """See `TaskStore.overdue`."""
        until = to_micros(now)
        ranges = [Range(index=AGENDA, partition=shard, below=until) for shard in agenda_shards("due")]
        return await self._chosen(ranges, limit, lambda item: is_due(item, until))

    async def purge(self, now: datetime, limit: int) -> int:
        """See `TaskStore.purge`."""
        self._check_open()
        until = to_micros(now)

        def is_over(item: Item) -> bool:
            expires = expires_at(item)
            return expires is not None and expires <= now

        ranges = [Range(index=AGENDA, partition=shard, below=until) for shard in agenda_shards("expiring")]
        items, _ = await together([self._reads.chosen(ranges, limit, is_over), self._records.purge(now, limit)])
        slots = asyncio.Semaphore(_AT_ONCE)

        async def remove(item: Item) -> bool:
            async with slots:
                return await self._carried_out(self._writes.remove(item))

        removed = sum(await together([remove(item) for item in items]))
        await self._rooms.tidy(scope_of(item) for item in items)
        return removed

    async def list(self, query: TaskQuery) -> Sequence[TaskSummary]:
        """See `TaskStore.list`."""
        scope, statuses, operation_type, after, limit = query
        self._check_open()
        wanted = set(statuses or TaskStatus)
        before = None if after is None else place(after)
        index = BY_OPERATION if scope is None else BY_SCOPE if operation_type is None else BY_BOTH
        # An operation's pending tasks are by priority, where those of a scope are together.
        operations: Mapping[str | None, Sequence[int]] = {operation_type: [0]}
        if scope is None:
            known = await self._operations.all()
            operations = {operation_type: known.get(operation_type, [0])} if operation_type is not None else {**known}
        ranges = [
            Range(
                index=index,
                partition=partition(status, scope=scope, operation=operation, priority=priority),
                below=before,
                newest_first=True,
            )
            for operation, priorities in operations.items()
            for status in wanted
            for priority in (priorities if status is TaskStatus.PENDING else (0,))
        ]
        items = await self._reads.chosen(ranges, limit, lambda item: status_of(item) in wanted, *SUMMARY)
        return [summary_from(item) for item in items]

    async def count(self) -> Mapping[TaskStatus, int]:
        """See `TaskStore.count`. Each task is counted once, in a status that it had while the counters were read."""
        self._check_open()
        shards = await read_items(self._calls, [count_key(shard) for shard in range(COUNT_SHARDS)])
        return {
            status: sum(int(shard[str(status)]["N"]) for shard in shards if str(status) in shard)
            for status in TaskStatus
        }

    async def versions(self, task_refs: Collection[str]) -> Mapping[str, int]:
        """See `TaskStore.versions`."""
        self._check_open()
        items = await self._reads.items(task_refs, KEY, "version")
        return {task_ref: version_of(item) for task_ref, item in items.items()}

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `TaskStore.subscribe`."""
        end = self._listeners.add(listener)
        self._watch()

        def unsubscribe() -> None:
            end()
            self._watch()

        return unsubscribe

    async def time(self) -> datetime | None:
        """See `TaskStore.time`: as DynamoDB's answers tell it (`raincheck.stores.dynamodb.server_clock`)."""
        return self._calls.clock.now()

    def _watch(self) -> None:
        watching = len(self._listeners) > 0 and self._open
        if watching and self._poll is None and self._loop is not None:
            self._poll = self._loop.call_later(self._poll_interval, self._look)
        elif not watching and self._poll is not None:
            self._poll.cancel()
            self._poll = None

    def _look(self) -> None:
        # The listeners name the tasks that matter; their versions are the cheapest read there is.
        self._poll = None
        self._listeners.tell(None)
        self._watch()

    def _check_open(self) -> None:
        if not self._open:
            raise self._connection.closed()

    async def _chosen(
        self,
        ranges: Sequence[Range],
        limit: int,
        accept: Callable[[Item], bool],
        *,
        further: Callable[[], Coroutine[Any, Any, Sequence[Range]]] | None = None,
    ) -> list[Task]:
        self._check_open()
        return await self._reads.wholes(await self._reads.chosen(ranges, limit, accept, further=further), accept)

    async def _carried_out(
        self, write: Coroutine[Any, Any, _T], changed: Callable[[_T], bool] = lambda _: False, task: Task | None = None
    ) -> _T:
        if not self._open:
            write.close()
            raise self._connection.closed()

        async def carry_out() -> _T:
            result = await begun(write)
            if changed(result):
                self._listeners.tell(task)
            return result

        # A caller that goes away does not break off what is being written.
        under_way = asyncio.create_task(carry_out(), name="raincheck-write", context=Context())
        self._under_way.add(under_way)
        under_way.add_done_callback(self._written)
        return await asyncio.shield(under_way)

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            # Seen here, so that the error of a write whose caller went away is not reported as lost.
            task.exception()


def _is_pending(item: Item) -> bool:
    return status_of(item) is TaskStatus.PENDING


def _pending(operation: str, priority: int) -> Range:
    tasks = partition(TaskStatus.PENDING, operation=operation, priority=priority)
    return Range(index=BY_OPERATION, partition=tasks, rank=-priority)
