"""The table of a DynamoDB store: how it is made, upgraded and refused, and what lies in it."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stores.backends import server_of
from stores.dynamodb_items import client, counted, items, kinds
from stores.dynamodb_way import Way
from stores.records import NOW, after, apply, cancelled, claimed, new_task, settled, stored

from raincheck.domain.task import InputRequest, Outcome, Progress, Task, TaskStatus
from raincheck.domain.transitions import (
    AskInput,
    Cancel,
    Claim,
    ProvideInput,
    Release,
    ReportProgress,
    Settle,
    transition,
)
from raincheck.errors import QueueFull, StoreUnavailable, StoreUnusable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import PendingLimit, TaskQuery
from raincheck.ports.tls import Tls
from raincheck.stores.dynamodb import table as dynamodb_table
from raincheck.stores.dynamodb.client import Calls
from raincheck.stores.dynamodb.store import DynamoDBStore
from support.servers.dynamodb import DynamoDBServer
from support.servers.server import needed

pytestmark = pytest.mark.usefixtures("_no_leaked_task")

_MONTH = 30 * 86400


@pytest.fixture
async def store(endpoint: str, table: str, _no_leaked_task: None) -> AsyncIterator[DynamoDBStore]:
    store = DynamoDBStore(table, endpoint=endpoint)
    await store.open()
    yield store
    await store.close()


async def _opens(endpoint: str, table: str, *, migrate: bool = True) -> None:
    store = DynamoDBStore(table, endpoint=endpoint, migrate=migrate)
    try:
        await store.open()
    finally:
        await store.close()


async def _refused(endpoint: str, table: str, *, migrate: bool = True) -> str:
    with pytest.raises(StoreUnusable) as told:
        await _opens(endpoint, table, migrate=migrate)
    return str(told.value).removeprefix(f"The DynamoDB table {table} at {endpoint} ")


# Made, upgraded, refused.


async def test_a_table_is_made_with_its_indexes_and_its_expiry(endpoint: str, table: str) -> None:
    await _opens(endpoint, table)
    async with client(endpoint) as dynamodb:
        described = (await dynamodb.describe_table(TableName=table))["Table"]
        expiry = (await dynamodb.describe_time_to_live(TableName=table))["TimeToLiveDescription"]
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert {index["IndexName"] for index in described["GlobalSecondaryIndexes"]} == {
        "agenda",
        "of_operation",
        "of_scope",
        "of_both",
        "of_turn",
    }
    assert {index["Projection"]["ProjectionType"] for index in described["GlobalSecondaryIndexes"]} == {"KEYS_ONLY"}
    assert expiry == {"TimeToLiveStatus": "ENABLED", "AttributeName": "remove_at"}
    await _opens(endpoint, table, migrate=False)


async def test_a_table_that_is_not_there_is_made_only_where_that_is_asked_for(endpoint: str, table: str) -> None:
    assert await _refused(endpoint, table, migrate=False) == ("is not there; `raincheck store migrate` makes it.")
    async with client(endpoint) as dynamodb:
        assert table not in (await dynamodb.list_tables())["TableNames"]


@pytest.fixture
def fresh_endpoint(endpoint: str) -> Iterator[str]:
    """A DynamoDB of the test's own: changes of indexes take it minutes where it has the tables of all tests."""
    server = DynamoDBServer()
    server.start()
    yield server.url
    server.close()


async def test_an_incomplete_table_is_completed(fresh_endpoint: str, table: str) -> None:
    endpoint = fresh_endpoint
    async with client(endpoint) as dynamodb:
        await dynamodb.create_table(
            TableName=table,
            KeySchema=[{"AttributeName": "raincheck_item", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "raincheck_item", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        assert await _refused(endpoint, table, migrate=False) == (
            "is not complete; `raincheck store migrate` completes it."
        )
        await _opens(endpoint, table)
        await _opens(endpoint, table, migrate=False)
        await dynamodb.update_table(
            TableName=table, GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "of_scope"}}]
        )
        assert await _refused(endpoint, table, migrate=False) == (
            "lacks the index of_scope; `raincheck store migrate` makes it."
        )
        await _opens(endpoint, table)
        off = {"Enabled": False, "AttributeName": "remove_at"}
        await dynamodb.update_time_to_live(TableName=table, TimeToLiveSpecification=off)
        assert await _refused(endpoint, table, migrate=False) == (
            "has no expiry (TTL) by remove_at; `raincheck store migrate` switches it on."
        )
        await _opens(endpoint, table)
    await _opens(endpoint, table, migrate=False)


@pytest.mark.parametrize("keys", [{"id": "S"}, {"raincheck_item": "B"}, {"raincheck_item": "S", "at": "N"}])
async def test_a_table_of_another_program_is_refused_and_left_alone(
    endpoint: str, table: str, keys: dict[str, str]
) -> None:
    async with client(endpoint) as dynamodb:
        await dynamodb.create_table(
            TableName=table,
            KeySchema=[
                {"AttributeName": name, "KeyType": kind} for name, kind in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind} for name, kind in keys.items()],
            BillingMode="PAY_PER_REQUEST",
        )
        for migrate in (True, False):
            assert await _refused(endpoint, table, migrate=migrate) == (
                "is another program's: it has other keys. Choose another 'table' in [state]."
            )
        described = (await dynamodb.describe_table(TableName=table))["Table"]
    assert "GlobalSecondaryIndexes" not in described
    assert described["ItemCount"] == 0


async def test_a_table_of_a_newer_raincheck_is_refused(endpoint: str, table: str) -> None:
    await _opens(endpoint, table)
    async with client(endpoint) as dynamodb:
        await dynamodb.put_item(TableName=table, Item={"raincheck_item": {"S": "meta#layout"}, "layout": {"N": "2"}})
    for migrate in (True, False):
        assert await _refused(endpoint, table, migrate=migrate) == (
            "is of a newer raincheck (layout 2, this one knows 1): upgrade raincheck."
        )


async def test_a_step_to_the_next_layout_is_taken_where_that_is_asked_for_by_any_number_of_processes(
    endpoint: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DynamoDBStore(table, endpoint=endpoint)
    await store.open()
    task = await stored(store)
    await store.close()
    taken: list[str] = []

    async def step(calls: Calls) -> None:
        taken.append(calls.table)
        if len(taken) == 1:
            raise StoreUnavailable("The process is killed half-way.")
        await asyncio.sleep(0.05)

    monkeypatch.setattr(dynamodb_table, "STEPS", (step,))
    monkeypatch.setattr(dynamodb_table, "LAYOUT", 2)
    assert await _refused(endpoint, table, migrate=False) == (
        "has layout 1, this raincheck needs 2: run `raincheck store migrate`."
    )
    with pytest.raises(StoreUnavailable, match="half-way"):
        await _opens(endpoint, table)
    await asyncio.gather(*(_opens(endpoint, table) for _ in range(3)))
    steps = len(taken)
    await _opens(endpoint, table, migrate=False)
    assert len(taken) == steps > 1
    monkeypatch.undo()
    assert await _refused(endpoint, table) == "is of a newer raincheck (layout 2, this one knows 1): upgrade raincheck."
    async with client(endpoint) as dynamodb:
        key = {"raincheck_item": {"S": f"task#{task.task_ref}"}}
        assert "Item" in await dynamodb.get_item(TableName=table, Key=key)


async def test_a_table_that_is_deleted_is_an_error_that_names_the_command(
    store: DynamoDBStore, endpoint: str, table: str
) -> None:
    async with client(endpoint) as dynamodb:
        await dynamodb.delete_table(TableName=table)
    with pytest.raises(StoreUnavailable, match="raincheck store migrate"):
        await stored(store)


async def test_without_region_or_credentials_the_error_says_what_is_missing(
    endpoint: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreUnavailable, match=r"needs a region: set 'region' in \[state\], or AWS_REGION\."):
        await _opens(endpoint, table)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    nobody = DynamoDBStore(table, endpoint=endpoint, region="eu-central-1")
    with pytest.raises(StoreUnavailable, match="needs AWS credentials"):
        await nobody.open()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    needed(None if shutil.which("openssl") else "openssl (Debian: openssl)")
    paths = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    places = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", paths[0], "-keyout", paths[1]]
    subprocess.run([*command.split(), *places], check=True, stderr=subprocess.DEVNULL)
    return paths


async def test_certificates_are_checked_and_tls_is_used_where_they_are_given(
    endpoint: str, table: str, certificate: tuple[str, str]
) -> None:
    cert, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=cert)
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_REQUIRED
    async with Way(server_of(DynamoDBServer).port, context) as way:
        for url in (way.url, way.url.replace("https", "http")):
            store = DynamoDBStore(table, endpoint=url, tls=Tls(ca=cert, cert=cert, key=key))
            await store.open()
            task = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30)))
            assert await store.renew("w", {task.task_ref: 1}, after(60)) == set()
            await store.close()
        for tls in (None, Tls(ca=cert)):
            # Its certificate is not known; then, it asks for this client's.
            stranger = DynamoDBStore(table, endpoint=way.url, tls=tls)
            with pytest.raises(StoreUnavailable, match=rf"at {way.url} cannot be reached"):
                await stranger.open()


# What lies in it.


async def _some_of_everything(store: DynamoDBStore) -> list[Task]:
    large = "x" * 3000
    claim = Claim(worker_id="w", lease_until=after(30))
    question = InputRequest(key="q", method="elicitation/create", params={"message": large})
    pending = await stored(store, idempotency_key="k", arguments={"a": large})
    suspended = await apply(store, await stored(store), claim, AskInput(fence=1, requests=(question,)))
    answered = await apply(
        store,
        await stored(store),
        claim,
        AskInput(fence=1, requests=(question,)),
        ProvideInput(responses={"q": {"a": large}}),
        ReportProgress(fence=1, progress=Progress(message=large)),
    )
    back = await apply(store, await stored(store, retry_when_lost=True), claim, Release(fence=1))
    done = await apply(store, await stored(store), claim, Settle(fence=1, outcome=Outcome(value=large)))
    gone = await cancelled(store, idempotency_key="l", arguments={"a": large})
    return [pending, suspended, answered, back, done, gone]


async def test_every_item_expires_by_itself_a_month_after_it_should_have_been_removed(
    store: DynamoDBStore, endpoint: str, table: str
) -> None:
    tasks = {task.task_ref: task for task in await _some_of_everything(store)}
    await store.close()
    found = await items(endpoint, table)
    for name, item in found.items():
        if name.startswith(("count#", "meta#")):
            assert "remove_at" not in item
            continue
        left = int(item["remove_at"]["N"]) - NOW.timestamp()
        task = tasks.get(name.removeprefix("task#"))
        if task is not None:
            kept_for = task.ttl_seconds + (0 if task.terminal else 3600)
            assert kept_for + _MONTH <= left < kept_for + _MONTH + 2
        assert 60 + _MONTH <= left <= 3660 + _MONTH + 2
    assert len(kinds(found, "task")) == 6
    assert len(kinds(found, "key")) == 2
    # Arguments, a question, its answer, an outcome, arguments; what was replaced is gone.
    assert len(kinds(found, "part")) == 5


async def test_when_every_task_is_removed_nothing_is_left_but_zeros(
    store: DynamoDBStore, endpoint: str, table: str
) -> None:
    for task in await _some_of_everything(store):
        if not task.terminal:
            await apply(store, task, Cancel(), at=after(1))
    assert await store.purge(after(61), 10) == 6
    await store.close()
    found = await items(endpoint, table)
    assert {name for name in found if not name.startswith(("count#", "meta#"))} == set()
    assert counted(found) == ({}, {})


async def test_a_task_item_is_small_whatever_the_task_holds(store: DynamoDBStore, endpoint: str, table: str) -> None:
    just_inline = "x" * 850
    task = await stored(store, arguments={"a": just_inline}, idempotency_key="k" * 255, fingerprint="f" * 64)
    task = await apply(
        store,
        task,
        Claim(worker_id="w" * 60, lease_until=after(30)),
        AskInput(fence=1, requests=(InputRequest(key="q", method="m", params={"a": just_inline[50:]}),)),
        ProvideInput(responses={"q": {}}),
        Settle(fence=1, outcome=Outcome(value=just_inline)),
    )
    large = await stored(store, arguments={"a": secrets.token_hex(100_000)})
    found = kinds(await items(endpoint, table), "task")
    sizes = {
        name.removeprefix("task#"): sum(len(key) + len(str(*value.values())) for key, value in item.items())
        for name, item in found.items()
    }
    assert sizes[task.task_ref] < 4096
    assert sizes[large.task_ref] < 1500


async def test_a_result_of_16_mib_comes_back_whole(store: DynamoDBStore, endpoint: str, table: str) -> None:
    task = await stored(store, arguments={"a": secrets.token_hex(500_000)})
    done = settled(claimed(task), Outcome(value=secrets.token_hex(8 * 1024 * 1024 - 20)))
    assert await store.replace(claimed(task))
    assert await store.replace(done)
    found = await store.get(task.task_ref)
    # Not compared by assert: pytest would take minutes to tell where they differ.
    same = found == done
    assert same
    assert len(kinds(await items(endpoint, table), "part")) > 20
    assert await store.purge(after(60), 1) == 1
    await store.close()
    assert kinds(await items(endpoint, table), "part") == {}


async def test_readers_see_whole_tasks_while_their_payloads_are_replaced(
    store: DynamoDBStore, endpoint: str, table: str
) -> None:
    other = DynamoDBStore(table, endpoint=endpoint)
    await other.open()
    task = await apply(store, await stored(store, max_attempts=1), Claim(worker_id="w", lease_until=after(30)))
    writing = True

    async def write() -> None:
        nonlocal task, writing
        for number in range(40):
            question = InputRequest(key=f"q{number}", method="m", params={"m": secrets.token_hex(2000)})
            task = await apply(store, task, AskInput(fence=1, requests=(question,)))
        writing = False

    async def read() -> int:
        seen = 0
        while writing:
            found = await other.get(task.task_ref)
            assert found is not None
            assert [request.key for request in found.inputs] == [f"q{index}" for index in range(len(found.inputs))]
            assert len(found.inputs) == found.version - 2
            seen += 1
        return seen

    readers = [asyncio.create_task(read()) for _ in range(4)]
    await write()
    reads = await asyncio.gather(*readers)
    await other.close()
    assert min(reads) > 0
    assert await store.get(task.task_ref) == task


async def test_a_lost_insert_leaves_only_chunks_that_expire(store: DynamoDBStore, endpoint: str, table: str) -> None:
    held = await stored(store, idempotency_key="k")
    assert await store.insert(new_task(idempotency_key="k", arguments={"a": "x" * 3000})) == (held, False)
    assert not await store.replace(settled(claimed(held), Outcome(value="x" * 3000)))
    await store.close()
    found = await items(endpoint, table)
    assert kinds(found, "part") == {}
    assert len(kinds(found, "task")) == 1


async def test_a_task_that_lost_a_part_stands_in_nobodys_way(
    store: DynamoDBStore, endpoint: str, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = await stored(store, arguments={"a": "x" * 3000}, created_at=after(-1))
    sound = await stored(store, arguments={"a": "y" * 3000})
    part = kinds(await items(endpoint, table), "task")[f"task#{broken.task_ref}"]["arguments_at"]["S"].split(":")[0]
    async with client(endpoint) as dynamodb:
        await dynamodb.delete_item(TableName=table, Key={"raincheck_item": {"S": f"part#{part}#0"}})
    with pytest.raises(StoreUnusable, match="has lost a part of the task"):
        await store.get(broken.task_ref)
    assert list(await store.claimable(["report"], 2)) == [sound]
    assert list(await store.overdue(after(3600), 2)) == [sound]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"The DynamoDB table {table} at {endpoint} has lost a part of a task"
    ] * 2
    assert await store.versions([broken.task_ref]) == {broken.task_ref: 1}


async def test_what_an_index_says_is_not_believed(store: DynamoDBStore, endpoint: str, table: str) -> None:
    claim = Claim(worker_id="w", lease_until=after(10))
    left_behind = [
        await stored(store, created_at=after(-1), deadline_at=after(3600)),
        await apply(store, await stored(store, created_at=after(-1)), claim),
        await cancelled(store, created_at=after(-1)),
    ]
    right = [
        await stored(store),
        await apply(store, await stored(store), claim),
        await cancelled(store),
    ]
    async with client(endpoint) as dynamodb:
        # As where the indexes lag: their attributes are those of an earlier status.
        for task, status, state_of in zip(
            left_behind, ("completed", "failed", "pending"), right[2:] * 2 + right, strict=False
        ):
            source = kinds(await items(endpoint, table), "task")[f"task#{state_of.task_ref}"]
            await dynamodb.update_item(
                TableName=table,
                Key={"raincheck_item": {"S": f"task#{task.task_ref}"}},
                UpdateExpression="SET #status = :status, #state = :state",
                ExpressionAttributeNames={"#status": "status", "#state": "state"},
                ExpressionAttributeValues={":status": {"S": status}, ":state": source["state"]},
            )
    assert list(await store.claimable(["report"], 1)) == [right[0]]
    assert list(await store.overdue(after(20), 1)) == [right[1]]
    pending = await store.list(TaskQuery(scope="ada", statuses=[TaskStatus.PENDING], limit=1))
    assert [summary.task_ref for summary in pending] == [right[0].task_ref]
    assert await store.purge(after(60), 1) == 1
    assert await store.get(left_behind[2].task_ref) is not None
    assert await store.get(right[2].task_ref) is None


async def test_every_verb_makes_the_requests_that_the_module_says(endpoint: str, table: str) -> None:
    async with Way(server_of(DynamoDBServer).port) as way:
        store = DynamoDBStore(table, endpoint=way.url)
        await store.open()
        task = await stored(store, idempotency_key="k")

        async def made(call: Any) -> dict[str, int]:
            way.requests.clear()
            await call
            return dict(way.requests)

        write = {"TransactWriteItems": 1}
        assert await made(stored(store, idempotency_key="l")) == write
        assert await made(store.get(task.task_ref)) == {"GetItem": 1}
        task = claimed(task)
        assert await made(store.replace(task)) == write
        leases = {task.task_ref: 1}
        assert await made(store.renew("worker-1", leases, after(40))) == {"UpdateItem": 1}
        task = await apply(store, task, ReportProgress(fence=1, progress=Progress(fraction=0.1)))
        changed = made(apply(store, task, ReportProgress(fence=1, progress=Progress(fraction=0.2))))
        assert await changed == {"UpdateItem": 1}
        assert await made(store.claimable(["report"], 10)) == {"GetItem": 1, "Query": 1, "BatchGetItem": 1}
        assert await made(store.overdue(after(-1), 10)) == {"Query": 4}
        assert await made(store.overdue(after(4000), 10)) == {"Query": 4, "BatchGetItem": 1}
        assert await made(store.list(TaskQuery(scope="ada"))) == {"Query": 6, "BatchGetItem": 1}
        assert await made(store.list(TaskQuery(scope="ada", statuses=[TaskStatus.PENDING]))) == {
            "Query": 1,
            "BatchGetItem": 1,
        }
        assert await made(store.list(TaskQuery())) == {"GetItem": 1, "Query": 6, "BatchGetItem": 1}
        assert await made(store.list(TaskQuery(operation_type="report"))) == {
            "GetItem": 1,
            "Query": 6,
            "BatchGetItem": 1,
        }
        assert await made(store.count()) == {"BatchGetItem": 1}
        assert await made(store.versions([task.task_ref])) == {"BatchGetItem": 1}
        await cancelled(store)
        assert await made(store.purge(after(60), 10)) == {"Query": 5, "BatchGetItem": 1, **write}
        await stored(store, priority=9)
        assert await made(store.claimable(["report"], 10)) == {"GetItem": 1, "Query": 2, "BatchGetItem": 1}
        assert await made(store.list(TaskQuery())) == {"GetItem": 1, "Query": 7, "BatchGetItem": 1}
        # Records.
        first = Record(kind="webhook", key="k", value={"large": "x" * 100_000}, due_at=NOW, expires_at=after(60))
        assert await made(store.put_record(first)) == write
        assert await made(store.put_record(replace(first, version=2))) == {"UpdateItem": 1}
        assert await made(store.get_record("webhook", "k")) == {"GetItem": 1}
        assert await made(store.records(RecordQuery("webhook"))) == {"Query": 1, "BatchGetItem": 1}
        assert await made(store.records(RecordQuery("webhook", due=NOW))) == {"Query": 1, "BatchGetItem": 1}
        progress = transition(task, ReportProgress(fence=1, progress=Progress(fraction=0.3)), after(1))
        assert await made(store.replace(progress, records=(first,))) == write
        assert await made(store.remove_record(replace(first, version=3))) == write
        assert await made(store.insert(new_task(), pending_limit=PendingLimit())) == write
        # Room: the first call enters what is pending; from then on a transaction does.
        await store.insert(new_task(), pending_limit=PendingLimit(100, 100))
        assert await made(store.insert(new_task(idempotency_key="m"), pending_limit=PendingLimit(100, 100))) == write
        assert await made(store.insert(new_task(), pending_limit=PendingLimit(per_scope=100))) == write
        pending = await stored(store)
        assert await made(store.replace(claimed(pending))) == write
        with pytest.raises(QueueFull):
            await store.insert(new_task(), pending_limit=PendingLimit(per_scope=1))
        assert await made(store.insert(new_task(), pending_limit=PendingLimit(total=100))) == write
        await store.close()
