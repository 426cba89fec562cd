"""Errors of SQLite, mapped to raincheck's: the one module that reads its codes."""

from __future__ import annotations

import os
import sqlite3

from raincheck.errors import StoreError, StoreUnavailable, StoreUnusable

_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DISK = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL})
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})

_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another connection",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_READONLY: "is read-only",
    sqlite3.SQLITE_PERM: "may not be accessed",
    sqlite3.SQLITE_AUTH: "may not be accessed",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: it or its folder is missing, or may not be read or written",
    sqlite3.SQLITE_IOERR: "cannot be read or written (I/O error)",
    sqlite3.SQLITE_PROTOCOL: "is locked by other processes",
    sqlite3.SQLITE_NOMEM: "cannot be used: out of memory",
    sqlite3.SQLITE_INTERRUPT: "was interrupted",
}


def _primary(error: sqlite3.Error) -> int:
    # Errors of the sqlite3 module itself, such as the use of a closed connection, have no code.
    return getattr(error, "sqlite_errorcode", -1) & 0xFF if hasattr(error, "sqlite_errorcode") else -1


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another connection holds a lock, so that trying again in a moment is all it takes."""
    return _primary(error) in _LOCKED


def needs_new_connection(error: sqlite3.Error) -> bool:
    """Whether the connection may have lost its files, so that the next attempt is to have a new one."""
    return _primary(error) in _DISK | _BROKEN


def was_read_only(error: sqlite3.Error) -> bool:
    """Whether the file could be read alone. Where writes fail otherwise, readers go on with what they have open."""
    return _primary(error) in _BROKEN | {sqlite3.SQLITE_READONLY}


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite takes the file for damaged; a disk that cannot be read (EIO) is told the same way."""
    return _primary(error) in _BROKEN


def _is_full(path: str) -> bool:
    try:
        disk = os.statvfs(os.path.dirname(os.path.abspath(path)))
    except (AttributeError, OSError, ValueError):  # AttributeError: Windows has no statvfs.
        return False
    return disk.f_bavail == 0


def store_error(error: sqlite3.Error, path: str, *, disk_fails: bool = False) -> StoreError:
    """The error of ours for one of SQLite: one line that names the file, and nothing of the caller's data."""
    code = _primary(error)
    if code in _BROKEN and disk_fails:
        code = sqlite3.SQLITE_IOERR
    if code == sqlite3.SQLITE_IOERR and _is_full(path):
        # The shared memory of the WAL, which is made at the start, is told so.
        code = sqlite3.SQLITE_FULL
    if code in _BROKEN:
        return StoreUnusable(f"The task store {path} is damaged or not an SQLite database.")
    if code in _UNAVAILABLE:
        return StoreUnavailable(f"The task store {path} {_UNAVAILABLE[code]}.")
    if code == sqlite3.SQLITE_TOOBIG:
        return StoreError(f"A value is larger than the task store {path} can hold.")
    if code == sqlite3.SQLITE_CONSTRAINT:
        return StoreError(f"The task store {path} refuses a value: a task of that task_ref is stored already.")
    if code == sqlite3.SQLITE_ERROR:
        return StoreUnusable(f"The task store {path} does not have the tables that it must have.")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreUnavailable(f"The task store {path} failed ({name}).")
