"""Room, priorities and records in a DynamoDB table: what is counted, and from when on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from stores.dynamodb_items import client, items, kinds, leftovers, miscounted
from stores.records import NOW, after, apply, new_task, settled, stored

from raincheck.domain.task import Outcome, Progress, Task, TaskStatus
from raincheck.domain.transitions import Cancel, Claim, Release, ReportProgress, SaveCheckpoint, Settle, transition
from raincheck.errors import QueueFull
from raincheck.ports.records import LARGEST_RECORD, Record, RecordQuery
from raincheck.ports.task_store import Inserted, PendingLimit, TaskQuery
from raincheck.stores.dynamodb.items import count_key
from raincheck.stores.dynamodb.store import DynamoDBStore
from support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("_no_leaked_task")

CLAIM = Claim(worker_id="w", lease_until=after(30))


@pytest.fixture
async def stores(endpoint: str, table: str, _no_leaked_task: None) -> AsyncIterator[list[DynamoDBStore]]:
    """Three processes' stores; at the end the table is as it should be."""
    stores = [DynamoDBStore(table, endpoint=endpoint) for _ in range(3)]
    for store in stores:
        await store.open()
    yield stores
    for store in stores:
        await store.close()
    assert await leftovers(endpoint, table) == []


@pytest.fixture
def store(stores: list[DynamoDBStore]) -> DynamoDBStore:
    return stores[0]


async def _update(endpoint: str, table: str, name: str, expression: str, **values: Any) -> None:
    """Change an item past the store; `expression` names attributes with # and values with :."""
    words = expression.replace(",", " ").split()
    async with client(endpoint) as dynamodb:
        await dynamodb.update_item(
            TableName=table,
            Key={"raincheck_item": {"S": name}},
            UpdateExpression=expression,
            ExpressionAttributeNames={word: word[1:] for word in words if word.startswith("#")},
            **({"ExpressionAttributeValues": {f":{name}": value for name, value in values.items()}} if values else {}),
        )


async def _found(store: DynamoDBStore, task: Task) -> Task:
    found = await store.get(task.task_ref)
    assert found is not None
    return found


async def test_what_was_pending_before_room_was_asked_for_takes_room(stores: list[DynamoDBStore]) -> None:
    store = stores[0]
    waiting = [
        await stored(store, scope=scope, priority=priority, operation_type=operation)
        for scope in ("ada", "bob")
        for priority in (0, 7)
        for operation in ("report", "resize")
    ]
    running = await apply(store, await stored(store), CLAIM)
    answers = await asyncio.gather(
        *(store.insert(new_task(scope="ada"), pending_limit=PendingLimit(per_scope=5)) for store in stores),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Inserted) for answer in answers) == 1
    with pytest.raises(QueueFull) as full:
        await stores[1].insert(new_task(scope="bob"), pending_limit=PendingLimit(total=9))
    assert full.value.details["limit"] == "in_all"
    await apply(stores[2], running, Cancel())
    # Whoever never asked for room counts too, from now on.
    for task in waiting:
        await apply(stores[2], await _found(stores[2], task), CLAIM)
    await stored(stores[2], scope="bob")
    with pytest.raises(QueueFull):
        await store.insert(new_task(scope="bob"), pending_limit=PendingLimit(per_scope=1))
    assert (await store.insert(new_task(scope="bob"), pending_limit=PendingLimit(per_scope=2))).created


async def test_nothing_is_overlooked_while_others_insert_and_claim_without_room(
    stores: list[DynamoDBStore], endpoint: str, table: str
) -> None:
    stopping = False

    async def come_and_go(store: DynamoDBStore, scope: str) -> None:
        while not stopping:
            task = await stored(store, scope=scope, retry_when_lost=True)
            await stored(store, scope=scope)
            await apply(store, task, CLAIM, Release(fence=1), CLAIM)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for store in stores[1:]:
            for scope in ("ada", "bob"):
                group.create_task(come_and_go(store, scope))
        for number in range(5):
            assert (await stores[0].insert(new_task(scope=f"s{number}"), pending_limit=PendingLimit(10_000, 1))).created
        stopping = True
    # Those that began with what they believed are found at the next look.
    late = DynamoDBStore(table, endpoint=endpoint)
    await late.open()
    assert (await late.insert(new_task(), pending_limit=PendingLimit(10_000, 10_000))).created
    await late.close()
    assert miscounted(await items(endpoint, table)) == []


async def test_a_start_that_broke_off_is_completed_by_whoever_comes_next(
    stores: list[DynamoDBStore], endpoint: str, table: str
) -> None:
    first, second, third = stores
    for _ in range(5):
        await stored(first)
    # A process said so in half of the counters, and died.
    for shard in range(16):
        name = count_key(shard)["raincheck_item"]["S"]
        await _update(endpoint, table, name, "SET #roomed = :zero", zero={"N": "0"})
    for _ in range(20):
        await stored(second)
    for _ in range(20):
        await apply(first, await stored(first, retry_when_lost=True), CLAIM, Release(fence=1))
    with pytest.raises(QueueFull):
        await third.insert(new_task(), pending_limit=PendingLimit(per_scope=45))
    assert (await third.insert(new_task(), pending_limit=PendingLimit(46, 46))).created


async def test_no_scope_is_counted_for_ever(store: DynamoDBStore, endpoint: str, table: str) -> None:
    for number in range(5):
        task = (await store.insert(new_task(scope=f"s{number}"), pending_limit=PendingLimit(per_scope=1))).task
        await apply(store, task, Cancel())
    kept = (await store.insert(new_task(scope="s0"), pending_limit=PendingLimit(per_scope=1))).task
    assert await store.purge(after(100), 10) == 5
    found = await items(endpoint, table)
    assert [item["pending"]["N"] for item in kinds(found, "room").values()] == ["1"]
    await apply(store, kept, Cancel())


async def test_limits_may_differ_and_change(stores: list[DynamoDBStore]) -> None:
    first, second, _ = stores
    for _ in range(3):
        assert (await first.insert(new_task(), pending_limit=PendingLimit(total=3))).created
    for limit in (1, 2, 3):
        with pytest.raises(QueueFull):
            await second.insert(new_task(), pending_limit=PendingLimit(total=limit))
    assert (await second.insert(new_task(), pending_limit=PendingLimit(total=4))).created
    with pytest.raises(QueueFull):
        await first.insert(new_task(), pending_limit=PendingLimit(total=4))
    for task in await second.claimable(["report"], 4):
        await apply(second, task, CLAIM)
    answers = await asyncio.gather(
        *(store.insert(new_task(), pending_limit=PendingLimit(total=3)) for store in stores for _ in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Inserted) for answer in answers) == 3


async def test_a_terminal_task_and_a_room_without_limits_ask_for_none(
    store: DynamoDBStore, endpoint: str, table: str
) -> None:
    await stored(store)
    assert (await store.insert(new_task(), pending_limit=PendingLimit())).created
    ended = transition(new_task(), Cancel(), NOW)
    assert (await store.insert(ended, pending_limit=PendingLimit(0, 0))).created
    assert miscounted(await items(endpoint, table)) == []
    assert kinds(await items(endpoint, table), "room") == {}


async def test_listings_of_an_operation_have_its_tasks_of_every_priority(stores: list[DynamoDBStore]) -> None:
    tasks = [
        await stored(stores[number % 3], created_at=after(number), priority=(0, 5, -5)[number % 3], scope=f"s{number}")
        for number in range(6)
    ]
    newest = [task.task_ref for task in reversed(tasks)]
    for store in stores:
        assert [each.task_ref for each in await store.list(TaskQuery(operation_type="report"))] == newest
        assert [each.task_ref for each in await store.list(TaskQuery(statuses=[TaskStatus.PENDING]))] == newest
        assert [each.task_ref for each in await store.list(TaskQuery(scope="s1", operation_type="report"))] == [
            newest[4]
        ]
        claims = [task.priority for task in await store.claimable(["report", "other"], 10)]
        assert claims == [5, 5, 0, 0, -5, -5]


async def test_a_large_checkpoint_is_written_once(store: DynamoDBStore, endpoint: str, table: str) -> None:
    task = await apply(store, await stored(store), CLAIM)
    task = await apply(store, task, SaveCheckpoint(fence=1, checkpoint={"a": 1, "b": secrets.token_hex(3000)}))

    async def parts() -> list[str]:
        return sorted(kinds(await items(endpoint, table), "part"))

    first = await parts()
    assert len(first) == 1
    task = await apply(store, task, Release(fence=1), CLAIM)
    assert await parts() == first
    # Equal to Python, and yet another value.
    task = await apply(
        store, replace(task, checkpoint={**task.checkpoint, "a": True}), Settle(fence=2, outcome=Outcome())
    )
    found = await store.get(task.task_ref)
    assert found == task
    assert found is not None
    assert found.checkpoint["a"] is True


# Records.


async def test_the_largest_record_is_written_with_the_largest_result(store: DynamoDBStore) -> None:
    task = await apply(store, await stored(store, arguments={"a": secrets.token_hex(300_000)}), CLAIM)
    task = await apply(store, task, SaveCheckpoint(fence=1, checkpoint=secrets.token_hex(300_000)))
    done = settled(task, Outcome(value=secrets.token_hex(2_000_000)))
    record = Record(kind="webhook", key="k" * 255, value=secrets.token_hex(LARGEST_RECORD // 2 - 1), due_at=NOW)
    assert await store.replace(done, records=(record,))
    same = await store.get(task.task_ref) == done and await store.get_record("webhook", "k" * 255) == record
    assert same
    assert await store.remove_record(record)
    await store.purge(after(100), 1)


async def test_expired_records_go_when_they_are_looked_at_or_purged(
    store: DynamoDBStore, endpoint: str, table: str
) -> None:
    for key, due, expires in (("due", after(1), after(2)), ("never", None, after(2)), ("kept", after(1), after(50))):
        assert await store.put_record(Record(kind="webhook", key=key, value=1, due_at=due, expires_at=expires))
    assert [record.key for record in await store.records(RecordQuery("webhook", due=after(3)))] == ["kept"]
    assert await store.purge(after(3600), 10) == 0
    found = kinds(await items(endpoint, table), "record")
    assert list(found) == ["record#webhook#kept"]
    month = 30 * 86400
    assert month <= int(found["record#webhook#kept"]["remove_at"]["N"]) - after(50).timestamp() < month + 2


async def test_what_the_index_says_of_a_record_is_not_believed(store: DynamoDBStore, endpoint: str, table: str) -> None:
    for key in ("a", "b"):
        assert await store.put_record(Record(kind="webhook", key=key, value=1, due_at=after(1)))
    later = str(int(kinds(await items(endpoint, table), "record")["record#webhook#a"]["due_at"]["N"]) + 10_000_000)
    # As where the index lags: the record was put off.
    await _update(endpoint, table, "record#webhook#a", "SET #due_at = :later", later={"N": later})
    assert [record.key for record in await store.records(RecordQuery("webhook", due=after(2), limit=1))] == ["b"]


async def test_progress_with_a_record_changes_no_counter(store: DynamoDBStore) -> None:
    task = await apply(store, await stored(store), CLAIM)
    for version in (1, 2):
        task = transition(task, ReportProgress(fence=1, progress=Progress(message=str(version))), NOW)
        assert await store.replace(task, records=(Record(kind="webhook", key="k", value=version),))
    assert await store.get_record("webhook", "k") == Record(kind="webhook", key="k", value=2, version=2)
    assert (await store.count())[TaskStatus.PROCESSING] == 1
