"""Writing tasks: an insert, a next version, a removal, each one conditional write or one transaction."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from raincheck.errors import StoreError, StoreUnavailable
from raincheck.store import Inserted
from raincheck.stores.dynamodb_calls import Calls, together
from raincheck.stores.dynamodb_errors import ConditionFailed
from raincheck.stores.dynamodb_items import (
    MARKS,
    Item,
    Payload,
    count_shard,
    expires_at,
    expiry,
    holder_key,
    holder_of,
    is_ours,
    new_item,
    pointers,
    ref_of,
    replacement,
    status_of,
    storable,
    to_micros,
    version_of,
)
from raincheck.stores.dynamodb_parts import Parts
from raincheck.stores.dynamodb_reads import Reads, SeenTasks
from raincheck.stores.dynamodb_requests import counted, delete_task, hold, let_go, put_task, update_task
from raincheck.stores.dynamodb_turns import Turns
from raincheck.stores.payloads import encode_arguments, encode_inputs, encode_outcome
from raincheck.task import Task, TaskStatus

__all__ = ["Writes"]

# In characters. A task's item with all its payloads stays within the 4 KB that a read is charged for.
_INLINE = 900
# So often an insert meets a holder of its key that is gone a moment later.
_RACES = 20


class Writes:
    """Tasks into the table."""

    def __init__(self, calls: Calls, parts: Parts, reads: Reads, seen: SeenTasks, turns: Turns) -> None:
        self._calls = calls
        self._table = calls.table
        self._parts = parts
        self._reads = reads
        self._seen = seen
        self._turns = turns

    # A new task.

    async def insert(self, task: Task) -> Inserted:
        """See `TaskStore.insert`."""
        arguments_text, inputs_text = encode_arguments(task.arguments), encode_inputs(task.inputs)
        outcome_text = encode_outcome(task.outcome)
        if not storable(task.task_ref):
            raise StoreError(f"{self._calls.connection.place} cannot hold a task of that task_ref.")
        remove_at = expiry(task)
        arguments, inputs, outcome = await together(
            [self._put(body, remove_at) for body in (arguments_text, inputs_text, outcome_text)]
        )
        written = secrets.token_urlsafe(9)
        item = new_item(task, arguments, inputs, outcome, written)
        # Where it raises, the task may have been stored for all that is known: its payloads are left to their expiry.
        inserted = await self._insert(task, item, written, remove_at)
        if inserted.created:
            self._seen.put(task, inputs.apart)
        else:
            self._parts.remove(pointers(item))
        return inserted

    async def _insert(self, task: Task, item: Item, written: str, remove_at: int) -> Inserted:
        holder, held = None, None
        if task.idempotency_key is not None:
            holder = holder_key(task.scope, task.idempotency_key)
        held_by: str | None = None
        for _ in range(_RACES):
            transaction = [put_task(self._table, item)]
            if holder is not None:
                transaction.append(hold(self._table, holder, task.task_ref, remove_at, instead_of=held_by))
            if held is not None:
                transaction.append(delete_task(self._table, ref_of(held), version_of(held)))
            changes = Counter({(count_shard(task.task_ref), task.status): 1})
            if held is not None:
                changes[count_shard(ref_of(held)), status_of(held)] -= 1
            try:
                await self._transact(transaction, changes)
            except ConditionFailed as failed:
                stored, holding = failed.items[0], failed.items[1] if holder is not None else None
                if stored is not None:
                    if is_ours(stored, task.version, written):
                        return Inserted(task, created=True)
                    raise self._stored_already() from None
                held, held_by = None, None
                if holding:
                    held_by = str(holding["task_ref"]["S"])
                    held = await self._reads.item(held_by)
                    if held is not None and not _over(held, task.created_at):
                        kept = await self._reads.whole(held)
                        if kept is not None:
                            return Inserted(kept, created=False)
            else:
                if held is not None:
                    self._parts.remove(pointers(held))
                return Inserted(task, created=True)
        raise StoreUnavailable(f"{self._calls.connection.place} is busy: the idempotency key changes hands too fast.")

    def _stored_already(self) -> StoreError:
        return StoreError(f"{self._calls.connection.place} refuses a value: a task of that task_ref is stored already.")

    # The next version.

    async def replace(self, task: Task, seen_lease: datetime | None) -> bool:
        """See `TaskStore.replace`."""
        inputs_text, outcome_text = encode_inputs(task.inputs), encode_outcome(task.outcome)
        if not storable(task.task_ref):
            return False
        seen = self._seen.before(task)
        remove_at = expiry(task)
        written = secrets.token_urlsafe(9)
        if seen is not None and seen.inputs_at is not None and seen.inputs == task.inputs and not task.terminal:
            inputs, fresh = Payload(apart=seen.inputs_at), [Payload()]
        else:
            inputs = await self._put(inputs_text, remove_at)
            fresh = [inputs]
        outcome = await self._put(outcome_text, remove_at)
        fresh.append(outcome)
        ours = [payload.apart for payload in fresh if payload.apart is not None]
        changes = replacement(task, inputs, outcome, written)
        before = seen.status if seen is not None else _likely_before(task)
        lease = None if seen_lease is None else to_micros(seen_lease)
        if not await self._replace(task, changes, written, before, lease):
            self._parts.remove(ours)
            return False
        if seen is not None and seen.inputs_at is not None and seen.inputs_at != inputs.apart:
            self._parts.remove([seen.inputs_at])
        self._seen.put(task, inputs.apart)
        return True

    async def _replace(
        self, task: Task, changes: Mapping[str, Any], written: str, before: TaskStatus, lease: int | None
    ) -> bool:
        while True:
            update = update_task(
                self._table, task.task_ref, changes, version=task.version - 1, status=before, lease=lease
            )
            try:
                if before is task.status:
                    await self._calls.call("update_item", **update)
                else:
                    shard = count_shard(task.task_ref)
                    await self._transact([{"Update": update}], {(shard, before): -1, (shard, task.status): 1})
            except ConditionFailed as failed:
                stored = failed.items[0]
                if not stored:
                    return False
                if is_ours(stored, task.version, written):
                    return True
                if failed.repeated and version_of(stored) >= task.version + MARKS:
                    raise self._calls.connection.unknown() from None
                found = status_of(stored)
                if version_of(stored) != task.version - 1 or found is before:
                    return False
                # The version is right: only the status was guessed wrong.
                before = found
            else:
                return True

    # A removal.

    async def remove(self, item: Item) -> bool:
        """Remove a terminal task, and free its idempotency key; False if it was removed meanwhile."""
        return await self._remove(item, holder_of(item))

    async def _remove(self, item: Item, holder: Item | None) -> bool:
        task_ref = ref_of(item)
        transaction = [delete_task(self._table, task_ref, version_of(item))]
        changes = {(count_shard(task_ref), status_of(item)): -1}
        if holder is not None:
            transaction.append(let_go(self._table, holder, task_ref))
        try:
            await self._transact(transaction, changes)
        except ConditionFailed as failed:
            if failed.items[0] is not None:
                return False
            # The key expired and has another task now.
            return await self._remove(item, None)
        self._parts.remove(pointers(item))
        return True

    async def _put(self, body: str | None, remove_at: int) -> Payload:
        if body is None or len(body) <= _INLINE:
            return Payload(inline=body)
        return Payload(apart=await self._parts.write(body, remove_at))

    async def _transact(
        self, parts: Sequence[Mapping[str, Any]], changes: Mapping[tuple[int, TaskStatus], int]
    ) -> None:
        """A transaction, with the counters: so many more tasks by (shard, status)."""
        shards = sorted({shard for shard, _ in changes})
        # Of two transactions that touch one counter at the same time, DynamoDB refuses one, and charges for both.
        async with self._turns.alone(*(f"count#{shard}" for shard in shards)):
            await self._calls.call(
                "transact_write_items",
                TransactItems=[*parts, *counted(self._table, changes)],
                # Makes the repetition of a transaction that was carried out succeed.
                ClientRequestToken=secrets.token_hex(16),
            )


def _over(held: Item, now: datetime) -> bool:
    expires = expires_at(held)
    return expires is not None and expires <= now


def _likely_before(task: Task) -> TaskStatus:
    if task.status is TaskStatus.PROCESSING and task.progress is None and task.started_at == task.updated_at:
        return TaskStatus.PENDING
    return TaskStatus.PROCESSING
