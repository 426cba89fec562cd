"""The store wrapper: the base of stores around a store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from raincheck.domain.task import Task, TaskStatus
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import (
    Capabilities,
    Inserted,
    LeaseRenewer,
    Listener,
    PendingLimit,
    TaskQuery,
    TaskStore,
    TaskSummary,
)


class StoreWrapper:
    """Hands every verb on to the store inside; a subclass overrides those that it is about.

    Attributes:
        inner: The store inside.
    """

    def __init__(self, inner: TaskStore) -> None:
        self.inner = inner

    @property
    def capabilities(self) -> Capabilities:
        """See `TaskStore.capabilities`."""
        return self.inner.capabilities

    async def open(self) -> None:
        """See `TaskStore.open`."""
        await self.inner.open()

    async def close(self) -> None:
        """See `TaskStore.close`."""
        await self.inner.close()

    async def insert(self, task: Task, *, pending_limit: PendingLimit | None = None) -> Inserted:
        """See `TaskStore.insert`."""
        return await self.inner.insert(task, pending_limit=pending_limit)

    async def get(self, task_ref: str) -> Task | None:
        """See `TaskStore.get`."""
        return await self.inner.get(task_ref)

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        records: Sequence[Record] = (),
    ) -> bool:
        """See `TaskStore.replace`."""
        return await self.inner.replace(task, seen_lease=seen_lease, lease_seconds=lease_seconds, records=records)

    async def renew(
        self,
        worker_id: str,
        leases: Mapping[str, int],
        lease_until: datetime,
        *,
        lease_seconds: float | None = None,
    ) -> set[str]:
        """See `TaskStore.renew`."""
        return await self.inner.renew(worker_id, leases, lease_until, lease_seconds=lease_seconds)

    def renewer(self) -> AbstractAsyncContextManager[LeaseRenewer]:
        """See `TaskStore.renewer`."""
        return self.inner.renewer()

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """See `TaskStore.claimable`."""
        return await self.inner.claimable(operation_types, limit)

    async def waiting(
        self, operation_types: Collection[str], limit: int, *, after: str = "", leave_out: Collection[str] = ()
    ) -> Sequence[Task]:
        """See `TaskStore.waiting`."""
        return await self.inner.waiting(operation_types, limit, after=after, leave_out=leave_out)

    async def overdue(self, now: datetime, limit: int) -> Sequence[Task]:
        """See `TaskStore.overdue`."""
        return await self.inner.overdue(now, limit)

    async def purge(self, now: datetime, limit: int) -> int:
        """See `TaskStore.purge`."""
        return await self.inner.purge(now, limit)

    async def list(self, query: TaskQuery) -> Sequence[TaskSummary]:
        """See `TaskStore.list`."""
        return await self.inner.list(query)

    async def count(self) -> Mapping[TaskStatus, int]:
        """See `TaskStore.count`."""
        return await self.inner.count()

    async def versions(self, task_refs: Collection[str]) -> Mapping[str, int]:
        """See `TaskStore.versions`."""
        return await self.inner.versions(task_refs)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `TaskStore.subscribe`."""
        return self.inner.subscribe(listener)

    async def time(self) -> datetime | None:
        """See `TaskStore.time`."""
        return await self.inner.time()

    async def get_record(self, kind: str, key: str) -> Record | None:
        """See `RecordStore.get_record`."""
        return await self.inner.get_record(kind, key)

    async def put_record(self, record: Record) -> bool:
        """See `RecordStore.put_record`."""
        return await self.inner.put_record(record)

    async def remove_record(self, record: Record) -> bool:
        """See `RecordStore.remove_record`."""
        return await self.inner.remove_record(record)

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        """See `RecordStore.records`."""
        return await self.inner.records(query)
