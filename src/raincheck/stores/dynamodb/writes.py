"""Writing tasks: an insert, a next version, a removal, each one conditional write or one transaction."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import StoreError, StoreUnavailable
from raincheck.ports.records import Record
from raincheck.ports.task_store import Inserted, PendingLimit
from raincheck.stores.dynamodb.client import Calls, together
from raincheck.stores.dynamodb.errors import ConditionFailed
from raincheck.stores.dynamodb.expressions import delete_task, hold, let_go, part_from_key, put_task, update_task
from raincheck.stores.dynamodb.items import (
    CODEC,
    MARKS,
    PAYLOADS,
    ROOMED,
    Item,
    Payload,
    digest,
    expires_at,
    expiry,
    holder_key_of,
    holder_of,
    is_ours,
    new_item,
    number,
    pointers,
    ref_of,
    replacement,
    scope_of,
    status_of,
    storable,
    to_micros,
    version_of,
)
from raincheck.stores.dynamodb.local_locks import LocalLocks
from raincheck.stores.dynamodb.payload_chunks import Parts
from raincheck.stores.dynamodb.pending_limit import Move, Rooms
from raincheck.stores.dynamodb.reads import Apart, Reads, Seen, SeenTasks
from raincheck.stores.dynamodb.records import record_name, written_over
from raincheck.stores.dynamodb.transactions import Parts as Transaction
from raincheck.stores.dynamodb.transactions import transact
from raincheck.stores.shared.payload_codec import encode_value
from raincheck.stores.shared.pending_limit import pending_limit_reached

# So often an insert meets a holder of its key that is gone a moment later, or room that another one takes.
_RACES = 50


class Writes:
    """Tasks into the table."""

    def __init__(
        self, calls: Calls, parts: Parts, reads: Reads, seen: SeenTasks, turns: LocalLocks, rooms: Rooms
    ) -> None:
        self._calls = calls
        self._table = calls.table
        self._parts = parts
        self._reads = reads
        self._seen = seen
        self._turns = turns
        self._rooms = rooms

    # A new task.

    async def insert(self, task: Task, pending_limit: PendingLimit | None) -> Inserted:
        """See `TaskStore.insert`."""
        members = CODEC.fixed(task) | CODEC.changing(task)
        bodies = _payloads(members)
        if not storable(task.task_ref):
            raise StoreError(f"{self._calls.connection.place} cannot hold a task of that task_ref.")
        # What room there is concerns pending tasks only.
        if pending_limit == PendingLimit() or task.status is not TaskStatus.PENDING:
            pending_limit = None
        if pending_limit is not None:
            await self._rooms.prepare()
        payloads = await self._put(bodies, expiry(task))
        written = secrets.token_urlsafe(9)
        item = new_item(task, members, payloads, written)
        # Where it raises, the task may have been stored for all that is known: its payloads are left to their expiry.
        try:
            inserted = await self._insert(task, item, written, pending_limit)
        except _NoRoom as full:
            self._parts.remove(pointers(item))
            raise pending_limit_reached(full.pending_limit, full.limit) from None
        if inserted.created:
            self._saw(task, bodies, payloads)
        else:
            self._parts.remove(pointers(item))
        return inserted

    async def _insert(self, task: Task, item: Item, written: str, pending_limit: PendingLimit | None) -> Inserted:
        holder = holder_key_of(task)
        held: Item | None = None
        held_by: str | None = None
        for _ in range(_RACES):
            if (
                pending_limit is not None
                and pending_limit.total is not None
                and self._rooms.is_spent(pending_limit.total)
            ):
                await self._check_in_all(task, pending_limit, pending_limit.total)
            move = Move(task.task_ref, task.scope, None, task.status)
            marked = {**item, ROOMED: number(1)} if self._rooms.is_roomed(move) else item
            transaction: Transaction = {"task": put_task(self._table, marked)}
            moves = [move]
            if holder is not None:
                transaction["key"] = hold(self._table, holder, task.task_ref, expiry(task), instead_of=held_by)
            if held is not None and task.inflight:
                transaction["held"] = part_from_key(self._table, held)
            elif held is not None:
                transaction["held"] = delete_task(self._table, ref_of(held), version_of(held))
                moves.append(_removal(held))
            transaction |= self._rooms.parts(moves, task.deadline_at, pending_limit)
            try:
                await transact(self._calls, self._turns, transaction)
            except ConditionFailed as failed:
                if (stored := failed.named.get("task")) is not None:
                    if is_ours(stored, task.version, written):
                        return Inserted(task, created=True)
                    raise self._stored_already() from None
                if await self._rooms.learn(failed):
                    continue
                held, held_by = None, None
                if holding := failed.named.get("key"):
                    held_by = str(holding["task_ref"]["S"])
                    held = await self._reads.item(held_by)
                    if (kept := await self._kept(held, task)) is not None:
                        return Inserted(kept, created=False)
                if pending_limit is not None:
                    await self._check_room(task, pending_limit, failed)
            else:
                if self._rooms.is_roomed(move):
                    self._rooms.succeeded()
                if "held" in transaction and held is not None and not task.inflight:
                    self._parts.remove(pointers(held))
                return Inserted(task, created=True)
        raise StoreUnavailable(f"{self._calls.connection.place} is busy: others take key or room all the time.")

    async def _kept(self, held: Item | None, task: Task) -> Task | None:
        """The task that has the new one's key, unless that has to give it away."""
        if held is None or (status_of(held).terminal if task.inflight else _over(held, task.created_at)):
            return None
        return await self._reads.whole(held)

    async def _check_room(self, task: Task, pending_limit: PendingLimit, failed: ConditionFailed) -> None:
        spent = self._rooms.heard(failed)
        if spent and pending_limit.total is not None:
            await self._check_in_all(task, pending_limit, pending_limit.total)
        if self._rooms.is_scope(failed, task.scope):
            await self._refuse(task, pending_limit, "of_scope")

    async def _check_in_all(self, task: Task, pending_limit: PendingLimit, limit: int) -> None:
        if await self._rooms.is_full(limit):
            await self._refuse(task, pending_limit, "in_all")

    async def _refuse(self, task: Task, pending_limit: PendingLimit, limit: str) -> None:
        # A key that is taken needs no room: its holder is found by the next attempt.
        if (key := holder_key_of(task)) is not None:
            holding = (await self._calls.on_table("get_item", Key=key, ConsistentRead=True)).get("Item")
            if holding and await self._kept(await self._reads.item(holding["task_ref"]["S"]), task) is not None:
                return
        raise _NoRoom(pending_limit, limit)

    def _stored_already(self) -> StoreError:
        return StoreError(f"{self._calls.connection.place} refuses a value: a task of that task_ref is stored already.")

    # The next version.

    async def replace(
        self, task: Task, seen_lease: datetime | None, lease_seconds: float | None, records: Sequence[Record]
    ) -> bool:
        """See `TaskStore.replace`."""
        if task.lease_until is not None:
            task = replace(task, lease_until=self._calls.clock.after(lease_seconds, task.lease_until))
        if not storable(task.task_ref):
            return False
        members = CODEC.changing(task)
        bodies = _payloads(members)
        seen = self._seen.before(task)
        before: Mapping[str, Apart] = {} if seen is None else seen.apart
        payloads = await self._put(bodies, expiry(task), before)
        written = secrets.token_urlsafe(9)
        changes = replacement(task, members, payloads, written)
        lease = None if seen_lease is None else to_micros(seen_lease)
        now = {payload.apart for payload in payloads.values() if payload.apart is not None}
        old = {apart.pointer for apart in before.values()}
        if not await self._replace(task, changes, written, seen, lease, records):
            self._parts.remove(sorted(now - old))
            return False
        self._parts.remove(sorted(old - now))
        self._saw(task, bodies, payloads)
        return True

    async def _replace(
        self,
        task: Task,
        changes: Mapping[str, Any],
        written: str,
        seen: Seen | None,
        lease: int | None,
        records: Sequence[Record],
    ) -> bool:
        before = seen.status if seen is not None else _likely_before(task)
        roomed = seen.roomed if seen is not None else self._rooms.on and before is TaskStatus.PENDING
        recorded: Transaction = {record_name(each): await written_over(self._table, each) for each in records}
        while True:
            moves = [] if before is task.status else [Move(task.task_ref, task.scope, before, task.status, roomed)]
            stays = [self._rooms.is_roomed(move) for move in moves]
            marked = {} if roomed in (stays or [roomed]) else {ROOMED: None if roomed else number(1)}
            update = update_task(
                self._table,
                task.task_ref,
                {**changes, **marked},
                version=task.version - 1,
                status=before,
                lease=lease,
                is_roomed=roomed if moves else None,
            )
            try:
                if moves or recorded:
                    counters = self._rooms.parts(moves, task.deadline_at)
                    await transact(self._calls, self._turns, {"task": {"Update": update}, **recorded, **counters})
                else:
                    await self._calls.call("update_item", **update)
            except ConditionFailed as failed:
                stored = failed.items[0]
                if stored is None and await self._rooms.learn(failed):
                    continue
                if not stored:
                    return False
                if is_ours(stored, task.version, written):
                    return True
                if failed.repeated and version_of(stored) >= task.version + MARKS:
                    raise self._calls.connection.unknown() from None
                found = status_of(stored), ROOMED in stored
                if version_of(stored) != task.version - 1 or found == (before, roomed):
                    return False
                # The version is right: only the status, or what its room knows of it, was guessed wrong.
                before, roomed = found
            else:
                if any(stays):
                    self._rooms.succeeded()
                return True

    def _saw(self, task: Task, bodies: Mapping[str, str | None], payloads: Mapping[str, Payload]) -> None:
        apart = {
            name: Apart.of(body, pointer)
            for name in SeenTasks.KEPT
            if (body := bodies[name]) is not None and (pointer := payloads[name].apart) is not None
        }
        roomed = self._rooms.on and task.status is TaskStatus.PENDING
        self._seen.put(task, roomed=roomed, apart=apart)

    # A removal.

    async def remove(self, item: Item) -> bool:
        """Remove a terminal task, and free its idempotency key; False if it was removed meanwhile."""
        task_ref, holder = ref_of(item), holder_of(item)
        while True:
            transaction: Transaction = {"task": delete_task(self._table, task_ref, version_of(item))}
            if holder is not None:
                transaction["key"] = let_go(self._table, holder, task_ref)
            transaction |= self._rooms.parts([_removal(item)])
            try:
                await transact(self._calls, self._turns, transaction)
            except ConditionFailed as failed:
                if "task" in failed.named:
                    return False
                if not await self._rooms.learn(failed):
                    # The key expired, or was given away, and has another task now.
                    holder = None
            else:
                self._parts.remove(pointers(item))
                return True

    async def _put(
        self, bodies: Mapping[str, str | None], remove_at: int, before: Mapping[str, Apart] | None = None
    ) -> dict[str, Payload]:
        payloads: dict[str, Payload] = {}
        large: dict[str, str] = {}
        for name, body in bodies.items():
            if body is None or len(body) <= PAYLOADS[name]:
                payloads[name] = Payload(inline=body)
            elif before is not None and name in before and before[name].digest == digest(body):
                payloads[name] = Payload(apart=before[name].pointer)
            else:
                large[name] = body
        if large:
            written = await together([self._parts.write(body, remove_at) for body in large.values()])
            payloads |= {name: Payload(apart=pointer) for name, pointer in zip(large, written, strict=True)}
        return payloads


class _NoRoom(Exception):
    def __init__(self, pending_limit: PendingLimit, limit: str) -> None:
        super().__init__(limit)
        self.pending_limit = pending_limit
        self.limit = limit


def _payloads(members: Mapping[str, Any]) -> dict[str, str | None]:
    bodies = {name: members[name] for name in PAYLOADS if name in members}
    if "callback_url" in bodies:
        bodies["callback_url"] = encode_value(bodies["callback_url"])
    return bodies


def _removal(item: Item) -> Move:
    return Move(ref_of(item), scope_of(item), status_of(item), None, ROOMED in item)


def _over(held: Item, now: datetime) -> bool:
    expires = expires_at(held)
    return expires is not None and expires <= now


def _likely_before(task: Task) -> TaskStatus:
    if task.status is TaskStatus.PROCESSING and task.progress is None and task.started_at == task.updated_at:
        return TaskStatus.PENDING
    return TaskStatus.PROCESSING
