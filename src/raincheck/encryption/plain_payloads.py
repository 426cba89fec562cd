"""Closing a store to plain payloads, once it holds none any more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from raincheck.encryption.cipher import CannotOpen, close_to_plain
from raincheck.encryption.task_store import SealedStore
from raincheck.ports.task_store import Cursor, TaskStore

__all__ = ["NOTE_KINDS", "PlainTasks", "closed"]

NOTE_KINDS = (
    *("blob", "breaker", "callback", "patience", "permits", "scope-permits"),
    *("request-result", "sketch", "upstream", "webhook", "webhook-dead"),
)
"""The kinds of all notes that are sealed."""

_PAGE = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainTasks:
    """The tasks that are not sealed: how many there are, and when the last of them has ended at the latest."""

    number: int
    until: datetime | None


async def closed(store: SealedStore) -> PlainTasks:
    """Close the open store to plain payloads, where no task has one any more; those that have. Notes are sealed first.

    Args:
        store: One that accepts plain payloads.
    """
    for kind in NOTE_KINDS:
        await _seal_notes(store, kind)
    plain = await _plain_tasks(SealedStore(store.inner, store.sealer))
    if not plain.number:
        await close_to_plain(store.inner, store.sealer)
    return plain


async def _seal_notes(store: TaskStore, kind: str) -> None:
    after = ""
    while page := await store.notes(kind, after=after, limit=_PAGE):
        for note in page:
            # Where somebody else wrote it meanwhile, that sealed it.
            await store.put_note(replace(note, version=note.version + 1))
        after = page[-1].key


async def _plain_tasks(strict: TaskStore) -> PlainTasks:
    number, until, after = 0, None, None
    while page := await strict.list(after=after, limit=_PAGE):
        for summary in page:
            try:
                await strict.get(summary.task_ref)
            except CannotOpen:
                number += 1
                ends = max(summary.deadline_at, summary.settled_at or summary.deadline_at)
                until = ends if until is None else max(until, ends)
        after = Cursor(page[-1].created_at, page[-1].task_ref)
    return PlainTasks(number=number, until=until)
