"""A look at a file that may be a store, without opening it as one: nothing in it is changed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from raincheck.stores.sqlite.records import record_from
from raincheck.stores.sqlite.rows import SQL
from raincheck.stores.sqlite.schema import APPLICATION_ID, connect_reader


def is_store(file: Path) -> bool:
    """Whether it is a file of raincheck's tasks that can be read. Blocking."""
    try:
        with closing(connect_reader(str(file))) as connection:
            return connection.execute("PRAGMA application_id").fetchall() == [(APPLICATION_ID,)]
    except sqlite3.Error:
        return False


def record_value(file: Path, kind: str, key: str) -> Any:
    """The value of one of its records, None where there is none or it cannot be read. Blocking."""
    try:
        with closing(connect_reader(str(file))) as connection:
            rows = connection.execute(SQL["get_record"], (kind, key)).fetchall()
    except sqlite3.Error:
        return None
    return record_from(rows[0]).value if rows else None
