"""The SQLite file: creation, connections and schema upgrades."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from raincheck.errors import StoreUnusable
from raincheck.stores.shared.sql_files import read_sql, sql_folder
from raincheck.stores.sqlite.errors import is_locked

APPLICATION_ID = 0x7261696E
"""`rain` in ASCII: in the file's header, so that `file` and we know whose it is."""

_T = TypeVar("_T")
_CHECKPOINT_PAGES = 4000
_USUAL_WAL = _CHECKPOINT_PAGES * 4096
_ROOMY = 64 * _USUAL_WAL
_CACHE_KIB = 8 * 1024
_FACTS = """
SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
    (SELECT count(*) FROM sqlite_master)
"""
_MIGRATION = re.compile(r"(\d{3})_\w+\.sql")


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    """One step of the schema: its number, from 1 without gaps, and its SQL."""

    version: int
    sql: str

    def statements(self) -> Iterator[str]:
        """One statement after the other (`executescript` would end the transaction)."""
        statement = ""
        for line in self.sql.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                yield statement
                statement = ""


def packaged_migrations() -> tuple[Migration, ...]:
    """The steps of this release, in order."""
    names = sorted(entry.name for entry in sql_folder("sqlite").iterdir())
    found = ((int(match[1]), name) for name in names if (match := _MIGRATION.fullmatch(name)))
    return tuple(Migration(version=version, sql=read_sql("sqlite", name)) for version, name in found)


def pause() -> None:
    """Wait a moment for another process's lock; of random length, so that waiting processes do not meet again."""
    time.sleep(random.uniform(0.0005, 0.003))  # noqa: S311 - not for secrets


def with_retry(action: Callable[[], _T], seconds: float) -> _T:
    """Do it, again and again while another process has it locked, for that long at most. Blocking."""
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            return action()
        except sqlite3.Error as error:
            if not is_locked(error) or time.monotonic() > give_up_at:
                raise
            pause()


def connect_writer(
    path: str, *, latest: int, synchronous: Literal["full", "normal"], busy_seconds: float
) -> sqlite3.Connection:
    """A connection that writes, in WAL mode; `latest` is the schema version that is known.

    Raises:
        StoreUnusable: The file is another program's, of a newer version, or lies where SQLite cannot share memory.
        sqlite3.Error: As SQLite has it.
    """
    give_up_at = time.monotonic() + busy_seconds
    connection = _connect(path)
    try:
        with_retry(lambda: _version(connection, path, latest), busy_seconds)
        left = give_up_at - time.monotonic()
        mode = with_retry(lambda: connection.execute("PRAGMA journal_mode = wal").fetchall(), left)
        if mode != [("wal",)]:
            raise StoreUnusable(f"The task store {path} cannot be used in WAL mode: put it on a local file system.")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        # What a burst made of the WAL is given back at the next checkpoint.
        connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
        # Measured: a page that many commits change is copied into the file once, not every few commits.
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def grow_wal(connection: sqlite3.Connection, path: str, *, synchronous: str) -> None:
    """Give the WAL of a writing connection its usual length at once; what cannot be done now is left undone.

    A commit that overwrites the WAL syncs in about half the time of one that makes the file longer, and until the first
    checkpoint every commit would. Where the disk has little room, none is taken from the tasks.
    """
    if os.path.getsize(f"{path}-wal") > _USUAL_WAL // 2 or shutil.disk_usage(os.path.dirname(path)).free < _ROOMY:
        return
    connection.execute("PRAGMA synchronous = off")
    connection.execute("PRAGMA cache_size = 10")
    try:
        connection.execute("BEGIN IMMEDIATE")
        # What does not fit the cache is written to the WAL, and never committed.
        connection.execute("CREATE TABLE growth (body)")
        connection.execute("INSERT INTO growth VALUES (zeroblob(?))", (_USUAL_WAL,))
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")


def connect_reader(path: str) -> sqlite3.Connection:
    """A connection that reads; readers of a WAL do not wait for its writer.

    Raises:
        sqlite3.Error: As SQLite has it.
    """
    connection = _connect(path)
    try:
        connection.execute("PRAGMA query_only = on")
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[Migration], *, busy_seconds: float) -> None:
    """Bring the file to the last of these versions, in one transaction; other processes that start meanwhile wait.

    Raises:
        StoreUnusable: The file is of a newer version, or another program's.
        sqlite3.Error: As SQLite has it; the file is as it was.
    """
    latest = migrations[-1].version
    if with_retry(lambda: _version(connection, path, latest), busy_seconds) == latest:
        return
    with_retry(lambda: connection.execute("BEGIN IMMEDIATE"), busy_seconds)
    try:
        present = _version(connection, path, latest)
        for migration in migrations[present:]:
            for statement in migration.statements():
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {latest}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _connect(path: str) -> sqlite3.Connection:
    # Waiting for locks is ours (`with_retry`): SQLite's own waits grow to 100 ms.
    # A file that went away is not made again here: it would have no owner's mode and no schema.
    uri = f"{Path(path).absolute().as_uri()}?mode=rw"
    return sqlite3.connect(
        uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64
    )


def _version(connection: sqlite3.Connection, path: str, latest: int) -> int:
    # One statement, one snapshot: another process may be creating the schema.
    owner, present, tables = connection.execute(_FACTS).fetchall()[0]
    if owner != APPLICATION_ID and (owner or present or tables):
        raise StoreUnusable(f"The task store {path} is the database of another program.")
    if present > latest:
        raise StoreUnusable(
            f"The task store {path} has schema version {present}, this raincheck knows versions up to {latest}: "
            "upgrade raincheck."
        )
    return present
