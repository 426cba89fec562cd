"""The SQLite file: its making, its schema, and what is refused."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
from stores.records import after, apply, new_task, settled, stored

from raincheck.domain.task import InputRequest, Outcome, Progress
from raincheck.domain.transitions import AskInput, Cancel, Claim, ProvideInput, ReportProgress, Settle
from raincheck.errors import StoreUnavailable, StoreUnusable
from raincheck.stores.sqlite import store as sqlite_store
from raincheck.stores.sqlite.file import create_file
from raincheck.stores.sqlite.schema import (
    APPLICATION_ID,
    Migration,
    connect_writer,
    migrate,
    packaged_migrations,
)
from raincheck.stores.sqlite.store import SqliteStore
from raincheck.timing.clock import utc_now

LATEST = packaged_migrations()[-1].version


def _mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


async def test_the_file_is_its_owners_alone_and_so_is_the_folder_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "tasks.db"
    store = SqliteStore(path)
    await store.open()
    await stored(store)
    try:
        assert _mode(path.parent) == 0o700
        assert {entry.name: oct(_mode(entry)) for entry in path.parent.iterdir()} == {
            "tasks.db": "0o600",
            "tasks.db-wal": "0o600",
            "tasks.db-shm": "0o600",
        }
    finally:
        await store.close()
    # Everything is in the one file: the WAL went with the last process.
    assert [entry.name for entry in path.parent.iterdir()] == ["tasks.db"]


async def test_the_file_says_whose_it_is(sqlite: SqliteStore, path: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA application_id").fetchall() == [(APPLICATION_ID,)]
        assert connection.execute("PRAGMA user_version").fetchall() == [(LATEST,)]
        assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    finally:
        connection.close()


@pytest.mark.parametrize(("synchronous", "level"), [("full", 2), ("normal", 1)])
def test_commits_are_synchronous_as_told(path: Path, synchronous: Literal["full", "normal"], level: int) -> None:
    create_file(str(path))
    connection = connect_writer(str(path), latest=LATEST, synchronous=synchronous, busy_seconds=1)
    try:
        assert connection.execute("PRAGMA synchronous").fetchall() == [(level,)]
    finally:
        connection.close()


def _of_a_newer_version(path: Path) -> None:
    _another_database(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {LATEST + 41}")
    connection.close()


def _another_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE somebody_elses (x)")
    connection.commit()
    connection.close()


def _of_another_program(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 77")
    connection.commit()
    connection.close()


def _a_text(path: Path) -> None:
    path.write_text("Dear diary, " * 500)


def _cut_short(path: Path) -> None:
    _another_database(path)
    path.write_bytes(path.read_bytes()[:1000])


def _a_folder(path: Path) -> None:
    path.mkdir()


UNUSABLE: list[tuple[Callable[[Path], None], str]] = [
    (_of_a_newer_version, f"has schema version {LATEST + 41}, this raincheck knows versions up to {LATEST}"),
    (_another_database, "is the database of another program"),
    (_of_another_program, "is the database of another program"),
    (_a_text, "is damaged or not an SQLite database"),
    (_cut_short, "is damaged or not an SQLite database"),
]


@pytest.mark.parametrize(("make", "message"), UNUSABLE)
async def test_a_file_that_is_not_ours_is_refused_and_not_touched(
    path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(path)
    before = path.read_bytes()
    store = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(StoreUnusable) as refusal:
            await store.open()
        assert message in refusal.value.message
        assert str(path) in refusal.value.message
        assert "\n" not in refusal.value.message
    await store.close()
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["tasks.db"]


async def test_a_folder_in_the_files_place_is_a_clear_error(path: Path) -> None:
    _a_folder(path)
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await SqliteStore(path).open()


async def test_a_file_in_the_folders_place_is_a_clear_error(path: Path) -> None:
    _a_text(path)
    with pytest.raises(StoreUnavailable, match="cannot be created"):
        await SqliteStore(path / "tasks.db").open()


async def test_a_file_damaged_in_the_middle_is_reported_when_it_is_met(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    task = await stored(store)
    await store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    await store.open()
    try:
        with pytest.raises(StoreUnusable, match="is damaged"):
            await store.get(task.task_ref)
        with pytest.raises(StoreUnusable, match="is damaged"):
            await store.insert(new_task())
    finally:
        await store.close()


async def test_a_refused_file_can_be_opened_once_it_is_replaced(path: Path) -> None:
    _a_text(path)
    store = SqliteStore(path)
    with pytest.raises(StoreUnusable):
        await store.open()
    path.unlink()
    await store.open()
    await stored(store)
    await store.close()


# Upgrades. There is one version yet; the mechanism is tested with steps of the test's own.

FURTHER = (
    Migration(version=LATEST + 1, sql="-- a step\nALTER TABLE task ADD COLUMN colour TEXT;\nDROP INDEX task_by_due;\n"),
    Migration(
        version=LATEST + 2,
        sql="CREATE INDEX task_by_colour\n    ON task (colour);\nUPDATE task SET colour = 'grey; or ''red''';\n",
    ),
)


def _schema(path: Path) -> list[tuple[str, str]]:
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        versions = connection.execute("SELECT user_version FROM pragma_user_version").fetchall()
        return [*rows, ("user_version", str(versions))]
    finally:
        connection.close()


def _upgrade(path: Path, steps: tuple[Migration, ...]) -> None:
    create_file(str(path))
    connection = connect_writer(str(path), latest=steps[-1].version, synchronous="full", busy_seconds=1)
    try:
        migrate(connection, str(path), steps, busy_seconds=1)
    finally:
        connection.close()


def test_the_packaged_steps_are_numbered_without_gaps() -> None:
    assert [step.version for step in packaged_migrations()] == list(range(1, LATEST + 1))


async def test_an_upgraded_file_has_the_schema_of_a_fresh_one_and_its_tasks(path: Path, tmp_path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    task = await stored(store)
    await store.close()
    steps = (*packaged_migrations(), *FURTHER)
    _upgrade(path, steps[: LATEST + 1])
    _upgrade(path, steps)
    fresh = tmp_path / "fresh.db"
    _upgrade(fresh, steps)
    assert _schema(path) == _schema(fresh)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT task_ref, colour FROM task").fetchall() == [(task.task_ref, "grey; or 'red'")]
    connection.close()


async def test_an_upgrade_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    task = await stored(store)
    await store.close()
    before = _schema(path)
    broken = Migration(version=LATEST + 2, sql="CREATE TABLE more (x);\nCREATE TABLE task (x);\n")
    with pytest.raises(sqlite3.OperationalError):
        _upgrade(path, (*packaged_migrations(), FURTHER[0], broken))
    assert _schema(path) == before
    await store.open()
    assert await store.get(task.task_ref) == task
    await store.close()
    _upgrade(path, (*packaged_migrations(), *FURTHER))


async def test_processes_that_upgrade_at_once_take_each_step_once(path: Path) -> None:
    _upgrade(path, packaged_migrations())
    steps = (*packaged_migrations(), *FURTHER)
    with ThreadPoolExecutor() as pool:
        list(pool.map(_upgrade, [path] * 4, [steps] * 4))
    assert ("user_version", f"[({LATEST + 2},)]") in _schema(path)


async def test_a_file_upgraded_by_a_newer_release_is_refused(path: Path) -> None:
    _upgrade(path, (*packaged_migrations(), *FURTHER))
    with pytest.raises(StoreUnusable, match=f"schema version {LATEST + 2}, .* up to {LATEST}: upgrade raincheck"):
        await SqliteStore(path).open()


# What is in the file.


async def _rows(path: Path, query: str) -> list[tuple[int, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def test_no_payload_outlives_its_task_or_its_use(sqlite: SqliteStore, path: Path) -> None:
    question = InputRequest(key="a", method="elicitation/create", params={"message": "x" * 5000})
    task = await stored(sqlite, arguments={"a": "x" * 5000})
    task = await apply(
        sqlite, task, Claim(worker_id="w", lease_until=after(9)), AskInput(fence=1, requests=(question,))
    )
    assert await _rows(path, "SELECT part FROM payload") == [(1,), (2,)]
    task = await apply(sqlite, task, Settle(fence=1, outcome=Outcome(value="x" * 5000)))
    assert await _rows(path, "SELECT part FROM payload") == [(1,), (4,)]
    assert await sqlite.purge(after(60), 5) == 1
    assert await _rows(path, "SELECT count(*) FROM payload") == [(0,)]
    assert await _rows(path, "SELECT sum(number) FROM task_count") == [(0,)]
    task = await apply(sqlite, await stored(sqlite), Claim(worker_id="w", lease_until=after(9)))
    task = await apply(sqlite, task, AskInput(fence=1, requests=(question,)), Cancel())
    assert await sqlite.purge(after(60), 5) == 1
    assert await _rows(path, "SELECT count(*) FROM payload") == [(0,)]


def _written(path: Path) -> int:
    return os.stat(f"{path}-wal").st_size


async def test_large_payloads_are_written_once_whatever_else_changes(sqlite: SqliteStore, path: Path) -> None:
    large = "x" * 400_000
    task = await stored(sqlite, arguments={"a": large})
    task = await apply(sqlite, task, Claim(worker_id="w", lease_until=after(9)))
    question = InputRequest(key="a", method="elicitation/create", params={"message": large})
    task = await apply(sqlite, task, AskInput(fence=1, requests=(question,)))
    task = await apply(sqlite, task, ProvideInput(responses={"a": {"action": "accept"}}))
    before = _written(path)
    assert before > 1_200_000
    for number in range(10):
        task = await apply(sqlite, task, ReportProgress(fence=1, progress=Progress(fraction=number / 10)))
    assert _written(path) - before < 400_000
    assert await sqlite.get(task.task_ref) == task


async def test_the_wal_does_not_grow_without_bound(path: Path) -> None:
    store = SqliteStore(path, synchronous="normal")
    await store.open()
    largest = 0
    for _ in range(60):
        task = await apply(
            store, await stored(store, arguments={"a": "x" * 500_000}), Claim(worker_id="w", lease_until=after(9))
        )
        assert await store.replace(settled(task, Outcome(value="y" * 500_000)))
        largest = max(largest, _written(path))
    await store.close()
    assert os.stat(path).st_size > 55_000_000
    assert largest < 25_000_000
    assert not os.path.exists(f"{path}-wal")


# The clock.


async def _seconds_ahead(store: SqliteStore) -> float:
    told = await store.time()
    assert told is not None
    return (told - utc_now()).total_seconds()


@pytest.mark.skipif(sqlite_store.boot_id() is None, reason="this platform does not tell its start")
async def test_one_clock_for_all_stores_on_a_file_whatever_becomes_of_the_wall_clock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [SqliteStore(path), SqliteStore(path)]
    for store in stores:
        await store.open()
    assert abs(await _seconds_ahead(stores[0])) < 1
    monkeypatch.setattr(sqlite_store, "utc_now", lambda: utc_now() + timedelta(hours=1))
    assert abs(await _seconds_ahead(stores[0])) < 1
    assert abs(await _seconds_ahead(stores[1])) < 1
    # The machine was started anew: its uptime says nothing of the time before.
    monkeypatch.setattr(sqlite_store, "boot_id", lambda: "the next start")
    assert abs(await _seconds_ahead(stores[1]) - 3600) < 1
    assert abs(await _seconds_ahead(stores[0]) - 3600) < 1
    for store in stores:
        await store.close()
