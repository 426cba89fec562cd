"""Closing a store to plain payloads, once it holds none any more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from raincheck.encryption.cipher import CannotDecrypt, close_to_plain
from raincheck.encryption.task_store import EncryptedTaskStore
from raincheck.ports.records import RecordQuery
from raincheck.ports.task_store import Cursor, TaskQuery, TaskStore

RECORD_KINDS = (
    *("blob", "breaker", "callback", "patience", "permits", "scope-permits"),
    *("request-result", "sketch", "upstream", "webhook", "webhook-dead"),
)
"""The kinds of all records that are encrypted."""

_PAGE = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainTasks:
    """The tasks that are not encrypted: how many there are, and when the last of them has ended at the latest."""

    number: int
    until: datetime | None


async def closed(store: EncryptedTaskStore) -> PlainTasks:
    """Close the open store to plain payloads, where no task has one any more; those that have. Records are encrypted
    first.

    Args:
        store: One that accepts plain payloads.
    """
    for kind in RECORD_KINDS:
        await _encrypt_records(store, kind)
    plain = await _plain_tasks(EncryptedTaskStore(store.inner, store.cipher))
    if not plain.number:
        await close_to_plain(store.inner, store.cipher)
    return plain


async def _encrypt_records(store: TaskStore, kind: str) -> None:
    after = ""
    while page := await store.records(RecordQuery(kind, after=after, limit=_PAGE)):
        for record in page:
            # Another process that wrote it meanwhile encrypted it.
            await store.put_record(replace(record, version=record.version + 1))
        after = page[-1].key


async def _plain_tasks(strict: TaskStore) -> PlainTasks:
    number, until, after = 0, None, None
    while page := await strict.list(TaskQuery(after=after, limit=_PAGE)):
        for summary in page:
            try:
                await strict.get(summary.task_ref)
            except CannotDecrypt:
                number += 1
                ends = max(summary.deadline_at, summary.settled_at or summary.deadline_at)
                until = ends if until is None else max(until, ends)
        after = Cursor(page[-1].created_at, page[-1].task_ref)
    return PlainTasks(number=number, until=until)
