"""Between task records and items of the table: the keys, the members, and what the indexes are given.

A task's own item is kept small, since every read of it pays for the whole: what a condition or an index asks for is an
attribute, the rest is JSON text in two, `fixed` (written once) and `state`. JSON escapes what DynamoDB's strings cannot
hold (lone surrogates); names that make keys are digests. Moments are whole microseconds since 1970.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from raincheck.domain.task import Task, TaskStatus
from raincheck.ports.task_store import Cursor, TaskSummary
from raincheck.stores.shared.payload_codec import decode_value
from raincheck.stores.shared.task_codec import SUMMARY_FIELDS, TaskCodec
from raincheck.stores.shared.timestamps import moment_or_none, to_micros

Item = Mapping[str, Mapping[str, Any]]
"""An item as DynamoDB's own JSON has it: `{"status": {"S": "pending"}, …}`."""

KEY = "raincheck_item"
"""The table's key, of a name that no other program's table has."""

TTL = "remove_at"
"""The attribute of DynamoDB's own expiry, in seconds."""

PAYLOADS = {"arguments": 900, "inputs": 900, "outcome": 900, "checkpoint": 300, "callback_url": 200, "caller": 300}
"""What is kept apart where it is large: where it has more characters than that. A task's item with all its payloads
stays within the 4 KB that a read is charged for."""

ROOMED = "roomed"
"""Of a task: whether its scope's room knows of it (`raincheck.stores.dynamodb.pending_limit`). Of counters: how many of
their pending tasks are so; it stands there from when room was first asked for."""

SUMMARY = (KEY, "status", "fixed", "state", "deadline_at", "worker")
"""The attributes that a summary is made of."""

AGENDA_SHARDS = 4
COUNT_SHARDS = 32
"""How many items the counters are spread over; part of the layout, as the agenda's shards are."""

MARKS = 8
"""The marks of so many last writes are kept: that many others may get in between a write and its repetition."""

_STATUS = {str(status): status for status in TaskStatus}
_LONGEST_REF = 900
# DynamoDB's own expiry is the net under `purge`: it comes into play where no process served the table for a month.
MARGIN = timedelta(days=30)
_encode = json.JSONEncoder(separators=(",", ":")).encode

CODEC = TaskCodec()
# What the attributes `fixed` and `state` hold.
_FIXED = (
    "scope",
    "operation_type",
    "created_at",
    "ttl_seconds",
    "max_attempts",
    "retry_when_lost",
    "idempotency_key",
    "key_kind",
    "fingerprint",
    "own_webhook",
)
_STATE = (
    "updated_at",
    "settled_at",
    "expires_at",
    "attempt",
    "started_at",
    "error_code",
    "progress",
    "awaiting_external",
)


def text(value: str) -> Mapping[str, Any]:
    """A string attribute."""
    return {"S": value}


def number(value: int) -> Mapping[str, Any]:
    """A number attribute."""
    return {"N": str(value)}


# Keys.


def key(name: str) -> Item:
    """The key of an item."""
    return {KEY: {"S": name}}


def storable(task_ref: str) -> bool:
    """Whether there can be a task of that ref here: a key is Unicode text and short."""
    try:
        return len(task_ref.encode()) <= _LONGEST_REF
    except UnicodeEncodeError:
        return False


def task_key(task_ref: str) -> Item:
    """The key of a task's item."""
    return key(f"task#{task_ref}")


def ref_of(item: Item) -> str:
    """The task_ref of a task's item, or of its entry in an index."""
    return item[KEY]["S"].removeprefix("task#")


def digest(*names: str) -> str:
    """A short name for names of any length and any characters."""
    joined = _encode(names)
    return hashlib.sha256(joined.encode()).hexdigest()[:40]


def holder_key(scope: str, kind: str, idempotency_key: str) -> Item:
    """The key of the item that says which task holds an idempotency key."""
    return key(f"key#{digest(scope, kind, idempotency_key)}")


def holder_key_of(task: Task) -> Item | None:
    """The same for a task, None where it has no idempotency key."""
    return None if task.idempotency_key is None else holder_key(task.scope, task.key_kind, task.idempotency_key)


def holder_of(item: Item) -> Item | None:
    """The key of the item that gives a stored task its idempotency key, or None where it has none."""
    fixed = dict(zip(_FIXED, json.loads(item["fixed"]["S"]), strict=True))
    named: str | None = fixed["idempotency_key"]
    return None if named is None else holder_key(fixed["scope"], fixed["key_kind"], named)


def room_key(scope: str) -> Item:
    """The key of the item that counts a scope's pending tasks."""
    return key(f"room#{digest(scope)}")


def scope_of(item: Item) -> str:
    """The scope of a stored task."""
    scope, *_ = json.loads(item["fixed"]["S"])
    return scope


def without_key(item: Item) -> Mapping[str, Any]:
    """What a stored task's `fixed` is when its idempotency key has gone over to another task."""
    fixed: list[Any] = json.loads(item["fixed"]["S"])
    fixed[_FIXED.index("idempotency_key")] = None
    return text(_encode(fixed))


def count_shard(task_ref: str) -> int:
    """Where a task is counted, all its life: a reader of the counters sees it in one status, never in none or two."""
    return hashlib.sha256(task_ref.encode()).digest()[0] % COUNT_SHARDS


def count_key(shard: int) -> Item:
    """The key of a counters' item."""
    return key(f"count#{shard}")


def agenda_shards(name: str) -> list[str]:
    """The partitions of an agenda ("due", "expiring"): several, since every renewal of a lease writes to one."""
    return [f"{name}#{shard}" for shard in range(AGENDA_SHARDS)]


def partition(status: TaskStatus, *, scope: str | None = None, operation: str | None = None, priority: int = 0) -> str:
    """The partition of an index for the tasks in one status, of a scope, of an operation, or of both; of an operation's
    pending tasks that of a priority."""
    names = [*(() if scope is None else (f"s:{scope}",)), *(() if operation is None else (f"o:{operation}",))]
    if priority and status is TaskStatus.PENDING:
        names.append(f"p:{priority}")
    return f"{digest(*names)}#{status}"


def place(cursor: Cursor) -> str:
    """A place in a listing, as the indexes have it: text that sorts by `(created_at, task_ref)`."""
    return f"{to_micros(cursor.created_at):020d}#{cursor.task_ref}"


def line_of(operation: str, priority: int) -> str:
    """The partition of the index by turns for an operation's pending tasks of a priority."""
    return partition(TaskStatus.PENDING, operation=operation, priority=priority)


def turn_of(scope: str) -> str:
    """With what the places of a scope's tasks in that index begin."""
    return f"{digest(scope)[:24]}#"


# Tasks.


class Payload(NamedTuple):
    """A payload in a task's item: its JSON, or the pointer to where it is kept apart; both None: there is none."""

    inline: str | None = None
    apart: str | None = None

    def attributes(self, name: str) -> dict[str, Any]:
        """Its attributes, None for those that are not there."""
        return {
            name: None if self.inline is None else text(self.inline),
            f"{name}_at": None if self.apart is None else text(self.apart),
        }


def pointers(item: Item) -> list[str]:
    """Where the payloads of a task are that are kept apart."""
    return [item[f"{name}_at"]["S"] for name in PAYLOADS if f"{name}_at" in item]


def new_item(task: Task, members: Mapping[str, Any], payloads: Mapping[str, Payload], written: str) -> Item:
    """The whole item of a new task; `written` marks this write."""
    attributes = {
        **task_key(task.task_ref),
        "fixed": text(_encode([members[name] for name in _FIXED])),
        "deadline_at": number(members["deadline_at"]),
        "place": text(place(Cursor(task.created_at, task.task_ref))),
        "turn": text(f"{turn_of(task.scope)}{place(Cursor(task.created_at, task.task_ref))}"),
        "priority": number(task.priority) if task.priority else None,
        **replacement(task, members, payloads, written),
    }
    return {name: value for name, value in attributes.items() if value is not None}


def replacement(
    task: Task, members: Mapping[str, Any], payloads: Mapping[str, Payload], written: str
) -> Mapping[str, Mapping[str, Any] | None]:
    """The attributes that the task's next version sets, and (None) those that it takes away."""
    agenda, agenda_at = ("expiring" if task.terminal else "due"), members["expires_at" if task.terminal else "due_at"]
    shard = count_shard(task.task_ref) % AGENDA_SHARDS
    return {
        "status": text(str(task.status)),
        "version": number(task.version),
        "fence": number(task.fence),
        "worker": None if task.worker_id is None else text(worker_text(task.worker_id)),
        "lease_until": None if task.lease_until is None else number(members["lease_until"]),
        "state": text(_encode([members[name] for name in _STATE])),
        "agenda": None if agenda_at is None else text(f"{agenda}#{shard}"),
        "agenda_at": None if agenda_at is None else number(agenda_at),
        "of_operation": text(partition(task.status, operation=task.operation_type, priority=task.priority)),
        "of_turn": text(line_of(task.operation_type, task.priority)) if task.status is TaskStatus.PENDING else None,
        "of_scope": text(partition(task.status, scope=task.scope)),
        "of_both": text(partition(task.status, scope=task.scope, operation=task.operation_type)),
        TTL: number(expiry(task)),
        mark(task.version): text(written),
        **{name: value for each in payloads for name, value in payloads[each].attributes(each).items()},
    }


def expiry(task: Task) -> int:
    """When DynamoDB removes what belongs to the task, if no process has: seconds since 1970."""
    ends = to_micros(task.expires_at or task.deadline_at) / 1_000_000
    retention = 0.0 if task.expires_at is not None else task.ttl_seconds
    return math.ceil(ends + retention + MARGIN.total_seconds())


def worker_text(worker_id: str) -> str:
    """A worker's id as it is stored and compared."""
    return _encode(worker_id)


def mark(version: int) -> str:
    """The attribute that holds the mark of the write that made this version."""
    return f"written_{version % MARKS}"


def is_ours(item: Item, version: int, written: str) -> bool:
    """Whether that very write made this version of the item, though others may have written since."""
    return item.get(mark(version), {}).get("S") == written


def version_of(item: Item) -> int:
    """The version that is stored."""
    return int(item["version"]["N"])


def status_of(item: Item) -> TaskStatus:
    """The status that is stored."""
    return _STATUS[item["status"]["S"]]


def is_due(item: Item, until: int) -> bool:
    """Whether the stored task is not terminal, and its deadline or its lease is over by then."""
    return not status_of(item).terminal and int(item["agenda_at"]["N"]) <= until


def expires_at(item: Item) -> datetime | None:
    """When the stored task may be removed, None while it is not terminal."""
    return moment_or_none(json.loads(item["state"]["S"])[2])


def _number_of(item: Item, name: str) -> int | None:
    return int(item[name]["N"]) if name in item else None


def task_from(item: Item, bodies: Mapping[str, str | None]) -> Task:
    """The task of an item, and of its payloads by their names in `PAYLOADS`."""
    stored = _stored(item)
    del stored["error_code"]
    stored |= {
        **bodies,
        "arguments": bodies["arguments"] or "{}",
        "callback_url": decode_value(bodies["callback_url"]),
        "version": version_of(item),
        "fence": int(item["fence"]["N"]),
        "lease_until": _number_of(item, "lease_until"),
        "priority": _number_of(item, "priority") or 0,
    }
    return CODEC.task(stored)


def summary_from(item: Item) -> TaskSummary:
    """The summary of a task's item; its payloads are not needed."""
    return CODEC.summary({name: value for name, value in _stored(item).items() if name in SUMMARY_FIELDS})


def _stored(item: Item) -> dict[str, Any]:
    values = json.loads(item["fixed"]["S"]) + json.loads(item["state"]["S"])
    return {
        **dict(zip(_FIXED + _STATE, values, strict=True)),
        "task_ref": ref_of(item),
        "status": item["status"]["S"],
        "deadline_at": int(item["deadline_at"]["N"]),
        "worker_id": json.loads(item["worker"]["S"]) if "worker" in item else None,
    }
