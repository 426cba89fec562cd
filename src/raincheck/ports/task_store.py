"""The store port: the authoritative task registry, and what every store promises.

A store keeps `Task` records and decides races; it knows no rule of a task's life (`raincheck.domain.transitions` does).
An adapter maps its vendor's errors to `StoreUnavailable` (trying again may help) and `StoreUnusable` (it will not), in
one place, and passes the contract suite in tests/stores/.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from raincheck.domain.task import Progress, Task, TaskStatus
from raincheck.ports.records import Record, RecordStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a store can do, declared by its adapter.

    Attributes:
        durable: What was acknowledged survives the death of the process, and of the machine with default settings.
        shared: Several processes may use it at once.
        pushes: Changes made by other processes reach listeners without polling.
        remote: It is reached over a network: a process may be cut off from it while the others are not.
        encrypts: Payloads are encrypted before they are stored.
    """

    durable: bool
    shared: bool
    pushes: bool
    remote: bool = False
    encrypts: bool = False


class Inserted(NamedTuple):
    """What became of an insert: the task that now holds the idempotency key, and whether it is the new one."""

    task: Task
    created: bool


class PendingLimit(NamedTuple):
    """How many tasks may be pending, the new one among them; None: any number.

    Attributes:
        total: In the whole store.
        per_scope: In the new task's scope.
    """

    total: int | None = None
    per_scope: int | None = None


class Cursor(NamedTuple):
    """A position in a listing, newest first: what comes after this task."""

    created_at: datetime
    task_ref: str


class TaskQuery(NamedTuple):
    """Which tasks a page lists; None and an empty collection mean any.

    Attributes:
        scope: Whose.
        statuses: In which of these.
        operation_type: Of which operation.
        after: Those behind this position.
        limit: How many at most.
    """

    scope: str | None = None
    statuses: Collection[TaskStatus] = ()
    operation_type: str | None = None
    after: Cursor | None = None
    limit: int = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSummary:
    """A task in a listing: no arguments, no result, so that a page stays small whatever the tasks hold."""

    task_ref: str
    scope: str
    operation_type: str
    status: TaskStatus
    created_at: datetime
    updated_at: datetime
    deadline_at: datetime
    settled_at: datetime | None
    attempt: int
    worker_id: str | None
    progress: Progress | None
    error_code: str | None

    @classmethod
    def of(cls, task: Task) -> TaskSummary:
        """The summary of a whole record."""
        return cls(**{field.name: getattr(task, field.name) for field in fields(cls)})


Listener = Callable[[Task | str | None], None]
"""Called on the store's event loop after a change is durable: with the task that this process inserted or replaced,
with the `task_ref` of a task that another process changed (it may also be one of this process's own changes, told
again), or with None when anything may have been changed by others."""


Companion = Callable[[Task], tuple[str, Sequence[Any]]]
"""One more SQL statement, and its parameters, in the transaction of each insert that makes a task: what brings it to
workers, where the queue lives in the store's own database. Only for stores that take one."""


class LeaseRenewer(Protocol):
    """Renews leases on the event loop on which it was made."""

    async def renew(
        self,
        worker_id: str,
        leases: Mapping[str, int],
        lease_until: datetime,
        *,
        lease_seconds: float | None = None,
    ) -> set[str]:
        """Extend this worker's leases (task_ref -> fencing number), and return those it no longer holds.

        `lease_seconds` is as in `TaskStore.replace`.

        Does not change versions. A lease is held as long as the stored task is not terminal and has that worker and
        that fence, even if its time is over and no sweep came.
        """
        ...


class TaskStore(RecordStore, LeaseRenewer, Protocol):
    """The task registry, and the records beside it (`raincheck.ports.records`).

    Every verb but `renewer` belongs to the event loop on which `open` was awaited.

    Every verb raises `StoreUnavailable` or `StoreUnusable`, and then nothing was written. A write that returned is
    durable as far as `capabilities` says. No verb's cost grows with the number of stored tasks.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this store can do."""
        ...

    async def open(self) -> None:
        """Connect, and create or upgrade the schema. Opening twice is an error of the caller.

        Raises:
            StoreUnusable: The data is corrupt, foreign, or of a newer schema than this release knows.
        """
        ...

    async def close(self) -> None:
        """Finish the writes under way and let go of every connection, thread and timer. Idempotent."""
        ...

    async def insert(self, task: Task, *, pending_limit: PendingLimit | None = None) -> Inserted:
        """Add a new task. Atomic on `(scope, key_kind, idempotency_key)`, also between machines.

        Where the key is taken by a task whose retention is not over at `task.created_at`, nothing is written and that
        task is returned; where it is over, the old task is removed in the same step. A key of kind `INFLIGHT` is taken
        only by a task that is not terminal: from a terminal one it goes over to the new task in the same step, and the
        old one stays without it (`idempotency_key` None).

        With `pending_limit` a task that would be one too many is not written; exact also where several processes insert
        at once. A call that finds its key taken needs no place.

        Raises:
            QueueFull: There is no room; `details`: `limit` ("in_all" | "of_scope").
        """
        ...

    async def get(self, task_ref: str) -> Task | None:
        """The whole task as it is now, or None. Retention and scope are the registry's business."""
        ...

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        records: Sequence[Record] = (),
    ) -> bool:
        """Write the next version: only if the stored version is `task.version - 1`. False when it is not, or when the
        task is gone. The lease (`lease_until`) is written as the record has it.

        With `lease_seconds` a store that tells its time by a server's clock counts the lease from that clock's now,
        whatever the record says: who writes may not yet know that the clock was set. The others write the record's.

        With `seen_lease` only if the stored lease is also still that one: renewals do not change the version, and who
        takes a task from its worker must not overlook one.

        The `records` are written in the same step, each over whatever stands there under its kind and key: all are
        durable with the task, or nothing is. Arguments, deadline, retention, key, priority and `callback_url` are fixed
        by the insert.

        Raises:
            ValueError: Two of the records have one kind and key, or there are more than `MOST_RECORDS`.
        """
        ...

    def renewer(self) -> AbstractAsyncContextManager[LeaseRenewer]:
        """A renewer for the running event loop, of any thread; a store on the network gives it a connection of its own.

        It connects when it is first used.
        """
        ...

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """Pending tasks of these operations: the highest priority first, and of one priority the oldest.

        Claiming them is a `replace` that one caller wins.
        """
        ...

    async def waiting(
        self, operation_types: Collection[str], limit: int, *, after: str = "", leave_out: Collection[str] = ()
    ) -> Sequence[Task]:
        """Pending tasks of these operations from many scopes, however many one of them has: what `claimable` hides.

        Of each operation and priority the oldest tasks of up to `limit` scopes, as many of each scope as make `limit`,
        and at least one; the highest priority first, and no lower one once there are `limit`. The scopes are those that
        come behind `after` in an order of the store's own, which goes round; those in `leave_out` are passed over.
        Read only where `claimable` does not show everything.
        """
        ...

    async def overdue(self, now: datetime, limit: int) -> Sequence[Task]:
        """Tasks not terminal whose deadline has passed or whose lease is over."""
        ...

    async def purge(self, now: datetime, limit: int) -> int:
        """Remove up to `limit` terminal tasks whose `expires_at` has come; how many were removed.

        And up to `limit` records that have expired, which are not counted; a store may let records expire by itself.
        """
        ...

    async def list(self, query: TaskQuery) -> Sequence[TaskSummary]:
        """A page of tasks, newest first by `(created_at, task_ref)`."""
        ...

    async def count(self) -> Mapping[TaskStatus, int]:
        """How many tasks there are in each status; every status is a key."""
        ...

    async def versions(self, task_refs: Collection[str]) -> Mapping[str, int]:
        """The present version of each of these tasks that exists."""
        ...

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after changes; returns the function that ends it.

        Changes of this process arrive at once and in order of commitment. Changes of other processes arrive as a
        `task_ref` or as None: soon where `capabilities.pushes`, else within the adapter's `poll_interval` while one is
        subscribed. A store that pushes also reports None where it may have missed a change (its connection was
        lost, a writer died before its push), and now and then in any case: a lost push delays a listener, no more.
        """
        ...

    async def time(self) -> datetime | None:
        """The store's own clock, or None where there is none but the machine's.

        What processes on different machines compare, leases above all, they read from this one clock.
        """
        ...
