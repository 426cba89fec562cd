"""Errors of PostgreSQL, mapped to raincheck's: the one module that reads its codes and messages."""

from __future__ import annotations

import re

import psycopg
from psycopg import errors

from raincheck.errors import StoreError, StoreUnavailable, StoreUnusable

_READ_ONLY = "25006"
# The server is ending, starting, or ended this connection for having waited in a transaction or for too long.
_ENDED = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", _READ_ONLY})
_RETRIED = frozenset({"40001", "40P01", "55P03", "53300"})

_UNAVAILABLE = {
    _READ_ONLY: "is read-only",
    "53100": "cannot grow: the disk is full",
    "53200": "is out of memory",
    "53300": "has no connection left",
    "55P03": "did not answer in time: a row is locked by another process",
    "57014": "did not answer in time",
}

# libpq tells why a connection failed in words only.
_REFUSED = (
    (re.compile(r"password authentication failed|no password supplied"), "refuses the password"),
    (re.compile(r"no pg_hba\.conf entry"), "refuses this user or this address (pg_hba.conf)"),
    (re.compile(r'role "[^"]*" does not exist'), "does not know this user"),
    (re.compile(r'database "[^"]*" does not exist'), "does not have this database"),
    (re.compile(r"permission denied for database"), "needs the right CONNECT on this database"),
    (re.compile(r"is not permitted to log in"), "needs a user with the right LOGIN"),
    (re.compile(r"does not support SSL"), "does not speak TLS, which the settings ask for"),
    (re.compile(r"certificate|SSL error|root\.crt"), "cannot be spoken to over TLS"),
)
_PASSING = (
    (re.compile(r"starting up|not yet accepting|recovery mode|shutting down"), "is starting or ending"),
    (re.compile(r"too many (?:clients|connections)|remaining connection slots"), "has no connection left"),
    (re.compile(r"[Cc]onnection refused|No such file or directory"), "has no server: the connection was refused"),
    (
        re.compile(r"could not translate host name|Name or service not known|getaddrinfo|resolve"),
        "has a host that is not known",
    ),
    (re.compile(r"timeout expired|timed out"), "did not answer in time"),
)


def is_lost(error: BaseException) -> bool:
    """Whether the connection is of no use any more; what was under way on it may or may not have been committed."""
    if isinstance(error, TimeoutError | OSError):
        return True
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return isinstance(error, psycopg.Error) and error.sqlstate in _ENDED
    return error.sqlstate is None or error.sqlstate in _ENDED or error.sqlstate.startswith("08")


def is_starting(error: BaseException) -> bool:
    """Whether the server is there and will take connections soon."""
    return is_lost(error) and _PASSING[0][0].search(str(error)) is not None


def may_pass(error: BaseException) -> bool:
    """Whether the same may succeed in a moment, on another connection."""
    if isinstance(error, psycopg.Error) and error.sqlstate in _RETRIED:
        return True
    return is_lost(error) and not any(pattern.search(str(error)) for pattern, _ in _REFUSED)


def store_error(error: BaseException, place: str) -> StoreError:
    """The error of ours: one line that names the store, and nothing of the caller's data."""
    if isinstance(error, StoreError):
        return error
    code = error.sqlstate if isinstance(error, psycopg.Error) else None
    if code in _UNAVAILABLE:
        return StoreUnavailable(f"The task store {place} {_UNAVAILABLE[code]}.")
    if isinstance(error, TimeoutError):
        return StoreUnavailable(f"The task store {place} did not answer in time.")
    if is_lost(error):
        return StoreUnavailable(f"The task store {place} {_why(str(error))}.")
    if code == "42501":
        return StoreUnavailable(f"The task store {place} lacks a right: {_primary(error)}.")
    if code in ("42P01", "3F000", "42703", "42883"):
        return StoreUnusable(f"The task store {place} does not have what it must have: {_primary(error)}.")
    if code == "54000":
        return StoreError(f"A scope or an operation's name is longer than the task store {place} can hold.")
    if isinstance(error, errors.DataError | psycopg.DataError):
        return StoreError(f"The task store {place} refuses a value: it is out of range.")
    if isinstance(error, psycopg.IntegrityError):
        return StoreError(f"The task store {place} refuses a value ({type(error).__name__}).")
    return StoreUnavailable(f"The task store {place} failed ({code or type(error).__name__}).")


def _why(message: str) -> str:
    for pattern, words in (*_REFUSED, *_PASSING):
        if pattern.search(message):
            return words
    if message.startswith("connection failed"):
        return f"cannot be reached: {message.strip().splitlines()[-1].strip()}"
    return "does not answer: the connection was lost"


def _primary(error: BaseException) -> str:
    # Names of tables, schemas and functions; PostgreSQL puts values into the detail only.
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return primary or type(error).__name__
