"""Somebody who can write the database but has no key: rows moved, swapped, renamed and put there in plain, by SQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from stores.records import NOW, after, claimed, new_task, settled

from raincheck.domain.caller import Caller
from raincheck.domain.task import InputRequest, KeyKind, Outcome, Progress, Task
from raincheck.domain.transitions import AskInput, ProvideInput, ReportProgress, SaveCheckpoint, transition
from raincheck.encryption.cipher import KEY_BYTES, CannotDecrypt, PayloadCipher, close_to_plain
from raincheck.encryption.task_store import EncryptedTaskStore
from raincheck.errors import StoreUnusable
from raincheck.operations.context import TaskContext
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import TaskQuery, TaskStore
from raincheck.stores.sqlite.store import SqliteStore
from support.lab import Lab
from support.servers.postgres import PostgresServer
from support.servers.server import needed
from support.waiting import PATIENCE

SEALER = PayloadCipher([b"k" * KEY_BYTES])
QUESTION = InputRequest(key="1-1", method="elicitation/create", params={"message": "Pay?"})


class Place(NamedTuple):
    """An open store with a key, and the hands of somebody who has none: SQL, with `?` for each value."""

    store: EncryptedTaskStore
    sql: Callable[..., Sequence[Sequence[Any]]]
    plain: Callable[[], TaskStore]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    needed(PostgresServer.missing())
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> tuple[Any, Any]:
    path = tmp_path / "tasks.db"

    def sql(statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        connection = sqlite3.connect(path)
        with connection:
            rows = connection.execute(statement.replace("raincheck.", ""), values).fetchall()
        connection.close()
        return rows

    return lambda: SqliteStore(path, synchronous="normal"), sql


@pytest.fixture
def postgres(server: PostgresServer) -> Iterator[tuple[Any, Any]]:
    import psycopg

    from raincheck.stores.postgres.store import PostgresStore

    def sql(statement: Any, *values: Any) -> Sequence[Sequence[Any]]:
        with psycopg.connect(server.url, autocommit=True) as connection:
            cursor = connection.execute(statement.replace("?", "%s"), values)
            return cursor.fetchall() if cursor.description else []

    yield lambda: PostgresStore(server.url), sql
    sql("DROP SCHEMA IF EXISTS raincheck CASCADE")


@pytest.fixture(params=["sqlite", "postgres"])
async def place(request: pytest.FixtureRequest) -> AsyncGenerator[Place]:
    plain, sql = request.getfixturevalue(request.param)
    store = EncryptedTaskStore(plain(), SEALER)
    await store.open()
    yield Place(store, sql, plain)
    await store.close()


async def worked_on(store: TaskStore, **changes: Any) -> Task:
    """A task that has everything a task under way can have."""
    task = new_task(callback_url="https://example.com/", **changes)
    await store.insert(task)
    held = claimed(task)
    assert await store.replace(held)
    for event in (
        ReportProgress(fence=1, progress=Progress(fraction=0.5, message="half")),
        SaveCheckpoint(fence=1, checkpoint={"job": 1}),
        AskInput(fence=1, requests=(QUESTION,)),
        ProvideInput(responses={"1-1": {"action": "accept"}}),
    ):
        held = transition(held, event, NOW)
        assert await store.replace(held)
    return held


async def test_what_is_put_there_in_plain_is_not_run(place: Place) -> None:
    task, other = new_task(arguments={"pay": "ada"}), new_task(created_at=after(1))
    for each in (task, other):
        await place.store.insert(each)
    place.sql("UPDATE raincheck.task SET arguments = ? WHERE task_ref = ?", '{"pay":"mallory"}', task.task_ref)
    with pytest.raises(CannotDecrypt, match="is not sealed"):
        await place.store.get(task.task_ref)
    assert list(await place.store.claimable(["report"], 5)) == [other]
    assert list(await place.store.overdue(after(10_000), 5)) == [other]


@pytest.mark.parametrize(
    ("column", "value"),
    [("scope", "bob"), ("operation_type", "delete_all"), ("idempotency_key", "other"), ("fingerprint", "f" * 64)],
)
async def test_a_row_that_says_otherwise_of_whom_and_what_does_not_open(place: Place, column: str, value: str) -> None:
    await place.store.insert(new_task(idempotency_key="k", fingerprint="a" * 64, arguments={}))
    stored = (await place.store.claimable(["report"], 5))[0]
    held = claimed(stored)
    assert await place.store.replace(held)
    assert await place.store.replace(settled(held, Outcome(value="ada's")))
    place.sql(f"UPDATE raincheck.task SET {column} = ?", value)
    with pytest.raises(CannotDecrypt, match="moved"):
        await place.store.get(stored.task_ref)


@pytest.mark.parametrize("column", ["arguments", "callback_url", "caller", "progress", "checkpoint", "inputs"])
async def test_no_part_of_a_task_moves_to_another_or_is_put_there_in_plain(place: Place, column: str) -> None:
    one, two = await worked_on(place.store), await worked_on(place.store)
    ((theirs,),) = place.sql(f"SELECT {column} FROM raincheck.task WHERE task_ref = ?", two.task_ref)
    plain = {
        "arguments": "{}",
        "callback_url": "https://mallory.example/",
        "caller": '{"subject":"mallory"}',
        "progress": '[0.5,"done, pay to mallory"]',
        "checkpoint": "{}",
        "inputs": '[["1-1","elicitation/create",{},{"action":"accept"}]]',
    }
    for text, told in ((theirs, "moved"), (plain[column], "is not sealed")):
        place.sql(f"UPDATE raincheck.task SET {column} = ? WHERE task_ref = ?", text, one.task_ref)
        with pytest.raises(CannotDecrypt, match=told):
            await place.store.get(one.task_ref)
    # One that does not open hides no other, in no listing.
    assert {each.task_ref for each in await place.store.list(TaskQuery(scope="ada"))} == {one.task_ref, two.task_ref}
    assert await place.store.get(two.task_ref) == two


async def test_an_end_is_neither_made_up_nor_taken_for_another(place: Place) -> None:
    held = claimed(task := new_task())
    await place.store.insert(task)
    assert await place.store.replace(held)
    assert await place.store.replace(settled(held, Outcome(value=1)))
    for change in ("status = 'failed'", "outcome = NULL", """outcome = '{"value":"mallory"}'"""):
        place.sql(f"UPDATE raincheck.task SET {change}")
        with pytest.raises(CannotDecrypt):
            await place.store.get(task.task_ref)


async def test_records_stay_where_they_are_and_none_is_made_up(place: Place) -> None:
    # Who is told, who may settle from outside, what an operation's history is, what is stopped elsewhere.
    kinds = ("webhook", "callback", "sketch", "upstream")
    for kind in kinds:
        for key in ("a", "b"):
            assert await place.store.put_record(Record(kind=kind, key=key, value={"of": key}, due_at=NOW))
        ((theirs,),) = place.sql("SELECT value FROM raincheck.record WHERE kind = ? AND key = 'b'", kind)
        for text in (theirs, '{"task_ref":"mallory"}', None):
            place.sql("UPDATE raincheck.record SET value = ? WHERE kind = ? AND key = 'a'", text, kind)
            with pytest.raises(CannotDecrypt):
                await place.store.get_record(kind, "a")
        assert [record.key for record in await place.store.records(RecordQuery(kind, due=NOW))] == ["b"]
    place.sql("UPDATE raincheck.record SET kind = 'webhook-dead' WHERE kind = 'webhook' AND key = 'b'")
    with pytest.raises(CannotDecrypt):
        await place.store.get_record("webhook-dead", "b")


async def test_a_shared_tasks_end_still_opens_when_another_has_its_key(place: Place) -> None:
    async def submitted() -> Task:
        task = new_task(idempotency_key="e" * 64, key_kind=KeyKind.INFLIGHT, fingerprint="e" * 64)
        return (await place.store.insert(task)).task

    first = claimed(await submitted())
    assert await place.store.replace(first)
    done = settled(first)
    assert await place.store.replace(done)
    assert (await submitted()).task_ref != first.task_ref
    found = await place.store.get(first.task_ref)
    assert found is not None
    assert found.outcome == done.outcome


async def test_a_store_from_before_the_key_is_read_where_that_is_set_and_until_it_is_closed(place: Place) -> None:
    await place.store.close()
    place.sql("DELETE FROM raincheck.record")
    before = place.plain()
    await before.open()
    task = new_task(arguments={"a": 1})
    await before.insert(task)
    await before.close()
    with pytest.raises(StoreUnusable, match="accept_plain"):
        await EncryptedTaskStore(place.plain(), SEALER).open()
    accepting = EncryptedTaskStore(place.plain(), SEALER, accept_plain=True)
    await accepting.open()
    assert await accepting.get(task.task_ref) == task
    await close_to_plain(accepting.inner, SEALER)
    await accepting.close()
    await accepting.open()
    with pytest.raises(CannotDecrypt, match="is not sealed"):
        await accepting.get(task.task_ref)
    await accepting.close()


async def test_a_running_service_runs_nothing_that_was_put_there(tmp_path: Path, sqlite: tuple[Any, Any]) -> None:
    lab, (plain, sql), ran = Lab(tmp_path / "tasks.db"), sqlite, asyncio.Queue[Mapping[str, Any]]()

    @lab.operation("report")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> str:
        await ran.put(arguments)
        return "done"

    async with asyncio.timeout(PATIENCE):
        store = EncryptedTaskStore(plain(), SEALER)
        await store.open()
        forged, good = new_task(arguments={"pay": "ada"}), new_task(arguments={"pay": "bob"}, created_at=after(1))
        for task in (forged, good):
            far = after(1_000_000)
            await store.insert(replace(task, deadline_at=far))
        await store.close()
        sql("UPDATE task SET arguments = ? WHERE task_ref = ?", '{"pay":"mallory"}', forged.task_ref)
        async with lab.service(store=EncryptedTaskStore(plain(), SEALER)) as service:
            task = await service.registry.wait(good.task_ref, scope="ada", seconds=PATIENCE)
            assert task.outcome == Outcome(value="done")
            with pytest.raises(CannotDecrypt):
                await service.registry.get(forged.task_ref, scope="ada")
    assert [ran.get_nowait() for _ in range(ran.qsize())] == [{"pay": "bob"}]


async def test_nobody_is_made_nobody(place: Place) -> None:
    for caller in (None, Caller(scope="ada", subject="ada")):
        task = new_task(caller=caller)
        await place.store.insert(task)
        assert await place.store.get(task.task_ref) == task
        place.sql("UPDATE raincheck.task SET caller = NULL WHERE task_ref = ?", task.task_ref)
        with pytest.raises(CannotDecrypt, match="is not sealed"):
            await place.store.get(task.task_ref)
