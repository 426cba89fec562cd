"""The store that keeps tasks in this process's memory: for tests, and for work that may be lost with the process."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import merge
from itertools import islice

from raincheck.domain.task import KeyKind, Task, TaskStatus
from raincheck.errors import StoreError, StoreUnavailable
from raincheck.ports.records import Record, RecordQuery, check_records
from raincheck.ports.task_store import (
    Capabilities,
    Cursor,
    Inserted,
    LeaseRenewer,
    Listener,
    PendingLimit,
    TaskQuery,
    TaskSummary,
)
from raincheck.stores.memory.records import MemoryRecords
from raincheck.stores.memory.timer_heap import TimerHeap
from raincheck.stores.memory.waiting import Lines
from raincheck.stores.shared.listeners import Listeners
from raincheck.stores.shared.payload_codec import (
    decode_arguments,
    decode_caller,
    decode_inputs,
    decode_outcome,
    decode_value,
    encode_arguments,
    encode_caller,
    encode_inputs,
    encode_outcome,
    encode_value,
)
from raincheck.stores.shared.pending_limit import check_pending_limit


class _Order:
    """Tasks by `(created_at, task_ref)`; removed ones leave a gap that is closed when there are many."""

    def __init__(self) -> None:
        self._places: list[tuple[datetime, str]] = []
        self._gone: set[tuple[datetime, str]] = set()

    def add(self, place: tuple[datetime, str]) -> None:
        """Enter a task."""
        if place in self._gone:
            self._gone.remove(place)
        else:
            insort(self._places, place)

    def remove(self, place: tuple[datetime, str]) -> None:
        """Forget a task."""
        self._gone.add(place)
        if 2 * len(self._gone) > len(self._places):
            self._places = [each for each in self._places if each not in self._gone]
            self._gone.clear()

    def __len__(self) -> int:
        return len(self._places) - len(self._gone)

    def newest(self, after: Cursor | None) -> Iterator[str]:
        """The task refs from the newest on, or from what comes after the cursor."""
        start = len(self._places) if after is None else bisect_left(self._places, tuple(after))
        for index in range(start - 1, -1, -1):
            if self._places[index] not in self._gone:
                yield self._places[index][1]


@dataclass(slots=True)
class _Kept:
    """A stored task; the record's own payloads are never handed out, fresh ones are made of the JSON."""

    task: Task
    arguments: str
    inputs: str | None
    outcome: str | None
    checkpoint: str | None
    caller: str | None

    def fresh(self) -> Task:
        return replace(
            self.task,
            arguments=decode_arguments(self.arguments),
            inputs=decode_inputs(self.inputs),
            outcome=decode_outcome(self.outcome),
            checkpoint=decode_value(self.checkpoint),
            caller=decode_caller(self.task.scope, self.caller),
        )


class MemoryStore:
    """A `raincheck.ports.task_store.TaskStore` that forgets everything with its process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._kept: dict[str, _Kept] = {}
        self._keys: dict[tuple[str, KeyKind, str], str] = {}
        # By what claims are ordered by; who waits in which scope.
        self._pending: dict[str, TimerHeap[str, tuple[int, datetime]]] = {}
        self._lines = Lines()
        self._waiting: dict[str, set[str]] = {}
        self._due: TimerHeap[str, datetime] = TimerHeap()
        self._expiring: TimerHeap[str, datetime] = TimerHeap()
        self._records = MemoryRecords()
        self._order: dict[str | None, _Order] = {None: _Order()}
        self._counts = dict.fromkeys(TaskStatus, 0)
        self._listeners = Listeners()

    @property
    def capabilities(self) -> Capabilities:
        """See `TaskStore.capabilities`."""
        return Capabilities(durable=False, shared=False, pushes=True)

    async def open(self) -> None:
        """See `TaskStore.open`."""
        self._open = True

    async def close(self) -> None:
        """See `TaskStore.close`. What is stored stays until the object goes."""
        self._open = False
        self._listeners.clear()

    async def insert(self, task: Task, *, pending_limit: PendingLimit | None = None) -> Inserted:
        """See `TaskStore.insert`."""
        kept = self._kept_of(task)
        with self._usable():
            if task.task_ref in self._kept:
                raise StoreError("A task of that task_ref is stored already.")
            holder = self._holder(task)
            if holder is not None and _holds(holder.task, task):
                return Inserted(holder.fresh(), created=False)
            if pending_limit is not None:
                self._check(pending_limit, task.scope)
            if holder is not None:
                self._part_from_key(holder)
            if task.idempotency_key is not None:
                self._keys[task.scope, task.key_kind, task.idempotency_key] = task.task_ref
            for owner in (None, task.scope):
                self._order.setdefault(owner, _Order()).add((task.created_at, task.task_ref))
            self._write(kept)
        self._listeners.tell(task)
        return Inserted(task, created=True)

    async def get(self, task_ref: str) -> Task | None:
        """See `TaskStore.get`."""
        with self._usable():
            kept = self._kept.get(task_ref)
        return None if kept is None else kept.fresh()

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        records: Sequence[Record] = (),
    ) -> bool:
        """See `TaskStore.replace`."""
        kept = self._kept_of(task)
        with self._usable():
            old = self._kept.get(task.task_ref)
            if old is None or old.task.version != task.version - 1:
                return False
            if seen_lease is not None and old.task.lease_until != seen_lease:
                return False
            self._records.write(check_records(records))
            kept.arguments = old.arguments
            self._counts[old.task.status] -= 1
            self._write(kept)
        self._listeners.tell(task)
        return True

    async def renew(
        self,
        worker_id: str,
        leases: Mapping[str, int],
        lease_until: datetime,
        *,
        lease_seconds: float | None = None,
    ) -> set[str]:
        """See `TaskStore.renew`."""
        lost: set[str] = set()
        with self._usable():
            for task_ref, fence in leases.items():
                kept = self._kept.get(task_ref)
                if kept is None or kept.task.terminal or (kept.task.worker_id, kept.task.fence) != (worker_id, fence):
                    lost.add(task_ref)
                else:
                    kept.task = replace(kept.task, lease_until=lease_until)
                    self._due.put(task_ref, min(kept.task.deadline_at, lease_until))
        return lost

    def renewer(self) -> AbstractAsyncContextManager[LeaseRenewer]:
        """See `TaskStore.renewer`: `renew` is for every thread."""
        return nullcontext(self)

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """See `TaskStore.claimable`."""
        with self._usable():
            heaps = [self._pending[name] for name in set(operation_types) if name in self._pending]
            entries = merge(*(heap.first(limit) for heap in heaps))
            return [self._kept[task_ref].fresh() for _, task_ref in islice(entries, limit)]

    async def waiting(
        self, operation_types: Collection[str], limit: int, *, after: str = "", leave_out: Collection[str] = ()
    ) -> Sequence[Task]:
        """See `TaskStore.waiting`."""
        with self._usable():
            found = self._lines.first(set(operation_types), limit, after=after, leave_out=leave_out)
            return [self._kept[task_ref].fresh() for task_ref in found]

    async def get_record(self, kind: str, key: str) -> Record | None:
        """See `RecordStore.get_record`."""
        with self._usable():
            return self._records.get(kind, key)

    async def put_record(self, record: Record) -> bool:
        """See `RecordStore.put_record`."""
        with self._usable():
            return self._records.put(record)

    async def remove_record(self, record: Record) -> bool:
        """See `RecordStore.remove_record`."""
        with self._usable():
            return self._records.remove(record)

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        """See `RecordStore.records`."""
        kind, due, after, limit = query
        with self._usable():
            return self._records.due(kind, due, limit) if due is not None else self._records.page(kind, after, limit)

    async def overdue(self, now: datetime, limit: int) -> Sequence[Task]:
        """See `TaskStore.overdue`."""
        with self._usable():
            return [self._kept[task_ref].fresh() for _, task_ref in self._due.first(limit, now)]

    async def purge(self, now: datetime, limit: int) -> int:
        """See `TaskStore.purge`."""
        with self._usable():
            self._records.purge(now, limit)
            expired = self._expiring.first(limit, now)
            for _, task_ref in expired:
                self._remove(self._kept[task_ref].task)
            return len(expired)

    async def list(self, query: TaskQuery) -> Sequence[TaskSummary]:
        """See `TaskStore.list`."""
        scope, statuses, operation_type, after, limit = query
        with self._usable():
            order = self._order.get(scope)
            if order is None:
                return []
            tasks = (self._kept[task_ref].task for task_ref in order.newest(after))
            chosen = (
                TaskSummary.of(task)
                for task in tasks
                if (not statuses or task.status in statuses)
                and (operation_type is None or task.operation_type == operation_type)
            )
            return list(islice(chosen, limit))

    async def count(self) -> Mapping[TaskStatus, int]:
        """See `TaskStore.count`."""
        with self._usable():
            return dict(self._counts)

    async def versions(self, task_refs: Collection[str]) -> Mapping[str, int]:
        """See `TaskStore.versions`."""
        with self._usable():
            return {ref: self._kept[ref].task.version for ref in task_refs if ref in self._kept}

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `TaskStore.subscribe`."""
        return self._listeners.add(listener)

    async def time(self) -> datetime | None:
        """See `TaskStore.time`."""
        return

    def _usable(self) -> threading.Lock:
        if not self._open:
            raise StoreUnavailable("The task store is not open.")
        return self._lock

    def _holder(self, task: Task) -> _Kept | None:
        if task.idempotency_key is None:
            return None
        holder = self._keys.get((task.scope, task.key_kind, task.idempotency_key))
        return None if holder is None else self._kept[holder]

    def _part_from_key(self, holder: _Kept) -> None:
        old = holder.task
        if old.inflight:
            del self._keys[old.scope, old.key_kind, old.idempotency_key or ""]
            holder.task = replace(old, idempotency_key=None)
        else:
            self._remove(old)

    def _check(self, pending_limit: PendingLimit, scope: str) -> None:
        check_pending_limit(pending_limit, self._counts[TaskStatus.PENDING], len(self._waiting.get(scope, ())))

    def _kept_of(self, task: Task) -> _Kept:
        return _Kept(
            task=task,
            arguments=encode_arguments(task.arguments),
            inputs=encode_inputs(task.inputs),
            outcome=encode_outcome(task.outcome),
            checkpoint=encode_value(task.checkpoint),
            caller=encode_caller(task.caller),
        )

    def _write(self, kept: _Kept) -> None:
        task = kept.task
        self._kept[task.task_ref] = kept
        self._counts[task.status] += 1
        if task.status is TaskStatus.PENDING:
            pending = self._pending.setdefault(task.operation_type, TimerHeap())
            pending.put(task.task_ref, (-task.priority, task.created_at))
            self._lines.add(task)
            self._waiting.setdefault(task.scope, set()).add(task.task_ref)
        else:
            if task.operation_type in self._pending:
                self._pending[task.operation_type].discard(task.task_ref)
            self._lines.remove(task)
            waiting = self._waiting.get(task.scope)
            if waiting is not None:
                waiting.discard(task.task_ref)
                if not waiting:
                    del self._waiting[task.scope]
        if task.due_at is not None:
            self._due.put(task.task_ref, task.due_at)
        else:
            self._due.discard(task.task_ref)
            if task.expires_at is not None:
                self._expiring.put(task.task_ref, task.expires_at)

    def _remove(self, task: Task) -> None:
        del self._kept[task.task_ref]
        self._counts[task.status] -= 1
        self._expiring.discard(task.task_ref)
        if task.idempotency_key is not None:
            del self._keys[task.scope, task.key_kind, task.idempotency_key]
        for owner in (None, task.scope):
            self._order[owner].remove((task.created_at, task.task_ref))
            if owner is not None and not len(self._order[owner]):
                del self._order[owner]


def _holds(holder: Task, task: Task) -> bool:
    if holder.inflight:
        return not holder.terminal
    return holder.expires_at is None or holder.expires_at > task.created_at
