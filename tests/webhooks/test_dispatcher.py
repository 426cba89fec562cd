"""The outbox and the deliverer by an injected clock: backoff, leases, the end of patience, what fits into a record."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from operations.http_server import Server, answer, answering, serving
from webhooks.receiver import FINE, SECRET

from raincheck.domain.task import Outcome, Progress, Task, TaskError, TaskStatus
from raincheck.domain.transitions import Cancel, transition
from raincheck.egress.policy import HostRule
from raincheck.operations.operation import Operation, Policy
from raincheck.operations.webhook import Webhook
from raincheck.ports.records import LARGEST_RECORD, Record, RecordQuery
from raincheck.stores.memory.store import MemoryStore
from raincheck.tasks.writer import TaskEnded, TaskWriter
from raincheck.webhooks.admin import DeliveryAdmin
from raincheck.webhooks.delivery import DEAD, PENDING, Delivery, first_record
from raincheck.webhooks.dispatcher import WebhookDispatcher
from raincheck.webhooks.payload import LARGEST_RESULT, message_of
from raincheck.webhooks.policy import WebhookRules
from support.lab import BodyExecutor

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def task_of(callback_url: str | None, **fields: Any) -> Task:
    usual: dict[str, Any] = {
        "task_ref": "ref",
        "scope": "ada",
        "operation_type": "report",
        "arguments": {"password": "hunter2"},
        "created_at": NOW,
        "updated_at": NOW,
        "deadline_at": NOW + timedelta(hours=1),
        "ttl_seconds": 60.0,
        "callback_url": callback_url,
    }
    usual.update(fields)
    return Task(**usual)


class Post:
    """A store with a delivery for a server, and deliverers on it; all by one clock."""

    def __init__(self, store: MemoryStore, url: str) -> None:
        self.store = store
        self.writer = TaskWriter(store, lambda: self.now, delivery_of=first_record)
        self.url = url
        self.now = NOW

    def deliverer(self, operation: Operation | None = None, **values: Any) -> WebhookDispatcher:
        usual: dict[str, Any] = {
            "allow": [HostRule.parse(self.url)],
            "secrets": (SECRET,),
            "give_up_seconds": 86400.0,
        }
        return WebhookDispatcher(
            self.store,
            WebhookRules(**{**usual, **values}),
            {} if operation is None else {"report": operation},
            clock=lambda: self.now,
            rng=random.Random(5),
        )

    async def deliver(self, deliverer: WebhookDispatcher | None = None) -> None:
        deliverer = deliverer or self.deliverer()
        await deliverer.deliver_due()
        await deliverer.until_idle()

    async def end(self, callback_url: str | None, **fields: Any) -> None:
        """A task that is cancelled."""
        await self.store.insert(task := task_of(callback_url, **fields))
        assert await self.writer.write(task, Cancel())

    async def only(self, kind: str) -> Record:
        (record,) = await self.store.records(RecordQuery(kind))
        return record


@asynccontextmanager
async def post(*responses: bytes) -> AsyncGenerator[tuple[Post, Server]]:
    store = MemoryStore()
    await store.open()
    async with serving(answering(*responses)) as server:
        post = Post(store, server.url)
        yield post, server
    await store.close()


async def test_a_receiver_that_never_takes_it_is_given_up_after_the_time_and_tried_again_when_asked() -> None:
    async with post(answer(500)) as (office, server):
        await office.end(f"{office.url}/hook")
        pauses: list[float] = []
        deliverer = office.deliverer()
        while records := await office.store.records(RecordQuery(PENDING)):
            assert records[0].due_at is not None
            pauses.append((records[0].due_at - office.now).total_seconds())
            office.now = records[0].due_at
            await office.deliver(deliverer)
        assert office.now == NOW + timedelta(days=1), "the last attempt is made when the time is over"
        assert len(server.received) == len(pauses)
        assert max(pauses) <= 3600
        assert all(pause <= 5 * 2**number for number, pause in enumerate(pauses[1:]))
        assert len({round(pause, 3) for pause in pauses[1:-1]}) > 0.9 * len(pauses[1:-1]), "there is jitter"
        dead = Delivery.of(record := await office.only(DEAD))
        assert (dead.attempts, dead.error, dead.died_at) == (len(pauses), "status 500", office.now)
        assert record.expires_at == office.now + timedelta(days=30)
        assert await DeliveryAdmin(office.store).retry("ref") == 1
        assert await office.store.records(RecordQuery(DEAD)) == []
        again = Delivery.of(await office.only(PENDING))
        assert (again.attempts, again.died_at) == (0, None)


async def test_what_nobody_wants_any_more_is_given_up_at_once() -> None:
    async with post(answer(410)) as (office, server):
        await office.end(office.url)
        await office.deliver()
        assert len(server.received) == 1
        assert Delivery.of(await office.only(DEAD)).error == "status 410"
        assert await office.store.records(RecordQuery(PENDING)) == []


@pytest.mark.parametrize(("asked", "least", "most"), [("100", 100, 100), ("999999", 3600, 3600), ("soon", 0.5, 5)])
async def test_retry_after_is_kept_to_within_bounds(asked: str, least: float, most: float) -> None:
    async with post(answer(503, retry_after=asked)) as (office, _):
        await office.end(office.url)
        await office.deliver()
        due = (await office.only(PENDING)).due_at
        assert due is not None
        assert least <= (due - NOW).total_seconds() <= most


async def test_two_processes_make_one_delivery_once_and_the_lease_of_a_dead_one_runs_out() -> None:
    async with post(FINE) as (office, server):
        await office.end(office.url)
        await asyncio.gather(*(office.deliver() for _ in range(5)))
        assert len(server.received) == 1
        await office.end(office.url, task_ref="ref-2")
        # A process that took it and died: all that it leaves is its lease.
        taken = await office.only(PENDING)
        lease = office.now + timedelta(seconds=15)
        assert await office.store.put_record(replace(taken, version=taken.version + 1, due_at=lease))
        await office.deliver()
        assert len(server.received) == 1
        office.now = lease
        await office.deliver()
        assert len(server.received) == 2
        assert await office.store.records(RecordQuery(PENDING)) == []


async def test_both_targets_are_told_whenever_the_process_that_parts_them_dies() -> None:
    async with post(FINE) as (office, server):
        own = Operation(
            operation_type="report",
            description="",
            executor=BodyExecutor(lambda arguments, context: asyncio.sleep(0)),
            policy=Policy(webhook=Webhook(url=f"{office.url}/own")),
        )
        await office.end(f"{office.url}/theirs", own_webhook=True)
        # It died when it had written the second delivery, and before it had changed the first.
        whole = await office.only(PENDING)
        second = replace(Delivery.of(whole), targets=(f"{office.url}/theirs",))
        assert await office.store.put_record(second.pending("ref.2", version=1, due_at=office.now))
        await office.deliver(office.deliverer(own))
        await office.deliver(office.deliverer(own))
        assert sorted(each.target for each in server.received) == ["/own", "/theirs"]
        assert len({each.headers["webhook-id"] for each in server.received}) == 1
        assert await office.store.records(RecordQuery(PENDING)) == []


async def test_an_operation_that_this_process_does_not_know_is_left_to_the_others() -> None:
    async with post(FINE) as (office, server):
        await office.end(None, own_webhook=True)
        await office.deliver()
        left = Delivery.of(record := await office.only(PENDING))
        assert (left.attempts, left.error) == (0, "this process does not know the operation")
        assert record.due_at is not None
        assert record.due_at - office.now <= timedelta(seconds=15)
        assert server.received == []


async def test_a_host_that_settings_no_longer_allow_gets_no_request() -> None:
    async with post(FINE) as (office, server):
        await office.end(office.url)
        await office.deliver(office.deliverer(allow=[HostRule.parse("hooks.example.com")]))
        assert "not among the allowed hosts" in (Delivery.of(await office.only(PENDING)).error or "")
        assert server.received == []


async def test_many_deliveries_to_a_host_that_is_busy_make_room_for_others() -> None:
    async with post(FINE) as (office, server):
        for number in range(250):
            await office.end("http://127.0.0.1:1/", task_ref=f"blocked-{number:03}")
        office.now += timedelta(seconds=1)
        await office.end(office.url)
        deliverer = office.deliverer(allow=[HostRule.parse("http://127.0.0.1:*")])
        for _ in range(20):
            await office.deliver(deliverer)
        assert len(server.received) == 1


async def test_the_cleanup_and_the_delivery_are_written_in_the_step_that_ends_the_task() -> None:
    async with post(FINE) as (office, _):
        cleanup = Record(kind="upstream", key="ref", value=1, due_at=NOW + timedelta(hours=1))
        assert await office.store.put_record(cleanup)
        task = replace(task_of(office.url), checkpoint={"job": 1})
        await office.store.insert(task)
        written: list[Sequence[Record]] = []
        once = office.store.replace

        async def watched(task: Task, **how: Any) -> bool:
            written.append(how["records"])
            return await once(task, **how)

        office.store.replace = watched
        assert await office.writer.write(task, Cancel())
        assert [{record.kind for record in records} for records in written] == [{"upstream", PENDING}]
        assert (await office.only("upstream")).due_at == NOW
        assert (await office.only(PENDING)).key == "ref"


async def test_only_the_writer_that_ends_a_task_writes_its_delivery_and_tells_of_the_end() -> None:
    async with post(FINE) as (office, _):
        ends: list[TaskEnded] = []
        writer = TaskWriter(office.store, lambda: NOW, delivery_of=first_record, ended=ends.append)
        await office.store.insert(task := task_of(office.url))
        assert await writer.write(task, Cancel())
        assert await writer.write(task, Cancel()) is None
        assert (await office.only(PENDING)).version == 1
        assert [(ended.task.status, ended.delivery) for ended in ends] == [(TaskStatus.CANCELLED, True)]


def test_nobody_is_told_of_a_task_without_targets() -> None:
    assert first_record(transition(task_of(None), Cancel(), NOW)) is None
    both = first_record(transition(task_of("https://a.example/", own_webhook=True), Cancel(), NOW))
    assert both is not None
    assert Delivery.of(both).targets == (None, "https://a.example/")


def ended(**outcome: Any) -> Task:
    status = TaskStatus.FAILED if "error" in outcome else TaskStatus.COMPLETED
    return task_of("https://a.example/", status=status, settled_at=NOW, outcome=Outcome(**outcome))


@pytest.mark.parametrize("value", ["x" * 100_000, ["é" * 20_000], {"rows": [{"n": 1}] * 20_000}])
def test_a_large_result_is_left_out_with_a_preview_and_its_resource(value: Any) -> None:
    shown = message_of(ended(value=value))["data"]["result"]
    assert shown["truncated"] is True
    assert shown["bytes"] > LARGEST_RESULT / 2
    assert 0 < len(json.dumps(shown["preview"])) < 5000
    assert shown["resource"] == "raincheck://tasks/ref/result"


def test_secret_members_of_a_result_are_withheld_however_large_it_is() -> None:
    for rows in (1, 100_000):
        shown = message_of(ended(value={"key": "hunter2", "rows": "x" * rows}, secret=("key",)))["data"]["result"]
        assert "hunter2" not in json.dumps(shown)
        assert "(withheld)" in json.dumps(shown)
        assert "sha256" not in shown


def test_a_result_that_fits_is_told_whole() -> None:
    data = message_of(ended(value="x" * (LARGEST_RESULT - 2)))["data"]
    assert len(data["result"]) == LARGEST_RESULT - 2


@pytest.mark.parametrize(
    "task",
    [
        ended(value="\ud83d\ude00" * 10_000),
        ended(error=TaskError(code="operation_failed", message="m" * 400_000, details={"d": ["é" * 100_000]})),
        replace(ended(value="x" * LARGEST_RESULT), progress=Progress(message="é" * 200_000)),
    ],
)
def test_a_delivery_fits_into_a_record_whatever_an_operation_says(task: Task) -> None:
    record = first_record(replace(task, callback_url=f"https://a.example/{'x' * 2000}", own_webhook=True))
    assert record is not None
    assert len(json.dumps(record.value)) * 4 / 3 + 1000 < LARGEST_RECORD, "sealed it is a third larger"
    assert "hunter2" not in json.dumps(record.value)


def test_a_delivery_is_kept_as_it_was() -> None:
    record = first_record(ended(value=1))
    assert record is not None
    delivery = Delivery.of(record)
    assert Delivery.of(replace(delivery, died_at=NOW).dead("k", version=1)) == replace(delivery, died_at=NOW)
    assert delivery.event == "completed"
    shown: Sequence[str] = (repr(delivery),)
    assert "a.example" not in shown[0], "an address may hold a secret"
