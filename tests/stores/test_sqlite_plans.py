"""Flat cost: no statement of the SQLite store walks through the tasks that there are."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from raincheck.stores.sqlite.file import create_file
from raincheck.stores.sqlite.rows import SQL
from raincheck.stores.sqlite.schema import connect_writer, migrate, packaged_migrations

FRAGMENTS = {"columns", "summary", "record_columns"}
WALK = re.compile(r"SCAN (?:task|payload|held|wanted|note)\b|USE TEMP B-TREE FOR ORDER BY")


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    create_file(str(path))
    steps = packaged_migrations()
    connection = connect_writer(str(path), latest=steps[-1].version, synchronous="full", busy_seconds=1)
    migrate(connection, str(path), steps, busy_seconds=1)
    yield connection
    connection.close()


def _plan(connection: sqlite3.Connection, statement: str) -> list[str]:
    numbered = {int(number) for number in re.findall(r"\?(\d)", statement)}
    values = ["{}"] * (max(numbered) if numbered else statement.count("?"))
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()]


@pytest.mark.parametrize("name", sorted(SQL.keys() - FRAGMENTS))
def test_statements_go_by_index(connection: sqlite3.Connection, name: str) -> None:
    assert [step for step in _plan(connection, SQL[name]) if WALK.search(step)] == []


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT version FROM task WHERE fingerprint = ?",
        "SELECT task_ref FROM task WHERE status = ? ORDER BY created_at LIMIT 5",
    ],
)
def test_a_statement_that_walks_would_be_seen(connection: sqlite3.Connection, statement: str) -> None:
    assert any(WALK.search(step) for step in _plan(connection, statement))
