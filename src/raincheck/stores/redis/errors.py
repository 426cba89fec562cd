"""Errors of Redis, mapped to raincheck's: the one module that reads its codes."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeout

from raincheck.errors import StoreError, StoreUnavailable, StoreUnusable

_BY_TYPE: tuple[tuple[type[Exception], str], ...] = (
    (NoScriptError, "NOSCRIPT"),
    (BusyLoadingError, "LOADING"),
    (OutOfMemoryError, "OOM"),
    (ReadOnlyError, "READONLY"),
    (MasterDownError, "MASTERDOWN"),
    (ClusterDownError, "CLUSTERDOWN"),
    (MovedError, "MOVED"),
    (NoPermissionError, "NOPERM"),
    (AuthenticationError, "WRONGPASS"),
    (AuthenticationWrongNumberOfArgsError, "WRONGPASS"),
    (AuthorizationError, "WRONGPASS"),
)

_UNAVAILABLE = {
    "LOADING": "is loading its data",
    "OOM": "is full: it has used its maxmemory",
    "READONLY": "is a read-only replica: connect to the primary",
    "MASTERDOWN": "is a replica that has lost its primary: connect to the primary",
    "CLUSTERDOWN": "is part of a cluster that is down",
    "MOVED": "is part of a cluster and not the node that keeps this key_prefix: connect to that node",
    "ASK": "is part of a cluster that moves this key_prefix to another node",
    "TRYAGAIN": "is part of a cluster that moves this key_prefix to another node",
    "NOPERM": "does not permit what is needed: grant its user the keys and channels under key_prefix, and @read, "
    "@write, @scripting, @pubsub, @connection, info and time",
    "WRONGPASS": "refuses the login: set user name and password in its url",
    "NOAUTH": "refuses the login: set user name and password in its url",
    "MISCONF": "takes no writes: it cannot save to its disk (MISCONF)",
    "NOREPLICAS": "takes no writes: it has too few replicas (NOREPLICAS)",
    "BUSY": "is busy with a script of somebody else",
    "UNKILLABLE": "is busy with a script of somebody else",
}

# A script's errors have the code anywhere in their text, and older servers add a dash.
_CODE = re.compile(rf"(?<!\w)({'|'.join([*_UNAVAILABLE, 'NOSCRIPT', 'WRONGTYPE'])})(?!\w)")


def is_answer(error: Exception) -> bool:
    """Whether the server answered with this error, so that the connection is as good as before."""
    # redis-py counts some answers among the errors of the connection.
    return isinstance(error, (ResponseError, BusyLoadingError, AuthenticationError, AuthorizationError))


def code_of(error: Exception) -> str:
    """The server's code for what is wrong, "" where it is not known or the server did not say it."""
    for kind, code in _BY_TYPE:
        if isinstance(error, kind):
            return code
    found = _CODE.search(str(error)) if is_answer(error) else None
    return found[1] if found else ""


def never_helps_soon(error: Exception) -> bool:
    """Whether connecting again within seconds would fail the same way: a person has to do something first."""
    return code_of(error) in ("WRONGPASS", "NOAUTH", "NOPERM") or _certificate(error) is not None


def no_answer(place: str, seconds: float) -> StoreUnavailable:
    """The error for a server that takes too long."""
    return StoreUnavailable(f"The task store {place} did not answer within {seconds:g} s.")


def store_error(error: Exception, place: str) -> StoreError:
    """The error of ours for one of the client's: one line that names the server, and nothing of the caller's data."""
    code = code_of(error)
    if code in _UNAVAILABLE:
        return StoreUnavailable(f"The task store {place} {_UNAVAILABLE[code]}.")
    if code == "WRONGTYPE":
        return StoreUnusable(f"The task store {place} has keys of another program under key_prefix: set another one.")
    if isinstance(error, ResponseError):
        # What follows such a mark may be what was sent.
        said = re.split(r"[,:;'\"`]", str(error), maxsplit=1)[0].strip()[:60]
        return StoreUnavailable(f"The task store {place} failed: {said}.")
    if isinstance(error, (RedisTimeout, TimeoutError)):
        return StoreUnavailable(f"The task store {place} does not answer.")
    if (certificate := _certificate(error)) is not None:
        return StoreUnavailable(f"The task store {place} cannot be reached over TLS: {certificate}.")
    return StoreUnavailable(f"The task store {place} cannot be reached: {_reason(error)}.")


def _reason(error: Exception) -> str:
    for each in _causes(error):
        if isinstance(each, socket.gaierror):
            return "there is no such host"
        if isinstance(each, OSError) and each.errno:
            return os.strerror(each.errno).lower()
    return "the connection was lost"


def _certificate(error: Exception) -> str | None:
    for each in _causes(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted ({each.verify_message})"
        if isinstance(each, ssl.SSLError):
            return "it does not speak TLS here, or refuses this client's certificate"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__
