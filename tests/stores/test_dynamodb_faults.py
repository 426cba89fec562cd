"""A DynamoDB store when the server or the way to it fails: the true answer or a clear error, in time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from stores.backends import name_of
from stores.dynamodb_items import counted, items, kinds, miscounted
from stores.dynamodb_way import Lose, Pass, Refuse, Way
from stores.records import after, apply, cancelled, claimed, new_task, settled, stored
from stores.renewals import elsewhere

from raincheck.domain.task import InputRequest, KeyKind, Outcome, Progress, Task
from raincheck.domain.transitions import AskInput, Claim, ReportProgress, transition
from raincheck.errors import QueueFull, StoreUnavailable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import Inserted, PendingLimit, TaskQuery
from raincheck.stores.dynamodb.store import DynamoDBStore
from support.servers.dynamodb import CREDENTIALS, DynamoDBServer
from support.servers.server import free_port, needed
from support.waiting import PATIENCE

SECONDS = 2.0
"""The stores' timeout in these tests."""

# What the event loop and a busy machine may add.
_SLACK = 2.0
CONFLICT = Refuse(
    "TransactionCanceledException",
    "Transaction cancelled [TransactionConflict, None]",
    CancellationReasons=[{"Code": "TransactionConflict", "Message": "ongoing"}, {"Code": "None"}],
)
THROTTLED = Refuse("ProvisionedThroughputExceededException")


@pytest.fixture(scope="module")
def server() -> Iterator[DynamoDBServer]:
    needed(DynamoDBServer.missing())
    os.environ.update(CREDENTIALS)
    server = DynamoDBServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def table(tmp_path: Path) -> str:
    return name_of(tmp_path)


@asynccontextmanager
async def _opened(store: DynamoDBStore) -> AsyncGenerator[DynamoDBStore]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(server: DynamoDBServer, table: str, _no_leaked_task: None) -> AsyncIterator[DynamoDBStore]:
    async with _opened(DynamoDBStore(table, endpoint=server.url, timeout_seconds=SECONDS)) as store:
        yield store


@pytest.fixture
async def way(server: DynamoDBServer, _no_leaked_task: None) -> AsyncIterator[Way]:
    async with Way(server.port) as way:
        yield way


@pytest.fixture
async def far(way: Way, table: str) -> AsyncIterator[DynamoDBStore]:
    """A store at the other end of that way."""
    async with _opened(DynamoDBStore(table, endpoint=way.url, timeout_seconds=SECONDS, migrate=True)) as store:
        yield store


async def _agrees(server: DynamoDBServer, table: str, *tasks: Task) -> None:
    found = await items(server.url, table)
    assert {item["raincheck_item"]["S"] for item in kinds(found, "task").values()} == {
        f"task#{task.task_ref}" for task in tasks
    }
    present, kept = counted(found)
    assert present == kept


# Answers that get lost.


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("key", [None, "k"])
async def test_an_insert_whose_answer_is_lost_is_an_insert(
    far: DynamoDBStore, way: Way, server: DynamoDBServer, table: str, key: str | None, times: int
) -> None:
    task = new_task(idempotency_key=key, arguments={"a": "x" * 3000})
    way.meet("TransactWriteItems", *(Lose() for _ in range(times)))
    assert await far.insert(task) == (task, True)
    assert way.met
    assert await far.get(task.task_ref) == task
    await _agrees(server, table, task)


async def test_a_takeover_of_a_key_whose_answer_is_lost_is_a_takeover(
    far: DynamoDBStore, way: Way, server: DynamoDBServer, table: str
) -> None:
    await cancelled(far, idempotency_key="k")
    task = new_task(idempotency_key="k", created_at=after(60))
    other = asyncio.Event()

    async def second_request() -> None:
        other.set()

    # The first finds the key taken; the second takes it over.
    way.meet("TransactWriteItems", Lose(second_request), Lose(second_request))
    assert await far.insert(task) == (task, True)
    assert other.is_set()
    await _agrees(server, table, task)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_change_whose_answer_is_lost_is_a_change(
    far: DynamoDBStore, way: Way, server: DynamoDBServer, table: str, times: int
) -> None:
    task = await stored(far)
    for event, operation in (
        (Claim(worker_id="w", lease_until=after(30)), "TransactWriteItems"),
        (ReportProgress(fence=1, progress=Progress(fraction=0.5)), "UpdateItem"),
        (AskInput(fence=1, requests=(InputRequest(key="q", method="m", params={"m": "?" * 3000}),)), "PutItem"),
    ):
        task = transition(task, event, after(1))
        way.meet(operation, *(Lose() for _ in range(times)))
        assert await far.replace(task)
        assert way.met
        assert not await far.replace(task)
        assert await far.get(task.task_ref) == task
    done = settled(task, Outcome(value="x" * 3000))
    way.meet("TransactWriteItems", *(Lose() for _ in range(times)))
    assert await far.replace(done)
    assert await far.get(task.task_ref) == done
    await _agrees(server, table, done)


async def test_a_change_whose_answer_is_lost_is_a_change_though_others_follow(
    far: DynamoDBStore, store: DynamoDBStore, way: Way
) -> None:
    task = await apply(far, await stored(far), Claim(worker_id="w", lease_until=after(30)))
    mine = transition(task, ReportProgress(fence=1, progress=Progress(fraction=0.1)), after(1))

    async def others() -> None:
        later = mine
        for number in range(5):
            later = await apply(store, later, ReportProgress(fence=1, progress=Progress(fraction=number / 10)))

    way.meet("UpdateItem", Lose(others))
    assert await far.replace(mine)
    found = await far.get(task.task_ref)
    assert found is not None
    assert found.version == mine.version + 5


async def test_a_change_that_came_too_late_is_refused_though_its_answer_is_lost(
    far: DynamoDBStore, store: DynamoDBStore, way: Way
) -> None:
    task = await apply(far, await stored(far), Claim(worker_id="w", lease_until=after(30)))
    mine, others = (
        transition(task, ReportProgress(fence=1, progress=Progress(fraction=fraction)), after(1))
        for fraction in (0.1, 0.2)
    )
    assert await store.replace(others)
    way.meet("UpdateItem", Lose(), Lose())
    assert not await far.replace(mine)
    assert await far.get(task.task_ref) == others


async def test_a_purge_whose_answer_is_lost_counts_what_it_removed(
    far: DynamoDBStore, way: Way, server: DynamoDBServer, table: str
) -> None:
    for number in range(3):
        await cancelled(far, idempotency_key=f"k{number}", arguments={"a": "x" * 3000})
    way.meet("TransactWriteItems", Lose(), Lose())
    assert await far.purge(after(60), 10) == 3
    await far.close()
    found = await items(server.url, table)
    assert {name for name in found if not name.startswith(("count#", "meta#"))} == set()
    assert counted(found) == ({}, {})


async def test_a_renewal_whose_answer_is_lost_is_a_renewal(far: DynamoDBStore, way: Way) -> None:
    task = await apply(far, await stored(far), Claim(worker_id="w", lease_until=after(30)))
    way.meet("UpdateItem", Lose(), Lose())
    assert await far.renew("w", {task.task_ref: 1}, after(90)) == set()
    found = await far.get(task.task_ref)
    assert found is not None
    assert found.lease_until == after(90)


# Records, room, and keys of calls under way.


def _record(**changes: Any) -> Record:
    members: dict[str, Any] = {"kind": "webhook", "key": "k", "value": 1, "due_at": after(1), "expires_at": after(3600)}
    return Record(**{**members, **changes})


@pytest.mark.parametrize("times", [1, 2])
async def test_a_record_whose_answer_is_lost_is_written_once(far: DynamoDBStore, way: Way, times: int) -> None:
    first, second = _record(), _record(version=2, value="x" * 3000)
    way.meet("TransactWriteItems", *(Lose() for _ in range(times)))
    assert await far.put_record(first)
    assert not await far.put_record(first)
    way.meet("UpdateItem", *(Lose() for _ in range(times)))
    assert await far.put_record(second)
    assert not await far.put_record(second)
    assert await far.get_record("webhook", "k") == second
    way.meet("TransactWriteItems", *(Lose() for _ in range(times)))
    assert await far.remove_record(second)
    assert not await far.remove_record(second)
    assert way.met


async def test_a_record_whose_answer_is_lost_is_written_though_others_follow(
    far: DynamoDBStore, store: DynamoDBStore, way: Way
) -> None:
    async def others() -> None:
        for version in range(3, 8):
            assert await store.put_record(_record(version=version, value="theirs"))

    assert await far.put_record(_record())
    way.meet("UpdateItem", Lose(others))
    assert await far.put_record(_record(version=2, value="mine"))
    assert await far.get_record("webhook", "k") == _record(version=7, value="theirs")


async def test_a_record_that_is_removed_does_not_come_back_with_a_repetition(
    far: DynamoDBStore, store: DynamoDBStore, way: Way
) -> None:
    async def remove() -> None:
        assert await store.remove_record(_record())

    way.meet("TransactWriteItems", Lose(remove))
    assert await far.put_record(_record())
    assert await far.get_record("webhook", "k") is None


async def test_of_two_that_remove_a_record_only_one_did_though_its_answer_is_lost(
    far: DynamoDBStore, store: DynamoDBStore, way: Way
) -> None:
    assert await far.put_record(_record())

    async def too_late() -> None:
        assert not await store.remove_record(_record())

    way.meet("TransactWriteItems", Lose(too_late))
    assert await far.remove_record(_record())
    again = _record()
    assert await far.put_record(again)
    assert await store.remove_record(again)
    way.meet("TransactWriteItems", Lose(), Lose())
    assert not await far.remove_record(again)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_change_with_a_record_whose_answer_is_lost_is_one_change(
    far: DynamoDBStore, way: Way, server: DynamoDBServer, table: str, times: int
) -> None:
    task = claimed(await stored(far))
    assert await far.replace(task)
    progress = transition(task, ReportProgress(fence=1, progress=Progress(fraction=0.5)), after(1))
    done = settled(progress, Outcome(value="x" * 3000))
    for version, change in ((1, progress), (2, done)):
        way.meet("TransactWriteItems", *(Lose() for _ in range(times)))
        assert await far.replace(change, records=(_record(value=version),))
        assert not await far.replace(change, records=(_record(value="again"),))
        assert await far.get_record("webhook", "k") == _record(value=version, version=version)
    await _agrees(server, table, done)


@pytest.mark.parametrize("times", [1, 2])
async def test_an_insert_into_the_last_room_whose_answer_is_lost_is_an_insert(
    far: DynamoDBStore, way: Way, server: DynamoDBServer, table: str, times: int
) -> None:
    await cancelled(far, idempotency_key="f", key_kind=KeyKind.INFLIGHT)
    task = new_task(idempotency_key="f", key_kind=KeyKind.INFLIGHT)
    # The first finds the key taken.
    way.meet("TransactWriteItems", Pass(), *(Lose() for _ in range(times)))
    assert await far.insert(task, pending_limit=PendingLimit(1, 1)) == (task, True)
    assert way.met
    with pytest.raises(QueueFull):
        await far.insert(new_task(), pending_limit=PendingLimit(1, 1))
    assert await far.insert(
        new_task(idempotency_key="f", key_kind=KeyKind.INFLIGHT), pending_limit=PendingLimit(1, 1)
    ) == (
        task,
        False,
    )
    assert miscounted(await items(server.url, table)) == []


@pytest.mark.parametrize("refusal", [CONFLICT, THROTTLED], ids=["conflict", "throttled"])
async def test_what_passes_is_waited_for_where_room_is_asked_for(
    far: DynamoDBStore, way: Way, server: DynamoDBServer, table: str, refusal: Refuse
) -> None:
    await stored(far)
    for operation in ("UpdateItem", "TransactWriteItems", "BatchGetItem", "GetItem"):
        way.meet(operation, *[refusal] * 2)
    assert (await far.insert(new_task(), pending_limit=PendingLimit(2, 2))).created
    assert way.met
    assert miscounted(await items(server.url, table)) == []


# What Amazon refuses for a moment, or for good.


@pytest.mark.parametrize("refusal", [CONFLICT, THROTTLED], ids=["conflict", "throttled"])
async def test_what_passes_is_waited_for(
    far: DynamoDBStore, way: Way, server: DynamoDBServer, table: str, refusal: Refuse
) -> None:
    task = new_task(idempotency_key="k")
    way.meet("TransactWriteItems", *[refusal] * 4)
    assert await far.insert(task) == (task, True)
    way.meet("TransactWriteItems", *[refusal] * 4)
    assert await far.replace(claimed(task))
    assert way.met
    await _agrees(server, table, task)


async def test_what_does_not_pass_is_an_error_in_time(far: DynamoDBStore, way: Way, table: str) -> None:
    way.meet("TransactWriteItems", *[THROTTLED] * 1000)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as told:
        await far.insert(new_task())
    assert time.monotonic() - started < SECONDS + _SLACK
    assert str(told.value) == (
        f"The DynamoDB table {table} at {way.url} is throttled by AWS (ProvisionedThroughputExceededException)."
    )


async def test_a_missing_right_is_named_and_the_account_is_not(far: DynamoDBStore, way: Way, table: str) -> None:
    task = await stored(far)
    for operation, call in (
        ("GetItem", far.get(task.task_ref)),
        ("Query", far.claimable(["report"], 1)),
        ("TransactWriteItems", far.replace(claimed(task))),
        ("UpdateItem", far.renew("w", {task.task_ref: 1}, after(1))),
    ):
        right = "PutItem" if operation == "TransactWriteItems" else operation
        text = f"User: arn:aws:iam::123456789012:user/eve is not authorized to perform: dynamodb:{right} on resource: x"
        way.meet(operation, Refuse("AccessDeniedException", text))
        with pytest.raises(StoreUnavailable) as told:
            await call
        assert str(told.value) == (
            f"The DynamoDB table {table} at {way.url} may not be used: "
            f"this AWS identity needs the right dynamodb:{right} on it."
        )


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "ExpiredTokenException"])
async def test_credentials_that_are_refused_are_said_to_be(far: DynamoDBStore, way: Way, code: str) -> None:
    way.meet("GetItem", Refuse(code, "The security token AKIASECRET is invalid"))
    with pytest.raises(StoreUnavailable, match=r"does not accept this process's AWS credentials") as told:
        await far.get("x")
    assert "SECRET" not in str(told.value)


# The server.


def _all_verbs(store: DynamoDBStore, task: Task) -> list[Awaitable[object]]:
    return [
        *(store.insert(new_task(idempotency_key="k")) for _ in range(30)),
        *(store.replace(claimed(task, f"w{number}")) for number in range(5)),
        store.get(task.task_ref),
        store.claimable(["report"], 5),
        store.overdue(after(0), 5),
        store.purge(after(0), 5),
        store.list(TaskQuery()),
        store.count(),
        store.versions([task.task_ref]),
        store.insert(new_task(), pending_limit=PendingLimit(5, 5)),
        store.get_record("webhook", "k"),
        store.put_record(_record()),
        store.remove_record(_record()),
        store.records(RecordQuery("webhook")),
        store.records(RecordQuery("webhook", due=after(1))),
        store.renew("w", {f"{task.task_ref}{number}": 1 for number in range(20)}, after(30)),
    ]


async def _refused(calls: list[Awaitable[object]]) -> set[str]:
    """What they were told, each an error within the timeout."""
    started = time.monotonic()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - started < SECONDS + _SLACK
    assert [type(answer) for answer in answers] == [StoreUnavailable] * len(answers)
    return {str(answer) for answer in answers}


async def test_a_frozen_server_is_an_error_in_time_and_is_used_again_when_it_moves(
    store: DynamoDBStore, server: DynamoDBServer, table: str
) -> None:
    task = await stored(store)
    async with elsewhere(store) as renew:
        await renew("w", {task.task_ref: 1}, after(30))
        server.freeze()
        try:
            renewal = renew("w", {task.task_ref: 1}, after(30))
            told = await _refused([*_all_verbs(store, task), renewal])
            assert told == {f"The DynamoDB table {table} at {server.url} does not answer within 2 s."}
            opening = DynamoDBStore(table, endpoint=server.url, timeout_seconds=SECONDS)
            await _refused([opening.open()])
        finally:
            server.thaw()
        again = await stored(store)
        assert await store.get(again.task_ref) == again
        for each in (renew, store.renew):
            assert await each("w", {again.task_ref: 1}, after(30)) == {again.task_ref}


async def test_what_a_listener_begins_has_time_of_its_own(server: DynamoDBServer, table: str) -> None:
    async with _opened(DynamoDBStore(table, endpoint=server.url, timeout_seconds=SECONDS)) as store:
        begun: list[asyncio.Task[Task | None]] = []

        async def look(task: Task) -> Task | None:
            # Longer than the store waits for an answer: that is the subject.
            await asyncio.sleep(SECONDS + 0.1)
            return await store.get(task.task_ref)

        def told(task: Task | str | None) -> None:
            if isinstance(task, Task):
                begun.append(asyncio.create_task(look(task)))

        end = store.subscribe(told)
        task = await stored(store)
        end()
        assert await asyncio.gather(*begun) == [task]


async def test_a_store_is_closed_in_time_while_the_server_is_frozen(
    store: DynamoDBStore, server: DynamoDBServer
) -> None:
    server.freeze()
    try:
        calls = [asyncio.create_task(store.insert(new_task())) for _ in range(20)]
        await asyncio.sleep(0)
        started = time.monotonic()
        await store.close()
        assert time.monotonic() - started < SECONDS + _SLACK
        assert {type(answer) for answer in await asyncio.gather(*calls, return_exceptions=True)} == {StoreUnavailable}
    finally:
        server.thaw()


@pytest.mark.usefixtures("_no_leaked_task")
async def test_a_server_that_is_not_there_is_an_error_at_once(table: str) -> None:
    os.environ.update(CREDENTIALS)
    port = free_port()
    nowhere = DynamoDBStore(table, endpoint=f"http://127.0.0.1:{port}", timeout_seconds=SECONDS)
    assert await _refused([nowhere.open()]) == {
        f"The DynamoDB table {table} at http://127.0.0.1:{port} cannot be reached."
    }
    secretive = DynamoDBStore(table, endpoint=f"http://eve:secret@127.0.0.1:{port}", timeout_seconds=SECONDS)
    (told,) = await _refused([secretive.open()])
    assert "secret" not in told


async def test_nothing_acknowledged_is_lost_when_the_server_is_frozen_in_mid_load(
    store: DynamoDBStore, server: DynamoDBServer, table: str
) -> None:
    acknowledged: dict[str, Task] = {}
    unclear: set[str] = set()
    stopping, enough = asyncio.Event(), asyncio.Event()

    async def write(task: Task, call: Awaitable[bool | Inserted]) -> bool:
        try:
            answer = await call
        except StoreUnavailable:
            unclear.add(task.task_ref)
            return False
        # Nobody else writes these tasks: whatever else is answered is a wrong answer to a write that was sent twice.
        assert answer in (True, (task, True))
        acknowledged[task.task_ref] = task
        if len(acknowledged) % 50 == 49:
            enough.set()
        return True

    async def caller() -> None:
        while not stopping.is_set():
            task = new_task(arguments={"a": "x" * 3000})
            if await write(task, store.insert(task)):
                task = claimed(task)
                if await write(task, store.replace(task)):
                    await write(settled(task), store.replace(settled(task)))

    callers = [asyncio.create_task(caller()) for _ in range(20)]
    for _ in range(2):
        async with asyncio.timeout(PATIENCE):
            await enough.wait()
        server.freeze()
        async with asyncio.timeout(SECONDS + 5):
            while not unclear:
                await asyncio.sleep(0.01)
        server.thaw()
        enough.clear()
    async with asyncio.timeout(PATIENCE):
        await enough.wait()
    stopping.set()
    await asyncio.gather(*callers)
    versions = await store.versions(list(acknowledged))
    assert versions.keys() == acknowledged.keys()
    wrong = [ref for ref, task in acknowledged.items() if versions[ref] != task.version and ref not in unclear]
    assert wrong == []
    for task_ref in acknowledged.keys() & unclear:
        found = await store.get(task_ref)
        assert found is not None
        assert found.arguments == {"a": "x" * 3000}
    present, kept = counted(await items(server.url, table))
    assert present == kept
