"""A store whose payloads nobody reads who has only the store: arguments, questions, results, checkpoints, notes.

What the store needs to find and order tasks stays in clear: ids, scopes, names of operations, statuses, times, error
codes, idempotency keys.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from raincheck.notes import Note
from raincheck.sealing import KEY_NOTES, CannotOpen, Sealer, check_keys
from raincheck.store import Cursor, Inserted, Listener, Room, TaskStore, TaskSummary
from raincheck.stores.payloads import decode_outcome, encode_outcome, encode_value
from raincheck.stores.wrapper import StoreWrapper
from raincheck.task import InputRequest, Outcome, Progress, Task, TaskError, TaskStatus, inflight_key

__all__ = ["SealedStore"]

logger = logging.getLogger(__name__)

_SEALED = "$sealed"


class SealedStore(StoreWrapper):
    """Seals what goes in and opens what comes out; payloads from before there was a key are read as they are.

    Args:
        inner: The store that keeps the tasks.
        sealer: The keys.
    """

    def __init__(self, inner: TaskStore, sealer: Sealer) -> None:
        super().__init__(inner)
        self._sealer = sealer

    async def open(self) -> None:
        """See `TaskStore.open`.

        Raises:
            StoreUnusable: Payloads may be sealed with a key that is not among the keys.
        """
        await self.inner.open()
        try:
            await check_keys(self.inner, self._sealer.ids)
            await self.inner.put_note(Note(kind=KEY_NOTES, key=self._sealer.ids[0], value=None))
        except BaseException:
            await self.inner.close()
            raise

    async def insert(self, task: Task, *, room: Room | None = None) -> Inserted:
        """See `TaskStore.insert`. Fingerprints are stored as digests under the key."""
        marks = self._sealer.marks(task.fingerprint) if task.fingerprint else ("",)
        sealed = replace(self._sealed(task), fingerprint=marks[0])
        if task.inflight and task.fingerprint:
            sealed = replace(sealed, idempotency_key=inflight_key(marks[0]))
        stored, created = await self.inner.insert(sealed, room=room)
        if created:
            known = {"fingerprint": sealed.fingerprint, "idempotency_key": sealed.idempotency_key}
            return Inserted(replace(task, **known), created=True)
        held = self._opened(stored)
        # Under an older key, or from before there was one, the same parameters have another digest.
        same = held.fingerprint in (*marks, task.fingerprint)
        return Inserted(replace(held, fingerprint=task.fingerprint) if same else held, created=False)

    async def get(self, task_ref: str) -> Task | None:
        """See `TaskStore.get`."""
        task = await self.inner.get(task_ref)
        return None if task is None else self._opened(task)

    async def replace(self, task: Task, *, seen_lease: datetime | None = None, note: Note | None = None) -> bool:
        """See `TaskStore.replace`."""
        sealed_note = None if note is None else self._sealed_note(note)
        return await self.inner.replace(self._sealed(task), seen_lease=seen_lease, note=sealed_note)

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """See `TaskStore.claimable`. What cannot be opened here is left to whoever has its key."""
        return self._those_that_open(await self.inner.claimable(operation_types, limit))

    async def waiting(
        self, operation_types: Collection[str], limit: int, *, after: str = "", leave_out: Collection[str] = ()
    ) -> Sequence[Task]:
        """See `TaskStore.waiting`, and `claimable`."""
        return self._those_that_open(await self.inner.waiting(operation_types, limit, after=after, leave_out=leave_out))

    async def overdue(self, now: datetime, limit: int) -> Sequence[Task]:
        """See `TaskStore.overdue`. What cannot be opened here is left to whoever has its key."""
        return self._those_that_open(await self.inner.overdue(now, limit))

    async def list(
        self,
        *,
        scope: str | None = None,
        statuses: Collection[TaskStatus] = (),
        operation_type: str | None = None,
        after: Cursor | None = None,
        limit: int = 50,
    ) -> Sequence[TaskSummary]:
        """See `TaskStore.list`."""
        found = await self.inner.list(
            scope=scope, statuses=statuses, operation_type=operation_type, after=after, limit=limit
        )
        return [replace(each, progress=self._open_progress(each.progress, each.task_ref)) for each in found]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `TaskStore.subscribe`."""
        return self.inner.subscribe(
            lambda change: listener(self._opened(change) if isinstance(change, Task) else change)
        )

    async def get_note(self, kind: str, key: str) -> Note | None:
        """See `NoteStore.get_note`."""
        note = await self.inner.get_note(kind, key)
        return None if note is None else self._opened_note(note)

    async def put_note(self, note: Note) -> bool:
        """See `NoteStore.put_note`."""
        return await self.inner.put_note(self._sealed_note(note))

    async def notes(
        self, kind: str, *, due: datetime | None = None, after: str = "", limit: int = 50
    ) -> Sequence[Note]:
        """See `NoteStore.notes`. Which keys are in use is this store's own business, and no note of anybody else's."""
        if kind == KEY_NOTES:
            return []
        return [self._opened_note(note) for note in await self.inner.notes(kind, due=due, after=after, limit=limit)]

    # Tasks.

    def _sealed(self, task: Task) -> Task:
        ref = task.task_ref
        url, progress = task.callback_url, task.progress
        return replace(
            task,
            arguments=self._seal(task.arguments, f"{ref}/arguments"),
            checkpoint=None if task.checkpoint is None else self._seal(task.checkpoint, f"{ref}/checkpoint"),
            callback_url=None if url is None else self._seal_text(url, f"{ref}/callback_url"),
            progress=progress and replace(progress, message=self._seal_message(progress.message, ref)),
            inputs=tuple(self._sealed_input(each, ref) for each in task.inputs),
            outcome=None if task.outcome is None else self._sealed_outcome(task.outcome, ref),
        )

    def _opened(self, task: Task) -> Task:
        ref = task.task_ref
        url = task.callback_url
        return replace(
            task,
            arguments=self._open(task.arguments, f"{ref}/arguments"),
            checkpoint=self._open(task.checkpoint, f"{ref}/checkpoint"),
            callback_url=None if url is None else self._open_text(url, f"{ref}/callback_url"),
            progress=self._open_progress(task.progress, ref),
            inputs=tuple(self._opened_input(each, ref) for each in task.inputs),
            outcome=None if task.outcome is None else self._opened_outcome(task.outcome, ref),
        )

    def _those_that_open(self, tasks: Sequence[Task]) -> list[Task]:
        opened: list[Task] = []
        for task in tasks:
            try:
                opened.append(self._opened(task))
            except CannotOpen as error:
                logger.error("a task is passed over: %s", error.message, extra={"task_ref": task.task_ref})
        return opened

    def _sealed_input(self, request: InputRequest, ref: str) -> InputRequest:
        place = f"{ref}/inputs/{request.key}"
        response = None if request.response is None else self._seal(request.response, f"{place}/response")
        return replace(request, params=self._seal(request.params, f"{place}/params"), response=response)

    def _opened_input(self, request: InputRequest, ref: str) -> InputRequest:
        place = f"{ref}/inputs/{request.key}"
        params = self._open(request.params, f"{place}/params")
        return replace(request, params=params, response=self._open(request.response, f"{place}/response"))

    def _sealed_outcome(self, outcome: Outcome, ref: str) -> Outcome:
        # The code of an error stays: stores list by it.
        error = outcome.error and TaskError(code=outcome.error.code, message="", retryable=outcome.error.retryable)
        return Outcome(value={_SEALED: self._sealer.seal(encode_outcome(outcome) or "", f"{ref}/outcome")}, error=error)

    def _opened_outcome(self, outcome: Outcome, ref: str) -> Outcome:
        sealed = _sealed_text(outcome.value)
        if sealed is None:
            return outcome
        opened = decode_outcome(self._sealer.open(sealed, f"{ref}/outcome"))
        assert opened is not None
        return opened

    def _seal_message(self, message: str | None, ref: str) -> str | None:
        return None if message is None else self._seal_text(message, f"{ref}/progress")

    def _open_progress(self, progress: Progress | None, ref: str) -> Progress | None:
        if progress is None or progress.message is None:
            return progress
        return replace(progress, message=self._open_text(progress.message, f"{ref}/progress"))

    # Notes.

    def _sealed_note(self, note: Note) -> Note:
        return note if note.value is None else replace(note, value=self._seal(note.value, _place_of(note)))

    def _opened_note(self, note: Note) -> Note:
        return replace(note, value=self._open(note.value, _place_of(note)))

    # Values.

    def _seal(self, value: Any, place: str) -> dict[str, str]:
        return {_SEALED: self._sealer.seal(encode_value(value) or "", place)}

    def _open(self, value: Any, place: str) -> Any:
        sealed = _sealed_text(value)
        return value if sealed is None else json.loads(self._sealer.open(sealed, place))

    def _seal_text(self, text: str, place: str) -> str:
        return f"{_SEALED}:{self._sealer.seal(text, place)}"

    def _open_text(self, text: str, place: str) -> str:
        sealed = text.removeprefix(f"{_SEALED}:")
        return text if sealed == text else self._sealer.open(sealed, place)


def _place_of(note: Note) -> str:
    return f"note/{note.kind}/{note.key}"


def _sealed_text(value: Any) -> str | None:
    if isinstance(value, Mapping) and len(value) == 1:  # pyright: ignore[reportUnknownArgumentType]
        sealed: Any = value.get(_SEALED)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return sealed if isinstance(sealed, str) else None
    return None
