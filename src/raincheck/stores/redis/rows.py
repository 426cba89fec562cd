"""Between task records and the hashes of the Redis store: text that its scripts can read, JSON that they need not.

What the fields of a hash hold is told in lua/common.lua. A part of a task (arguments, questions, outcome, checkpoint)
that is not large stands at the end of the field that is written with it; a large one has a field of its own, so that a
progress report does not write it again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from raincheck.domain.task import Task
from raincheck.ports.task_store import TaskSummary
from raincheck.stores.shared.task_codec import TaskCodec
from raincheck.stores.shared.timestamps import from_micros, to_micros

FIELDS = (b"s", b"i", b"r", b"a", b"q", b"o")
"""The fields of a whole task, as `task_from` takes their values."""

Fields = Sequence[bytes | None]

# In characters, of each part.
_INLINE = 1024
_APART = "+"

# How long a task outlives what was agreed when no process runs that would settle or remove it: who comes back after a
# long weekend finds what was not settled, and can settle it.
_UNSETTLED_MARGIN = timedelta(days=7)
_SETTLED_MARGIN = timedelta(days=1)
_LONGEST = timedelta(days=100 * 365)

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_NONE = b"-"

_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode

_CODEC = TaskCodec()
# What the first lines of the fields i and r hold.
_FIXED = (
    "scope",
    "operation_type",
    "ttl_seconds",
    "max_attempts",
    "retry_when_lost",
    "idempotency_key",
    "key_kind",
    "fingerprint",
    "priority",
    "callback_url",
    "own_webhook",
    "caller",
)
_CHANGING = ("updated_at", "settled_at", "attempt", "started_at", "worker_id", "error_code", "awaiting_external")


def stored_text(text: str) -> bytes:
    """Any text as bytes, in the same order; also what is not Unicode text (lone surrogates)."""
    return text.encode(errors="surrogatepass")


def text_from(stored: bytes) -> str:
    """The text again."""
    return stored.decode(errors="surrogatepass")


def name_of(text: str) -> bytes:
    """A scope, operation or worker as part of a key: itself where it is plain, else its digest; never "-" or "*"."""
    if _PLAIN.fullmatch(text):
        return text.encode()
    return b"~" + hashlib.blake2b(stored_text(text), digest_size=16).hexdigest().encode()


def key_digest(task: Task) -> bytes:
    """What stands for the task's key, "-" for none; begins with "=" where the key ends with the task's run."""
    if task.idempotency_key is None:
        return _NONE
    digest = hashlib.blake2b(stored_text(task.scope), digest_size=20)
    digest.update(b"\xff%b\xff%b" % (task.key_kind.encode(), stored_text(task.idempotency_key)))
    return (b"=" if task.inflight else b"") + digest.hexdigest().encode()


def moment(stored: bytes | int) -> datetime:
    """The moment again."""
    return from_micros(int(stored))


def _text_of(micros: int | None) -> bytes:
    return _NONE if micros is None else b"%d" % micros


def length_of(seconds: float | None) -> bytes:
    """The length of a lease that the server is to count from its own now; empty: it is not to."""
    return b"" if seconds is None else b"%d" % round(seconds * 1_000_000)


def _micros_from(stored: bytes) -> int | None:
    return None if stored == _NONE else int(stored)


class _Changing(NamedTuple):
    state: bytes
    due: bytes
    expires: bytes
    ttl: bytes
    fields: list[bytes]
    gone: bytes


class InsertRow(NamedTuple):
    """A new task, as insert.lua takes it after the nonce; between its state and its fields stands the room."""

    ttl: bytes
    task_ref: bytes
    scope: bytes
    operation: bytes
    key: bytes
    status: bytes
    created: bytes
    due: bytes
    expires: bytes
    state: bytes
    fields: list[bytes]


class ReplaceRow(NamedTuple):
    """A task's next version, as replace.lua takes it after the nonce; before its fields stands the record."""

    ttl: bytes
    task_ref: bytes
    before: bytes
    seen_lease: bytes
    lease_length: bytes
    status: bytes
    due: bytes
    expires: bytes
    state: bytes
    gone: bytes
    fields: list[bytes]


def insert_row(task: Task) -> InsertRow:
    """The row of a new task.

    Raises:
        TypeError: Its arguments or its outcome are not JSON values.
    """
    changing = _changing(task)
    scope, operation = name_of(task.scope), name_of(task.operation_type)
    if task.priority:
        operation += b"!%d" % task.priority
    key = key_digest(task)
    members = _CODEC.fixed(task)
    created = b"%d" % members["created_at"]
    arguments = members["arguments"]
    fields = changing.fields
    if len(arguments) > _INLINE:
        fields += [b"a", arguments.encode()]
        arguments = _APART
    fields += [b"i", f"{_encode([members[name] for name in _FIXED])}\n{arguments}".encode()]
    return InsertRow(
        ttl=changing.ttl,
        task_ref=stored_text(task.task_ref),
        scope=scope,
        operation=operation,
        key=key,
        status=str(task.status).encode(),
        created=created,
        due=changing.due,
        expires=changing.expires,
        state=b" ".join((changing.state, b"%d" % members["deadline_at"], created, scope, operation, key)),
        fields=fields,
    )


def replace_row(task: Task, seen_lease: datetime | None, lease_seconds: float | None) -> ReplaceRow:
    """What changes with the task's next version.

    Raises:
        TypeError: Its outcome or a question is not a JSON value.
    """
    changing = _changing(task)
    return ReplaceRow(
        ttl=changing.ttl,
        task_ref=stored_text(task.task_ref),
        before=b"%d" % (task.version - 1),
        seen_lease=b"" if seen_lease is None else _text_of(to_micros(seen_lease)),
        lease_length=b"" if task.lease_until is None else length_of(lease_seconds),
        status=str(task.status).encode(),
        due=changing.due,
        expires=changing.expires,
        state=changing.state,
        gone=changing.gone,
        fields=changing.fields,
    )


def _changing(task: Task) -> _Changing:
    members = _CODEC.changing(task)
    expires = _text_of(members["expires_at"])
    worker = _NONE if task.worker_id is None else name_of(task.worker_id)
    fields: list[bytes] = []
    gone = b""
    inline: list[str] = []
    parts = [members["inputs"], members["outcome"]]
    if task.checkpoint is not None:
        parts.append(members["checkpoint"])
    large = [""] * 3
    for index, part in enumerate(parts):
        if part is not None and len(part) > _INLINE:
            large[index] = part
            inline.append(_APART)
        else:
            inline.append(part or "")
    questions, outcome, checkpoint = large
    # One field for two parts that few tasks have: a field less to be read of all the others.
    apart = f"{questions}\n{checkpoint}" if checkpoint else questions
    for name, part in ((b"q", apart), (b"o", outcome)):
        if part:
            fields += [name, part.encode()]
        else:
            gone += name
    row = "\n".join((_encode([members[name] for name in _CHANGING]), members["progress"] or "", *inline))
    return _Changing(
        state=b"%d %b %d %b %b %b"
        % (task.version, str(task.status).encode(), task.fence, _text_of(members["lease_until"]), expires, worker),
        due=_text_of(members["due_at"]),
        expires=expires,
        ttl=_ttl(task),
        fields=[*fields, b"r", row.encode()],
        gone=gone,
    )


def _ttl(task: Task) -> bytes:
    """The milliseconds until Redis may forget the task by itself, which it does only where no process settles or
    purges.

    A span between the task's own times, since the server's clock may be another one.
    """
    retention = timedelta(seconds=min(task.ttl_seconds, _LONGEST.total_seconds()))
    if task.expires_at is not None:
        left = task.expires_at - task.updated_at + _SETTLED_MARGIN
    else:
        left = task.deadline_at - task.updated_at + retention + _UNSETTLED_MARGIN
    return b"%d" % (min(max(left, _SETTLED_MARGIN), _LONGEST) // timedelta(milliseconds=1))


def is_whole(fixed: bytes, changing: bytes) -> bool:
    """Whether the fields i and r hold everything, and no part has a field of its own."""
    return not fixed.endswith(b"\n+") and b"\n+" not in changing


def task_from(task_ref: str, fields: Fields) -> Task:
    """The task of the values of `FIELDS` (or of the first three, where they are whole)."""
    state, fixed, changing, *apart = fields
    large_arguments, large_questions, large_outcome = apart or (None, None, None)
    assert state is not None
    assert fixed is not None
    assert changing is not None
    version, status, fence, lease, expires, _, deadline, created, rest = state.split(b" ", 8)
    head, _, arguments = fixed.decode().partition("\n")
    row, progress, inputs, outcome, *saved = changing.decode().split("\n")
    stored: dict[str, Any] = dict(zip(_FIXED + _CHANGING, _decode(head) + _decode(row), strict=True))
    del stored["error_code"]
    # It may have gone over to another task since.
    if rest.split(b" ", 3)[2] == _NONE:
        stored["idempotency_key"] = None
    stored |= {
        "task_ref": task_ref,
        "arguments": _part(arguments, large_arguments),
        "created_at": int(created),
        "deadline_at": int(deadline),
        "status": status.decode(),
        "version": int(version),
        "expires_at": _micros_from(expires),
        "fence": int(fence),
        "lease_until": _micros_from(lease),
        "checkpoint": _saved(saved[0], large_questions) if saved else None,
        "progress": progress or None,
        "inputs": _part(inputs, large_questions).partition("\n")[0] or None,
        "outcome": _part(outcome, large_outcome) or None,
    }
    return _CODEC.task(stored)


def _part(inline: str, stored: bytes | None) -> str:
    if inline != _APART:
        return inline
    assert stored is not None
    return stored.decode()


def _saved(inline: str, stored: bytes | None) -> str:
    text = _part(inline, stored)
    return text if inline != _APART else text.partition("\n")[2]


def summary_from(task_ref: str, state: bytes, fixed: bytes, changing: bytes) -> TaskSummary:
    """The summary of a task's state, and of the beginnings of its fields i and r."""
    _, status, _, _, _, _, deadline, created, _ = state.split(b" ", 8)
    row, progress = changing.decode().split("\n")
    stored: dict[str, Any] = dict(zip(_CHANGING, _decode(row), strict=True))
    del stored["started_at"], stored["awaiting_external"]
    stored["scope"], stored["operation_type"], *_ = _decode(fixed.decode())
    stored |= {
        "task_ref": task_ref,
        "status": status.decode(),
        "created_at": int(created),
        "deadline_at": int(deadline),
        "progress": progress or None,
    }
    return _CODEC.summary(stored)
