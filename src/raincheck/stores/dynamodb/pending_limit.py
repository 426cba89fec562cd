"""The pending limit on DynamoDB: exact counts in total and per scope, from the first limited insert on.

Before that, nothing is counted for it and no write costs more. The first insert with a `pending_limit` marks all the
counters (the attribute `roomed` stands there from then on). Every transaction in which a task becomes pending
changes one of the counters in any case, and has as a condition what the process believes: so none overlooks it. From
then on such a transaction has two items more, and one in which a task ceases to be pending has one more:

- `count#entered` counts how often a task became pending, and never goes down. A process that read it, and then that S
  tasks are pending, knows that there is room for one more as long as it is less than what was read, plus the limit,
  minus S: each task more would be counted in it. That is one condition of the insert, and needs no further reading
  until it fails; workers that take tasks do not touch it, so inserts alone take turns at it: some hundred a second.
- `room#…` counts a scope's pending tasks; its limit is a condition on that.

A pending task whose scope counts it says so in its own item, so that exactly these are taken off again, whichever
process does it. What was pending before room was asked for is entered then; where the counters differ from the tasks
entered, some are missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple

from raincheck.domain.task import TaskStatus
from raincheck.ports.task_store import PendingLimit
from raincheck.stores.dynamodb.client import Calls, together
from raincheck.stores.dynamodb.errors import ConditionFailed
from raincheck.stores.dynamodb.expressions import ENTERED, counted, entered, in_room, roomed
from raincheck.stores.dynamodb.index_queries import Range
from raincheck.stores.dynamodb.items import (
    COUNT_SHARDS,
    KEY,
    ROOMED,
    Item,
    count_key,
    count_shard,
    number,
    partition,
    ref_of,
    room_key,
    scope_of,
    status_of,
    to_micros,
)
from raincheck.stores.dynamodb.local_locks import LocalLocks
from raincheck.stores.dynamodb.operation_index import Operations
from raincheck.stores.dynamodb.payload_chunks import read_items
from raincheck.stores.dynamodb.reads import Reads
from raincheck.stores.dynamodb.table import BY_OPERATION
from raincheck.stores.dynamodb.transactions import Parts, transact
from raincheck.timing.clock import monotonic

logger = logging.getLogger(__name__)

# In seconds: how long what was read of the counters is gone by.
_FRESH = 10.0
# How often tasks that the counters know are looked for in the index, which may lag; pauses in seconds.
_LOOKS = 5
_FIRST_PAUSE = 0.05
_AT_ONCE = 8
# Tasks of a scope; with the counters there are at most a hundred items in a transaction.
_BATCH = 60
_LOOKED_AT = (KEY, "status", "fixed", "deadline_at", ROOMED)
# A scope's count outlasts every task in it: no deadline is as far from another one.
_LONGEST_WAIT = timedelta(days=3650 + 30)
_COUNTERS = [count_key(shard) for shard in range(COUNT_SHARDS)]


class Move(NamedTuple):
    """What a write does to one task, as the counters see it.

    Attributes:
        task_ref, scope: Which task, and whose.
        before, after: Its statuses; None where it is not there.
        was_roomed: Whether its scope counted it before.
    """

    task_ref: str
    scope: str
    before: TaskStatus | None
    after: TaskStatus | None
    was_roomed: bool = False


class Rooms:
    """The counters of pending tasks.

    Attributes:
        on: Whether room has been asked for, as far as this process knows.
    """

    def __init__(self, calls: Calls, turns: LocalLocks, reads: Reads, operations: Operations) -> None:
        self.on = False
        self._calls = calls
        self._table = calls.table
        self._turns = turns
        self._reads = reads
        self._operations = operations
        self._looked_at = float("-inf")
        self._pending = 0
        self._entered = 0
        # Whether nothing became pending while the counters were read.
        self._still = False
        # The least that it is by now.
        self._entered_since = 0
        self._nobodys = 0

    def is_roomed(self, move: Move) -> bool:
        """Whether the task's scope counts it after that."""
        return move.after is TaskStatus.PENDING and self.on

    def parts(
        self, moves: Iterable[Move], deadline_at: datetime | None = None, pending_limit: PendingLimit | None = None
    ) -> Parts:
        """What the counters add to a transaction with these moves; with the conditions of `room`, as far as this
        process has looked. What becomes pending has that deadline."""
        shards: dict[int, Counter[str]] = {}
        scopes: Counter[str] = Counter()
        asked: set[int] = set()
        entering = 0
        for move in moves:
            shard = count_shard(move.task_ref)
            changes = shards.setdefault(shard, Counter())
            difference = self.is_roomed(move) - move.was_roomed
            for name, change in ((move.before, -1), (move.after, 1)):
                if name is not None:
                    changes[str(name)] += change
            changes[ROOMED] += difference
            scopes[move.scope] += difference
            if move.after is TaskStatus.PENDING or move.after is None:
                asked.add(shard)
            entering += self.is_roomed(move)
        parts: Parts = {
            _name(count_key(shard)): counted(
                self._table, count_key(shard), changes, with_room=self.on if shard in asked else None
            )
            for shard, changes in shards.items()
            if any(changes.values())
        }
        if entering:
            below = None if pending_limit is None or pending_limit.total is None else self._ceiling(pending_limit.total)
            parts[_name(ENTERED)] = entered(self._table, entering, below)
        remove_at = None if deadline_at is None else _outlasting(to_micros(deadline_at))
        for scope, change in scopes.items():
            if change:
                key = room_key(scope)
                below = pending_limit.per_scope if pending_limit is not None and change > 0 else None
                parts[_name(key)] = in_room(
                    self._table, key, change, remove_at=remove_at if change > 0 else None, below=below
                )
        return parts

    async def learn(self, failed: ConditionFailed) -> bool:
        """Whether a write failed because this process did not know whether room has been asked for; now it does."""
        shards = [item for name, item in failed.named.items() if name.startswith("count#") and name != _name(ENTERED)]
        if not shards:
            return False
        if self.on:
            await self._switch_on(range(COUNT_SHARDS))
        self.on = True
        return True

    def heard(self, failed: ConditionFailed) -> bool:
        """Whether a write failed because there may be no room in all."""
        item = failed.named.get(_name(ENTERED))
        if item is not None:
            self._entered_since = max(_number(item, "entered"), self._entered_since)
        return item is not None

    def is_scope(self, failed: ConditionFailed, scope: str) -> bool:
        """Whether a write failed because there is no room for that scope."""
        return _name(room_key(scope)) in failed.named

    async def prepare(self) -> None:
        """Look whether all that is pending is counted, unless that was done a moment ago."""
        await self._look_since(monotonic() - _FRESH)

    def succeeded(self) -> None:
        """A task became pending."""
        self._entered_since += 1

    def is_spent(self, limit: int) -> bool:
        """Whether there is no room for all that is known, so that it is time to look."""
        return self._entered_since >= self._ceiling(limit)

    async def is_full(self, limit: int) -> bool:
        """Look again, whether there was no room in all for one task more."""
        for _ in range(_LOOKS):
            await self._look_since(monotonic())
            if self._pending < limit:
                return False
            if self._still:
                break
        return True

    async def tidy(self, scopes: Iterable[str]) -> None:
        """Remove the counts of these scopes that are zero."""

        async def remove(scope: str) -> None:
            with suppress(ConditionFailed):
                await self._calls.on_table(
                    "delete_item",
                    Key=room_key(scope),
                    ConditionExpression="#pending <= :zero",
                    ExpressionAttributeNames={"#pending": "pending"},
                    ExpressionAttributeValues={":zero": number(0)},
                )

        if self.on:
            await together([remove(scope) for scope in set(scopes)])

    def _ceiling(self, limit: int) -> int:
        return self._entered + limit - self._pending

    async def _look_since(self, moment: float) -> None:
        # Callers who wait for a look share the one that begins next.
        if self._looked_at <= moment:
            async with self._turns.alone("look"):
                if self._looked_at <= moment:
                    await self._look()

    async def _look(self) -> None:
        looks, pause = 0, _FIRST_PAUSE
        while True:
            began = monotonic()
            # In this order: what comes in between is counted twice, never overlooked.
            entered_before = await self._read_entered()
            shards = {item[KEY]["S"]: item for item in await read_items(self._calls, _COUNTERS)}
            off = [shard for shard, key in enumerate(_COUNTERS) if ROOMED not in shards.get(_name(key), {})]
            if off:
                await self._switch_on(off)
                continue
            self.on = True
            counts = [(_number(item, "pending"), _number(item, ROOMED)) for item in shards.values()]
            missing = sum(max(0, pending - known) for pending, known in counts)
            if missing <= self._nobodys:
                break
            if not await self._enter(missing):
                looks += 1
                if looks == _LOOKS:
                    # Tasks that DynamoDB's own expiry removed are counted for ever.
                    logger.info("%d pending tasks are counted but not found", missing)
                    self._nobodys = missing
                await asyncio.sleep(pause)
                pause *= 2
        self._entered = entered_before
        self._entered_since = max(entered_before, self._entered_since)
        self._pending = sum(pending for pending, _ in counts)
        self._still = await self._read_entered() == entered_before
        self._looked_at = began

    async def _read_entered(self) -> int:
        answer = await self._calls.on_table("get_item", Key=ENTERED, ConsistentRead=True)
        return _number(answer.get("Item", {}), "entered")

    async def _switch_on(self, shards: Iterable[int]) -> None:
        await together(
            [
                self._calls.on_table(
                    "update_item",
                    Key=count_key(shard),
                    UpdateExpression="SET #roomed = if_not_exists(#roomed, :zero)",
                    ExpressionAttributeNames={"#roomed": ROOMED},
                    ExpressionAttributeValues={":zero": number(0)},
                )
                for shard in shards
            ]
        )

    async def _enter(self, missing: int) -> int:
        """Have up to so many pending tasks counted that are not; how many there were."""
        ranges = [
            Range(
                index=BY_OPERATION,
                partition=partition(TaskStatus.PENDING, operation=operation, priority=priority),
            )
            for operation, priorities in (await self._operations.all()).items()
            for priority in priorities
        ]
        items = await self._reads.chosen(ranges, missing, _is_missing, *_LOOKED_AT)
        scopes: dict[str, list[Item]] = {}
        for item in items:
            scopes.setdefault(scope_of(item), []).append(item)
        slots = asyncio.Semaphore(_AT_ONCE)

        async def enter(scope: str, batch: list[Item]) -> None:
            async with slots:
                while batch:
                    try:
                        await transact(self._calls, self._turns, self._entry(scope, batch))
                    except ConditionFailed as failed:
                        # They were claimed, or another process was faster.
                        batch = [item for item in batch if _name(item) not in failed.named]
                    else:
                        return

        batches = [
            enter(scope, waiting[start : start + _BATCH])
            for scope, waiting in scopes.items()
            for start in range(0, len(waiting), _BATCH)
        ]
        await together(batches)
        return len(items)

    def _entry(self, scope: str, batch: list[Item]) -> Parts:
        pending_limit = room_key(scope)
        remove_at = _outlasting(max(_number(item, "deadline_at") for item in batch))
        parts: Parts = {_name(item): roomed(self._table, ref_of(item)) for item in batch}
        for shard, number_of_tasks in Counter(count_shard(ref_of(item)) for item in batch).items():
            counters = count_key(shard)
            parts[_name(counters)] = counted(self._table, counters, {ROOMED: number_of_tasks}, with_room=True)
        parts[_name(pending_limit)] = in_room(self._table, pending_limit, len(batch), remove_at=remove_at)
        return parts


def _name(item: Item) -> str:
    return item[KEY]["S"]


def _number(item: Item, name: str) -> int:
    return int(item[name]["N"]) if name in item else 0


def _is_missing(item: Item) -> bool:
    return status_of(item) is TaskStatus.PENDING and ROOMED not in item


def _outlasting(deadline_at: int) -> int:
    return deadline_at // 1_000_000 + round(_LONGEST_WAIT.total_seconds())
