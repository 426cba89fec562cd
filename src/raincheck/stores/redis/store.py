"""The Redis (or Valkey) store: durable as far as the server is, shared by any number of machines.

Every verb is one script or one command (raincheck/stores/lua), so that it happens wholly or not at all. All keys of a
store begin with its prefix and share one hash tag, `{rc}`: a cluster keeps them on one node, and this is a client of
that one node. It follows no redirection, and asks neither Sentinel nor a replica.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from datetime import UTC, datetime
from typing import Any, TypeVar

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import StoreError, StoreUnavailable
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
from raincheck.stores.redis.commands import Call, ScriptCall, ServerClock, Write
from raincheck.stores.redis.connections import Address, Evictions, prepare, server_seconds
from raincheck.stores.redis.notifications import Pushes
from raincheck.stores.redis.pipeline import Pipeline
from raincheck.stores.redis.records import (
    get_command,
    put_row,
    record_from,
    records_from,
    remove_row,
    written_row,
)
from raincheck.stores.redis.rows import (
    FIELDS,
    insert_row,
    is_whole,
    length_of,
    name_of,
    replace_row,
    stored_text,
    summary_from,
    task_from,
    text_from,
)
from raincheck.stores.redis.scripts import SCRIPTS, encode_command
from raincheck.stores.shared.listeners import Listeners
from raincheck.stores.shared.pending_limit import pending_limit_reached
from raincheck.stores.shared.timestamps import to_micros

_T = TypeVar("_T")

# Of a purge, of renewals, and of a look at many versions: one run of a script does so much, others get in between.
_PURGE_STEP = 100
_LEASES_STEP = 2 * 200
_VERSIONS_STEP = 500
# From so many calls under way on every connection on, reads get a further one.
_BUSY = 64
# So often the server is asked whether it has begun to evict.
_LOOK_SECONDS = 5.0

_TIME = encode_command((b"TIME",))

_Entry = tuple[str, bytes, bytes, bytes]


class RedisStore:
    """A `raincheck.ports.task_store.TaskStore` in Redis 6.2 or newer, or in Valkey.

    Use it on one event loop. A write that ends in `StoreUnavailable` was not done, also
    not later, except where the server did it in the last moment and could not say so until the time was over.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with user name, password and database where there are such.
        key_prefix: What every key begins with; stores with different ones do not see each other.
        pool_size: How many connections it opens at most. All writes share one, so that listeners hear of changes in
            their order; beside these there is one to hear of other processes, and one for each `renewer`.
        timeout_seconds: How long a call may take, connecting included, before `StoreUnavailable`.
        tls: Certificates beyond those of the machine; where given, TLS is required.
        migrate: Whether keys of an older layout are upgraded; else `open` refuses them. There is nothing to
            make beforehand: the layout comes with the first task.
        poll_interval: Within how many seconds listeners hear of a change whose message was lost.
    """

    def __init__(
        self,
        url: str,
        *,
        key_prefix: str = "mcp_task:",
        pool_size: int = 10,
        timeout_seconds: float = 5.0,
        tls: Tls | None = None,
        migrate: bool = True,
        poll_interval: float = 1.0,
    ) -> None:
        self._root = stored_text(key_prefix) + b"{rc}:"
        self._address = Address(url=url, tls=tls, timeout_seconds=timeout_seconds, root=self._root)
        self._pool_size = pool_size
        self._migrate = migrate
        self._poll_interval = poll_interval
        self._listeners = Listeners()
        # What names a write: this store's own token, and a number.
        self._token = secrets.token_hex(5)
        self._numbers = itertools.count()
        self._pipelines: list[Pipeline] = []
        self._clock = ServerClock()
        self._pushes = Pushes(self._address, self._listeners, poll_interval=poll_interval)
        self._evictions = Evictions(self._address.place)
        self._looked_at = float("-inf")

    @property
    def capabilities(self) -> Capabilities:
        """See `TaskStore.capabilities`. What survives the server's own death is the server's setting (`appendonly`,
        `appendfsync`); a failover to a replica may lose the last writes."""
        return Capabilities(durable=True, shared=True, pushes=True, remote=True)

    async def open(self) -> None:
        """See `TaskStore.open`.

        Raises:
            StoreUnusable: The server may evict tasks, or the keys are another program's, of a newer layout, or (without
                `migrate`) of an older one.
            StoreUnavailable: The server cannot be reached, refuses the login, or takes no writes.
        """
        pipeline = self._new_pipeline()
        try:
            await prepare(await pipeline.open(), self._address, migrate=self._migrate)
        except BaseException:
            await pipeline.close()
            raise
        pipeline.start()
        self._pipelines = [pipeline]
        self._pushes.open()
        self._watch()

    async def close(self) -> None:
        """See `TaskStore.close`."""
        pipelines, self._pipelines = self._pipelines, []
        await self._pushes.close()
        for pipeline in pipelines:
            await pipeline.close()
        self._listeners.clear()

    async def insert(self, task: Task, *, pending_limit: PendingLimit | None = None) -> Inserted:
        """See `TaskStore.insert`."""
        row = insert_row(task)
        *head, fields = row
        limits = [b"" if most is None else b"%d" % most for most in pending_limit or PendingLimit()]
        arguments = [self._nonce(), *head, *limits, *fields]
        while True:
            answer = await self._write(
                "insert", arguments, self._inserted(task, pending_limit or PendingLimit()), row.task_ref
            )
            if isinstance(answer, Inserted):
                return answer
            # The holder of the key has large parts; if it goes before they are read, the key is free.
            held = await self.get(answer)
            if held is not None:
                return Inserted(held, created=False)

    async def get(self, task_ref: str) -> Task | None:
        """See `TaskStore.get`."""
        command = encode_command((b"HMGET", self._root + b"task:" + stored_text(task_ref), *FIELDS))

        def found(answer: list[bytes | None]) -> Task | None:
            return None if answer[0] is None else task_from(task_ref, answer)

        return await self._ask(lambda done: Call(command, found, done))

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        records: Sequence[Record] = (),
    ) -> bool:
        """See `TaskStore.replace`. Of the record, what an insert fixes for good is not written again."""
        row = replace_row(task, seen_lease, lease_seconds)
        *head, fields = row
        recorded = [b"%d" % len(records), *(part for each in check_records(records) for part in written_row(each))]

        def replaced(answer: int) -> bool:
            if answer == 1:
                self._listeners.tell(task)
            return answer == 1

        return await self._write("replace", [self._nonce(), *head, *recorded, *fields], replaced, row.task_ref)

    async def renew(
        self,
        worker_id: str,
        leases: Mapping[str, int],
        lease_until: datetime,
        *,
        lease_seconds: float | None = None,
    ) -> set[str]:
        """See `TaskStore.renew`."""
        head = [name_of(worker_id), b"%d" % to_micros(lease_until), length_of(lease_seconds)]
        parts = [part for ref, fence in leases.items() for part in (stored_text(ref), b"%d" % fence)]
        steps = [[*head, *parts[start : start + _LEASES_STEP]] for start in range(0, len(parts), _LEASES_STEP)]
        lost = await asyncio.gather(*(self._write("renew", step, _refs, None) for step in steps))
        return {ref for refs in lost for ref in refs}

    @asynccontextmanager
    async def renewer(self) -> AsyncGenerator[LeaseRenewer]:
        """See `TaskStore.renewer`."""
        other = copy(self)
        other._clock = ServerClock()
        pipeline = other._new_pipeline()
        other._pipelines = [pipeline]
        pipeline.start()
        try:
            yield other
        finally:
            await pipeline.close()

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """See `TaskStore.claimable`."""
        operations = [name_of(each) for each in set(operation_types)]
        found = await self._read("claimable", [b"%d" % limit, *operations], _entries)
        tasks = await self._tasks(found)
        return [task for task in tasks if task.status is TaskStatus.PENDING]

    async def waiting(
        self, operation_types: Collection[str], limit: int, *, after: str = "", leave_out: Collection[str] = ()
    ) -> Sequence[Task]:
        """See `TaskStore.waiting`."""
        without = [name_of(each) for each in set(leave_out)]
        operations = [name_of(each) for each in set(operation_types)]
        asked = [b"%d" % limit, name_of(after), b"%d" % len(without), *without, *operations]
        tasks = await self._tasks(await self._read("waiting", asked, _entries))
        return [task for task in tasks if task.status is TaskStatus.PENDING]

    async def overdue(self, now: datetime, limit: int) -> Sequence[Task]:
        """See `TaskStore.overdue`."""
        found = await self._read("overdue", [b"%d" % to_micros(now), b"%d" % limit], _entries)
        return [task for task in await self._tasks(found) if _is_due(task, now)]

    async def purge(self, now: datetime, limit: int) -> int:
        """See `TaskStore.purge`."""
        removed = removed_records = 0
        while True:
            steps = [min(_PURGE_STEP, limit - removed), min(_PURGE_STEP, limit - removed_records)]
            arguments = [b"%d" % to_micros(now), *(b"%d" % step for step in steps)]
            numbers: list[int] = await self._write("purge", arguments, list, None)
            removed, removed_records = removed + numbers[0], removed_records + numbers[1]
            if not any(0 < step == number for step, number in zip(steps, numbers, strict=True)):
                return removed

    async def get_record(self, kind: str, key: str) -> Record | None:
        """See `RecordStore.get_record`."""
        command = get_command(self._root, kind, key)
        return await self._ask(lambda done: Call(command, lambda answer: record_from(kind, key, answer), done))

    async def put_record(self, record: Record) -> bool:
        """See `RecordStore.put_record`."""
        return await self._write("put_record", [self._nonce(), *put_row(record)], bool, None)

    async def remove_record(self, record: Record) -> bool:
        """See `RecordStore.remove_record`."""
        return await self._write("remove_record", [self._nonce(), *remove_row(record)], bool, None)

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        """See `RecordStore.records`."""
        kind, due, after, limit = query
        until = b"" if due is None else b"%d" % to_micros(due)
        arguments = [kind.encode(), until, stored_text(after), b"%d" % limit]
        return await self._read("records", arguments, lambda answer: records_from(kind, answer))

    async def list(self, query: TaskQuery) -> Sequence[TaskSummary]:
        """See `TaskStore.list`."""
        scope, statuses, operation_type, after, limit = query
        arguments = [
            b"*" if scope is None else name_of(scope),
            b"" if operation_type is None else name_of(operation_type),
            b"" if after is None else b"%d" % to_micros(after.created_at),
            b"" if after is None else stored_text(after.task_ref),
            b"%d" % limit,
            *(str(status).encode() for status in statuses or TaskStatus),
        ]
        return await self._read("list", arguments, lambda answer: [summary_from(*entry) for entry in _entries(answer)])

    async def count(self) -> Mapping[TaskStatus, int]:
        """See `TaskStore.count`."""

        def counted(answer: list[Any]) -> Mapping[TaskStatus, int]:
            found = {
                TaskStatus(status.decode()): number for status, number in zip(answer[::2], answer[1::2], strict=True)
            }
            return dict.fromkeys(TaskStatus, 0) | found

        return await self._read("count", [], counted)

    async def versions(self, task_refs: Collection[str]) -> Mapping[str, int]:
        """See `TaskStore.versions`."""
        refs = list(task_refs)
        found: dict[str, int] = {}
        for start in range(0, len(refs), _VERSIONS_STEP):
            step = refs[start : start + _VERSIONS_STEP]
            answer: Sequence[bytes | None] = await self._read("versions", [stored_text(ref) for ref in step], list)
            found.update((ref, int(each)) for ref, each in zip(step, answer, strict=True) if each is not None)
        return found

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `TaskStore.subscribe`."""
        end = self._listeners.add(listener)
        self._watch()

        def unsubscribe() -> None:
            end()
            self._watch()

        return unsubscribe

    async def time(self) -> datetime | None:
        """See `TaskStore.time`: the server's clock."""

        def read(answer: object) -> datetime:
            return datetime.fromtimestamp(server_seconds(answer), UTC)

        pipeline = self._reading_pipeline()
        self._look_for_evictions(pipeline)
        return await self._ask(lambda done: Call(_TIME, read, done), pipeline)

    def _look_for_evictions(self, pipeline: Pipeline) -> None:
        """Does not wait for the answer, which comes before that to what is asked next."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = loop.time()
        done: asyncio.Future[None] = loop.create_future()
        done.add_done_callback(lambda answered: answered.exception())
        pipeline.put(Call(Evictions.INFO, self._evictions.look, done))

    def _watch(self) -> None:
        self._pushes.watch(len(self._listeners) > 0)

    def _nonce(self) -> bytes:
        return f"{self._token}{next(self._numbers):x}".encode()

    def _inserted(self, task: Task, pending_limit: PendingLimit) -> Callable[[Any], Inserted | str]:
        def inserted(answer: Any) -> Inserted | str:
            if answer == 1:
                self._listeners.tell(task)
                return Inserted(task, created=True)
            if answer[0] == b"full":
                raise pending_limit_reached(pending_limit, answer[1].decode())
            if answer[0] == b"taken":
                raise StoreError(
                    f"The task store {self._address.place} refuses a value: a task of that task_ref is stored already."
                )
            _, ref, *fields = answer
            if not is_whole(fields[1], fields[2]):
                return text_from(ref)
            return Inserted(task_from(text_from(ref), fields), created=False)

        return inserted

    async def _tasks(self, entries: Sequence[_Entry]) -> Sequence[Task]:
        async def whole(entry: _Entry) -> Task | None:
            ref, *fields = entry
            return task_from(ref, fields) if is_whole(fields[1], fields[2]) else await self.get(ref)

        if all(is_whole(fixed, changing) for _, _, fixed, changing in entries):
            return [task_from(ref, fields) for ref, *fields in entries]
        found = await asyncio.gather(*map(whole, entries))
        return [task for task in found if task is not None]

    # How calls get on their way.

    async def _write(
        self, name: str, arguments: list[bytes], finish: Callable[[Any], _T], task_ref: bytes | None
    ) -> _T:
        if not self._pipelines:
            raise self._not_open()
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._pipelines[0].put(Write(SCRIPTS[name], self._root, arguments, finish, done, task_ref))
        return await done

    async def _read(self, name: str, arguments: list[bytes], finish: Callable[[Any], _T]) -> _T:
        return await self._ask(lambda done: ScriptCall(SCRIPTS[name], self._root, arguments, finish, done))

    async def _ask(self, make: Callable[[asyncio.Future[Any]], Call], pipeline: Pipeline | None = None) -> Any:
        pipeline = pipeline or self._reading_pipeline()
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        pipeline.put(make(done))
        return await done

    def _reading_pipeline(self) -> Pipeline:
        if not self._pipelines:
            raise self._not_open()
        pipeline = min(self._pipelines[1:] or self._pipelines, key=lambda each: each.load)
        few = len(self._pipelines) < min(self._pool_size, 2)
        if few or (pipeline.load >= _BUSY and len(self._pipelines) < self._pool_size):
            pipeline = self._new_pipeline()
            pipeline.start()
            self._pipelines.append(pipeline)
        return pipeline

    def _new_pipeline(self) -> Pipeline:
        return Pipeline(self._address, self._clock, self._pushes.message)

    def _not_open(self) -> StoreUnavailable:
        return StoreUnavailable(f"The task store {self._address.place} is not open.")


def _refs(answer: list[bytes]) -> Sequence[str]:
    return [text_from(ref) for ref in answer[1:]]


def _entries(answer: list[bytes]) -> Sequence[_Entry]:
    each = iter(answer)
    return [
        (text_from(ref), state, fixed, changing)
        for ref, state, fixed, changing in zip(each, each, each, each, strict=True)
    ]


def _is_due(task: Task, now: datetime) -> bool:
    times = (task.deadline_at, task.lease_until)
    return not task.terminal and any(each is not None and each <= now for each in times)
