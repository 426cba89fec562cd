"""Flat cost: no statement of the PostgreSQL store walks through the tasks that there are."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, LiteralString, cast

import psycopg
import pytest
from stores.records import after, claimed, new_task, settled

from raincheck.domain.task import KeyKind, Task
from raincheck.ports.records import Record
from raincheck.stores.postgres.connections import Address, statements
from raincheck.stores.postgres.rows import insert_row, key_digest, record_members, replace_row, row_text
from raincheck.stores.postgres.schema import migrate, packaged_migrations
from support.servers.postgres import PostgresServer
from support.servers.server import needed

SQL = statements("raincheck")
OTHERS = {
    "counted",
    "columns",
    "summary",
    "page_of_all",
    "page_of_pending",
    "page_of_scope",
    "newest",
    "record_columns",
    "replacing",
    "now",
    "durability",
    "arrive",
    "create_version",
    "lacking_rights",
    "lock_room",
    "notify",
    "schema_facts",
    "schema_version",
    "set_version",
    "time",
}
TASKS = 2000
# What walks, and what reads more rows than it uses, before a limit.
WALK = re.compile(r"Seq Scan on (?:task|record)\b|Sort Method: external|Rows Removed by Filter: \d{2,}")
ROWS = re.compile(r"(?:Index|Bitmap).*?on (?:task|task_\w+|record|record_\w+)\b.*?actual rows=(\d+) loops=(\d+)")
WRITING = {"insert", "replace", "replace_with_records", "write_records", "purge"}
WROTE = re.compile(r"(?:Insert|Update|Delete) on (?:task|record)\b.*actual rows=[1-9]")


def _tasks() -> list[Task]:
    tasks: list[Task] = []
    for number in range(TASKS):
        task = new_task(
            operation_type=f"operation-{number % 3}",
            scope=f"scope-{number % 4}",
            idempotency_key=str(number),
            key_kind=KeyKind.INFLIGHT if number % 7 == 0 else KeyKind.CALLER,
            priority=number % 4,
        )
        if number % 5:
            task = claimed(task)
        tasks.append(settled(task) if number % 5 > 1 else task)
    return tasks


@pytest.fixture(scope="module")
def connection() -> Iterator[psycopg.Connection[Any]]:
    """A full store, as a connection of the store's own sees it; nothing is known of it by statistics."""
    needed(PostgresServer.missing())
    server = PostgresServer("autovacuum=off")
    server.start()
    address = Address.of(server.url, schema="raincheck", tls=None, timeout_seconds=5)
    asyncio.run(_migrated(server.url, address))
    with psycopg.connect(server.url, autocommit=True) as connection:
        settings = {"pid": connection.info.backend_pid, "settings": address.session}
        connection.execute(SQL["arrive"], settings)
        rows = f"[{','.join(_row(task) for task in _tasks())}]"
        connection.execute(SQL["insert"], {"rows": rows, "shard": 1, "patience": "1000"})
        records = f"[{','.join(_record_row(number) for number in range(TASKS))}]"
        connection.execute(SQL["write_records"], {"rows": records, "patience": "1000"})
        yield connection
    server.close()


async def _migrated(url: str, address: Address) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await migrate(connection, address, packaged_migrations())


def _row(task: Task) -> str:
    return insert_row(task, key_digest(task))


def _record(number: int) -> Record:
    key = f"k{number}"
    return Record(kind=f"kind-{number % 3}", key=key, value=1, due_at=after(number), expires_at=after(2 * number))


def _record_row(number: int, stored: int = 0, *, removes: bool = False) -> str:
    return row_text({**record_members(_record(number), 1), "stored": stored, "removes": removes})


def _plan(connection: psycopg.Connection[Any], statement: str, parameters: dict[str, Any]) -> list[str]:
    explain = cast("LiteralString", f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {statement}")
    with connection.transaction(force_rollback=True):
        return [row[0] for row in connection.execute(explain, parameters).fetchall()]


def _parameters(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    query = "SELECT task_ref FROM raincheck.task ORDER BY status = 'pending' DESC LIMIT 3"
    refs = [row[0] for row in connection.execute(query).fetchall()]
    return {
        "rows": "[]",
        "shard": 3,
        "patience": "1000",
        "refs": refs,
        "digests": ["x", "y"],
        "leases": json.dumps([{"task_ref": ref, "fence": 1} for ref in refs]),
        "worker_id": "worker-1",
        "until": 1,
        "length": 1_000_000,
        "now": 2**62,
        "limit": 5,
        "limit_of_records": 5,
        "operations": ["operation-0", "operation-1", "absent"],
        "statuses": ["pending", "completed"],
        "created_at": 2**62,
        "task_ref": "",
        "scope": "scope-1",
        "operation_type": "operation-1",
        "scopes": ["scope-1", "absent"],
        "most": [20, 5],
        "wanted": [1, 1],
        "kinds": ["kind-1", "kind-2"],
        "keys": ["k1", "absent"],
        "kind": "kind-1",
        "due": 2**62,
        "after": "k5",
    }


def _rows(name: str, refs: list[str]) -> str:
    """What those statements are to write that write something."""
    pending = claimed(new_task(task_ref=refs[0]))
    ended = next(task for task in _tasks() if task.terminal and task.inflight)
    rows = {
        "insert": [_row(new_task(idempotency_key="new")), _row(replace(ended, task_ref="x", created_at=after(9)))],
        "replace": [replace_row(pending, 1, None, lease_length=1_000_000)],
        "replace_with_records": [replace_row(pending, 1, None, [_record(8)])],
        "write_records": [_record_row(5, 1), _record_row(7, 1, removes=True), _record_row(TASKS)],
    }
    return f"[{','.join(rows.get(name, []))}]"


@pytest.mark.parametrize("name", sorted(SQL.keys() - OTHERS))
def test_statements_go_by_index_and_read_few_rows(connection: psycopg.Connection[Any], name: str) -> None:
    parameters = _parameters(connection)
    plan = _plan(connection, SQL[name], {**parameters, "rows": _rows(name, parameters["refs"])})
    assert [step for step in plan if WALK.search(step)] == []
    read = sum(int(rows) * int(loops) for step in plan for rows, loops in ROWS.findall(step))
    assert read < 150
    if name in WRITING:
        assert any(WROTE.search(step) for step in plan)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT version FROM raincheck.task WHERE fingerprint = 'x'",
        "SELECT task_ref FROM raincheck.task WHERE status = 'completed' ORDER BY created_at, task_ref LIMIT 5",
    ],
)
def test_a_statement_that_walks_would_be_seen(connection: psycopg.Connection[Any], statement: str) -> None:
    plan = _plan(connection, statement, {})
    read = sum(int(rows) * int(loops) for step in plan for rows, loops in ROWS.findall(step))
    assert any(WALK.search(step) for step in plan) or read > 150
