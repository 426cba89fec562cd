"""Several processes on one DynamoDB table, and processes that are killed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
from stores.dynamodb_items import counted, items, miscounted
from stores.processes import Child, child
from stores.records import new_task, stored

from raincheck.domain.task import TaskStatus
from raincheck.ports.task_store import PendingLimit
from raincheck.stores.dynamodb.store import DynamoDBStore


@pytest.fixture
async def store(endpoint: str, table: str, _no_leaked_task: None) -> AsyncIterator[DynamoDBStore]:
    store = DynamoDBStore(table, endpoint=endpoint)
    await store.open()
    yield store
    await store.close()


def _all(stack: ExitStack, verb: str, endpoint: str, table: str, number: int) -> list[Child]:
    arguments = [f"{table},process-{index}" for index in range(number)]
    return [
        stack.enter_context(child(verb, endpoint, argument, program="dynamodb_children.py")) for argument in arguments
    ]


async def test_ten_processes_make_one_table_at_once(endpoint: str, table: str) -> None:
    with ExitStack() as stack:
        children = _all(stack, "create", endpoint, table, 10)
        for each in children:
            each.go()
        refs = [each.rest()[0] for each in children]
    store = DynamoDBStore(table, endpoint=endpoint, migrate=False)
    await store.open()
    assert len(set(refs)) == 10
    assert await store.versions(refs) == dict.fromkeys(refs, 1)
    await store.close()
    assert counted(await items(endpoint, table)) == ({"pending": 10}, {"pending": 10})


async def test_no_two_of_ten_processes_claim_one_task_or_share_a_key_twice(
    store: DynamoDBStore, endpoint: str, table: str
) -> None:
    with ExitStack() as stack:
        children = _all(stack, "compete", endpoint, table, 10)
        for each in children:
            each.go()
        answers = [json.loads(each.rest()[0]) for each in children]
    won = [ref for answer in answers for ref in answer["won"]]
    assert sum(answer["created"] for answer in answers) == 10 + 10 * 20
    assert len(won) == len(set(won)) == 210
    assert (await store.count())[TaskStatus.PROCESSING] == 210
    assert counted(await items(endpoint, table)) == ({"processing": 210}, {"processing": 210})
    for index, answer in enumerate(answers):
        for ref in answer["won"]:
            task = await store.get(ref)
            assert task is not None
            assert (task.worker_id, task.version) == (f"process-{index}", 2)


@pytest.mark.parametrize("lines", [1, 100, 400])
async def test_every_acknowledged_write_survives_kill_9_of_its_writer(
    store: DynamoDBStore, endpoint: str, table: str, lines: int
) -> None:
    with child("write_for_ever", endpoint, f"{table},", program="dynamodb_children.py") as writing:
        said = [writing.line() for _ in range(lines)]
        said += writing.kill()
    acknowledged: dict[str, int] = {}
    for line in said:
        task_ref, _, version = line.partition(" ")
        acknowledged[task_ref] = max(int(version), acknowledged.get(task_ref, 0))
    versions = await store.versions(acknowledged)
    assert {ref: version for ref, version in acknowledged.items() if versions.get(ref, 0) < version} == {}
    for task_ref in acknowledged:
        # Its payloads are whole, whatever the writer was about.
        assert await store.get(task_ref) is not None
    await stored(store)
    tasks, kept = counted(await items(endpoint, table))
    assert tasks == kept
    assert sum(tasks.values()) >= len(acknowledged) + 1


async def test_three_processes_fill_the_room_there_is_and_no_more(
    store: DynamoDBStore, endpoint: str, table: str
) -> None:
    # Before anybody asked for room.
    for _ in range(3):
        await stored(store, scope="ada")
    with ExitStack() as stack:
        children = _all(stack, "fill_room", endpoint, table, 3)
        for each in children:
            each.go()
        answers = [json.loads(each.rest()[0]) for each in children]
    ada, bob = (sum(answer[scope] for answer in answers) for scope in ("ada", "bob"))
    assert ada + bob == 25 - 3
    assert 3 + ada <= 15
    assert bob <= 15
    found = await items(endpoint, table)
    assert counted(found) == ({"pending": 25}, {"pending": 25})
    assert miscounted(found) == []


async def test_what_is_counted_for_room_stays_true_when_processes_are_killed(
    store: DynamoDBStore, endpoint: str, table: str
) -> None:
    with ExitStack() as stack:
        arguments = [f"{table},{number}" for number in range(2)]
        killed = [
            stack.enter_context(child("come_and_go", endpoint, each, program="dynamodb_children.py"))
            for each in arguments
        ]
        for each in killed:
            for _ in range(10):
                assert each.line()
        for each in killed:
            each.kill()
    assert (await store.insert(new_task(), pending_limit=PendingLimit(total=1000))).created
    found = await items(endpoint, table)
    tasks, kept = counted(found)
    assert tasks == kept
    assert miscounted(found) == []
