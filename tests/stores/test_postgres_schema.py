"""The schema in PostgreSQL: its making, its upgrades, whose it is, and which rights are missing."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import LiteralString, cast

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from stores.records import after, claimed, new_task, settled, stored

from raincheck.domain.task import Task
from raincheck.errors import ConfigurationError, StoreError, StoreUnavailable, StoreUnusable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import PendingLimit, TaskStore
from raincheck.ports.tls import Tls
from raincheck.stores.postgres import connections
from raincheck.stores.postgres.connections import Address
from raincheck.stores.postgres.schema import Migration, check, migrate, packaged_migrations
from raincheck.stores.postgres.store import PostgresStore
from support.servers.postgres import PostgresServer
from support.servers.server import free_port, needed
from support.waiting import PATIENCE

LATEST = packaged_migrations()[-1].version

FURTHER = (
    Migration(
        version=LATEST + 1,
        sql="-- a step\nALTER TABLE raincheck.task ADD COLUMN colour text;\nDROP INDEX raincheck.task_by_due;\n",
    ),
    Migration(
        version=LATEST + 2,
        sql="CREATE INDEX task_by_colour ON raincheck.task (colour);\nUPDATE raincheck.task SET colour = 'a; 100%';\n",
    ),
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    needed(PostgresServer.missing())
    server = PostgresServer()
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE clerk LOGIN PASSWORD 'a secret'")
        connection.execute("CREATE ROLE nobody_here NOLOGIN")
    yield server
    server.close()


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    """A database of the test's own."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE of_the_test")
    yield _in("of_the_test", server.url)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE of_the_test WITH (FORCE)")


def _do(url: str, *statements: str) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(cast("LiteralString", statement))
            rows = cursor.fetchall() if cursor.description else []
    return rows


def _in(database: str, url: str) -> str:
    return f"{url.rpartition('/')[0]}/{database}"


def _as_clerk(url: str) -> str:
    return url.replace("postgres@", "clerk@")


async def _works(store: TaskStore) -> Task:
    """Whether everything can be done; the task that is left."""
    task = await stored(store)
    assert await store.replace(claimed(task))
    record = Record(kind="webhook", key=task.task_ref, value=1)
    assert await store.replace(settled(claimed(task)), records=(record,))
    assert await store.put_record(replace(record, version=2, due_at=after(0)))
    assert await store.records(RecordQuery("webhook", due=after(0))) == [replace(record, version=2, due_at=after(0))]
    assert await store.remove_record(replace(record, version=2))
    assert await store.purge(after(60), 5) == 1
    pending_limit = PendingLimit(total=10, per_scope=10)
    assert (await store.insert(new_task(), pending_limit=pending_limit)).created
    return await stored(store)


async def _refusal(store: PostgresStore, kind: type[StoreError]) -> str:
    with pytest.raises(StoreError) as refusal:
        await store.open()
    assert type(refusal.value) is kind
    assert "\n" not in refusal.value.message
    assert "a secret" not in refusal.value.message
    await store.close()
    return refusal.value.message


# Making and upgrading it.


def _schema(url: str, name: str) -> list[tuple[object, ...]]:
    """Every column, index and constraint, and the version."""
    columns = _do(
        url,
        "SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name "
        f"FROM information_schema.columns WHERE table_schema = '{name}' ORDER BY 1, ordinal_position",
    )
    indexes = _do(url, f"SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = '{name}' ORDER BY 1")
    options = _do(
        url,
        f"SELECT relname, reloptions FROM pg_class WHERE relnamespace = '{name}'::regnamespace ORDER BY 1",
    )
    plain = [(row[0], str(row[1]).replace(f"{name}.", "")) for row in indexes]
    return [*columns, *plain, *options, *_do(url, f"SELECT version FROM {name}.raincheck_schema")]


async def _upgrade(url: str, name: str, steps: tuple[Migration, ...]) -> None:
    address = Address.of(url, schema=name, tls=None, timeout_seconds=5)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await migrate(connection, address, steps)
        assert await check(connection, address, steps[-1].version)


def test_the_packaged_steps_are_numbered_without_gaps() -> None:
    assert [step.version for step in packaged_migrations()] == list(range(1, LATEST + 1))


async def test_an_upgraded_schema_is_the_same_as_a_fresh_one_and_has_its_tasks(url: str) -> None:
    store = PostgresStore(url, schema="old")
    await store.open()
    task = await stored(store)
    await store.close()
    steps = (*packaged_migrations(), *FURTHER)
    await _upgrade(url, "old", steps[: LATEST + 1])
    await _upgrade(url, "old", steps)
    await _upgrade(url, "fresh", steps)
    assert _schema(url, "old") == _schema(url, "fresh")
    assert _do(url, "SELECT task_ref, colour FROM old.task") == [(task.task_ref, "a; 100%")]


async def test_an_upgrade_that_fails_leaves_everything_as_it_was(url: str) -> None:
    store = PostgresStore(url)
    await store.open()
    task = await stored(store)
    await store.close()
    before = _schema(url, "raincheck")
    broken = Migration(version=LATEST + 2, sql="CREATE TABLE raincheck.more (x int); CREATE TABLE raincheck.task ();")
    with pytest.raises(psycopg.errors.DuplicateTable):
        await _upgrade(url, "raincheck", (*packaged_migrations(), FURTHER[0], broken))
    assert _schema(url, "raincheck") == before
    await store.open()
    assert await store.get(task.task_ref) == task
    await store.close()
    await _upgrade(url, "raincheck", (*packaged_migrations(), *FURTHER))


async def test_processes_that_upgrade_at_once_take_each_step_once(url: str) -> None:
    await _upgrade(url, "old", packaged_migrations())
    steps = (*packaged_migrations(), *FURTHER)
    await asyncio.gather(*(_upgrade(url, "old", steps) for _ in range(4)))
    assert _do(url, "SELECT version FROM old.raincheck_schema") == [(LATEST + 2,)]


@pytest.mark.parametrize("name", ['Rain "check" 100% d\'or', "public", "ÿ" * 31])
async def test_the_schema_may_have_any_name(url: str, name: str) -> None:
    store = PostgresStore(url, schema=name)
    await store.open()
    heard: list[object] = []
    end = store.subscribe(heard.append)
    task = await _works(store)
    await store.close()
    end()
    again = PostgresStore(url, schema=name, migrate=False)
    await again.open()
    assert await again.get(task.task_ref) == task
    await again.close()


async def test_two_schemas_of_one_database_know_nothing_of_each_other(url: str) -> None:
    one, other = PostgresStore(url, schema="one"), PostgresStore(url, schema="other")
    await one.open()
    await other.open()
    heard: list[object] = []
    end = other.subscribe(heard.append)
    task = await _works(one)
    assert await other.get(task.task_ref) is None
    assert (await other.insert(new_task(task_ref=task.task_ref))).created
    assert task.task_ref not in heard
    end()
    await one.close()
    await other.close()


# What is refused.


@pytest.mark.parametrize("older", [False, True])
async def test_without_leave_to_migrate_a_missing_or_older_schema_names_the_command(url: str, older: bool) -> None:
    if older:
        _do(url, "CREATE SCHEMA raincheck", "CREATE TABLE raincheck.raincheck_schema AS SELECT 0 AS version")
    message = await _refusal(PostgresStore(url, migrate=False), StoreUnusable)
    assert message.endswith(
        '/of_the_test does not have the schema "raincheck" of this raincheck: run "raincheck store migrate".'
    )
    assert _do(url, "SELECT count(*) FROM pg_class WHERE relname = 'task'") == [(0,)]


async def test_a_schema_of_a_newer_release_is_refused(url: str) -> None:
    await _upgrade(url, "raincheck", (*packaged_migrations(), *FURTHER))
    message = await _refusal(PostgresStore(url), StoreUnusable)
    assert f"has schema version {LATEST + 2}, this raincheck knows versions up to {LATEST}: upgrade" in message


async def test_a_schema_of_another_program_is_refused_and_not_touched(url: str) -> None:
    _do(url, "CREATE SCHEMA shop", "CREATE TABLE shop.task (x int)")
    message = await _refusal(PostgresStore(url, schema="shop"), StoreUnusable)
    assert 'the schema "shop" belongs to another program' in message
    assert _do(url, "SELECT relname FROM pg_class WHERE relnamespace = 'shop'::regnamespace") == [("task",)]


async def test_a_server_that_is_too_old_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "OLDEST_SERVER", 99)
    message = await _refusal(PostgresStore(url), StoreUnusable)
    assert re.search(r"is PostgreSQL \d+: raincheck needs 99 or newer", message)


async def test_a_database_that_cannot_hold_every_text_is_refused(server: PostgresServer) -> None:
    _do(server.url, "CREATE DATABASE narrow ENCODING 'LATIN1' TEMPLATE template0")
    message = await _refusal(PostgresStore(_in("narrow", server.url)), StoreUnusable)
    assert "is a database in LATIN1: raincheck needs one in UTF8" in message


# Rights.


async def test_a_missing_right_is_named(url: str) -> None:
    clerk = _as_clerk(url)
    message = await _refusal(PostgresStore(clerk), StoreUnavailable)
    assert "the user 'clerk' needs the right CREATE on the database, or a schema \"raincheck\" in which" in message
    _do(url, "CREATE SCHEMA raincheck")
    message = await _refusal(PostgresStore(clerk), StoreUnavailable)
    assert "the user 'clerk' needs the right USAGE on the schema \"raincheck\"" in message
    _do(url, "GRANT USAGE ON SCHEMA raincheck TO clerk")
    message = await _refusal(PostgresStore(clerk), StoreUnavailable)
    assert "the user 'clerk' needs the right CREATE on the schema \"raincheck\"" in message
    _do(url, "GRANT CREATE ON SCHEMA raincheck TO clerk")
    store = PostgresStore(clerk)
    await store.open()
    await _works(store)
    await store.close()


async def test_who_may_not_migrate_needs_rights_on_the_tables_only(url: str) -> None:
    clerk = _as_clerk(url)
    owner = PostgresStore(url)
    await owner.open()
    await owner.close()
    _do(url, "GRANT USAGE ON SCHEMA raincheck TO clerk")
    message = await _refusal(PostgresStore(clerk), StoreUnavailable)
    assert "the user 'clerk' needs the rights SELECT on raincheck.raincheck_schema" in message
    _do(url, "GRANT SELECT ON ALL TABLES IN SCHEMA raincheck TO clerk")
    message = await _refusal(PostgresStore(clerk), StoreUnavailable)
    assert message.endswith(
        "needs the rights DELETE on raincheck.blob, DELETE on raincheck.record, DELETE on raincheck.task, "
        "INSERT on raincheck.blob, INSERT on raincheck.record, INSERT on raincheck.task, "
        "UPDATE on raincheck.record, UPDATE on raincheck.task, UPDATE on raincheck.task_count."
    )
    _do(
        url,
        "GRANT INSERT, UPDATE, DELETE ON raincheck.task, raincheck.record TO clerk",
        "GRANT UPDATE ON raincheck.task_count TO clerk",
        "GRANT INSERT, DELETE ON raincheck.blob TO clerk",
    )
    store = PostgresStore(clerk, migrate=False)
    await store.open()
    await _works(store)
    _do(url, "REVOKE INSERT ON raincheck.task FROM clerk")
    with pytest.raises(StoreUnavailable, match="lacks a right: permission denied for table task"):
        await stored(store)
    _do(url, "GRANT INSERT ON raincheck.task TO clerk")
    await _works(store)
    await store.close()


async def test_tables_that_went_away_are_a_clear_error(url: str) -> None:
    store = PostgresStore(url)
    await store.open()
    _do(url, "DROP SCHEMA raincheck CASCADE")
    with pytest.raises(StoreUnusable, match="does not have what it must have"):
        await stored(store)
    await store.close()


# Ways in.


async def test_what_keeps_one_out_is_one_line_each(server: PostgresServer, url: str) -> None:
    place = rf"The task store postgresql://127\.0\.0\.1:{server.port}/"
    hba = server.folder / "data" / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text("host postgres clerk 127.0.0.1/32 scram-sha-256\n" + before)
    _do(server.url, "SELECT pg_reload_conf()")
    wrong = server.url.replace("postgres@", "clerk:a%20secret%20guess@")
    cases = {
        wrong: "refuses the password",
        server.url.replace("postgres@", "stranger@"): "does not know this user",
        server.url.replace("postgres@", "nobody_here@"): "needs a user with the right LOGIN",
        _in("nowhere", server.url): "does not have this database",
        f"{server.url}?sslmode=require": "does not speak TLS, which the settings ask for",
    }
    for address, reason in cases.items():
        assert re.fullmatch(rf"{place}\w+ {reason}\.", await _refusal(PostgresStore(address), StoreUnavailable))
    hba.write_text(before)
    _do(url, "SELECT pg_reload_conf()")
    port = free_port()
    message = await _refusal(PostgresStore(f"postgresql://x:a%20secret@127.0.0.1:{port}/y"), StoreUnavailable)
    assert message == f"The task store postgresql://127.0.0.1:{port}/y has no server: the connection was refused."
    message = await _refusal(PostgresStore("postgresql://no.such.host.invalid/y"), StoreUnavailable)
    assert message == "The task store postgresql://no.such.host.invalid:5432/y has a host that is not known."


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for the loopback address that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files[1].chmod(0o600)
    return files


async def test_a_server_is_spoken_to_privately_once_it_has_proved_who_it_is(
    server: PostgresServer, url: str, tmp_path: Path
) -> None:
    mine, key = _certificate(server.folder, "mine")
    owner = (server.folder / "data").stat()
    os.chown(key, owner.st_uid, owner.st_gid)
    another, _ = _certificate(tmp_path, "another")
    assert "TLS" in await _refusal(PostgresStore(url, tls=Tls(ca=str(mine))), StoreUnavailable)
    settings = {"ssl_cert_file": mine, "ssl_key_file": key, "ssl": "on"}
    _do(server.url, *(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in settings.items()))
    _do(server.url, "SELECT pg_reload_conf()")
    store = PostgresStore(url, tls=Tls(ca=str(mine)), timeout_seconds=5)
    await _opened(store)
    await _works(store)
    assert await store.renew("w", {"x": 1}, after(1)) == {"x"}
    query = (
        "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'raincheck'"
    )
    assert _do(server.url, query) == [(True,)]
    await store.close()
    assert "TLS" in await _refusal(PostgresStore(url, tls=Tls(ca=str(another))), StoreUnavailable)


async def _opened(store: PostgresStore) -> None:
    """Open it as soon as the server has read its new settings."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await store.open()
            except StoreUnavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "url", ["postgresql://u:a secret@h:port:x/y", "host = 'a secret", "postgresql://u:a secret@h/%zz"]
)
def test_an_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        PostgresStore(url)
    assert "a secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert "must be a PostgreSQL address" in refusal.value.message


def test_nothing_shows_the_password(url: str) -> None:
    secret = url.replace("postgres@", "postgres:hush@")
    store = PostgresStore(secret)
    assert "hush" not in repr(store)
    assert "hush" not in repr(Address.of(secret, schema="s", tls=None, timeout_seconds=1))
