"""A task store that encrypts payloads at rest: arguments, callers, questions, results, records.

The members by which the store finds and orders tasks stay in clear: ids, scopes, names of operations, statuses, times,
error codes, idempotency keys. Scope, operation and key are authenticated with every payload: in another row, or in one
with other values, it does not decrypt.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from raincheck.domain.caller import Caller
from raincheck.domain.task import InputRequest, Outcome, Progress, Task, TaskError
from raincheck.encryption.cipher import (
    KEY_RECORDS,
    PLAIN_RECORDS,
    CannotDecrypt,
    PayloadCipher,
    check_keys,
    closed_to_plain,
    keys_in_use,
    place_of,
)
from raincheck.errors import StoreUnusable
from raincheck.ports.records import CLEAR_KINDS, Record, RecordQuery
from raincheck.ports.task_store import (
    Capabilities,
    Inserted,
    Listener,
    PendingLimit,
    TaskQuery,
    TaskStore,
    TaskSummary,
)
from raincheck.stores.shared.delegating import StoreWrapper
from raincheck.stores.shared.payload_codec import (
    decode_caller,
    decode_outcome,
    encode_caller,
    encode_outcome,
    encode_value,
)

logger = logging.getLogger(__name__)

_SEALED = "$sealed"
_MOST_TOLD = 1000

_Value = TypeVar("_Value")


class EncryptedTaskStore(StoreWrapper):
    """Seals what goes in and opens what comes out.

    Args:
        inner: The store that keeps the tasks.
        cipher: The keys.
        accept_plain: Whether payloads that are not sealed are read as they are, as those are that were stored before
            there was a key; not once the store was closed to them (`raincheck.encryption.cipher.close_to_plain`).

    Attributes:
        inner: The store inside.
        cipher: The keys.
    """

    def __init__(self, inner: TaskStore, cipher: PayloadCipher, *, accept_plain: bool = False) -> None:
        super().__init__(inner)
        self.cipher = cipher
        self._accept_plain = accept_plain
        self._passed_over: set[str] = set()

    @property
    def capabilities(self) -> Capabilities:
        """See `TaskStore.capabilities`."""
        return replace(self.inner.capabilities, encrypts=True)

    async def open(self) -> None:
        """See `TaskStore.open`.

        Raises:
            StoreUnusable: Payloads may be sealed with a key that is not among the keys, or are not sealed.
        """
        await self.inner.open()
        try:
            await check_keys(self.inner, self.cipher.ids)
            if self._accept_plain:
                self._accept_plain = not await closed_to_plain(self.inner, self.cipher)
            elif not await keys_in_use(self.inner) and any((await self.inner.count()).values()):
                raise StoreUnusable(
                    "The task store holds tasks from before there was a key: set 'accept_plain = true' in [encryption] "
                    "until they are gone (`raincheck store keys --close`)."
                )
            await self.inner.put_record(Record(kind=KEY_RECORDS, key=self.cipher.ids[0], value=None))
        except BaseException:
            await self.inner.close()
            raise

    async def insert(self, task: Task, *, pending_limit: PendingLimit | None = None) -> Inserted:
        """See `TaskStore.insert`. Fingerprints are stored as digests under the key."""
        marks = self.cipher.marks(task.fingerprint) if task.fingerprint else ("",)
        known = replace(task, fingerprint=marks[0])
        if task.inflight and task.fingerprint:
            known = replace(known, idempotency_key=marks[0])
        stored, created = await self.inner.insert(self._encrypted(known), pending_limit=pending_limit)
        if created:
            return Inserted(known, created=True)
        held = self._decrypted(stored)
        # Under an older key, or from before there was one, the same parameters have another digest.
        same = held.fingerprint in (*marks, task.fingerprint)
        return Inserted(replace(held, fingerprint=task.fingerprint) if same else held, created=False)

    async def get(self, task_ref: str) -> Task | None:
        """See `TaskStore.get`."""
        task = await self.inner.get(task_ref)
        return None if task is None else self._decrypted(task)

    async def replace(
        self,
        task: Task,
        *,
        seen_lease: datetime | None = None,
        lease_seconds: float | None = None,
        records: Sequence[Record] = (),
    ) -> bool:
        """See `TaskStore.replace`."""
        return await self.inner.replace(
            self._encrypted(task),
            seen_lease=seen_lease,
            lease_seconds=lease_seconds,
            records=[self._encrypted_record(each) for each in records],
        )

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """See `TaskStore.claimable`. What cannot be decrypted here is left to a process with its key."""
        return self._those_that_open(await self.inner.claimable(operation_types, limit))

    async def waiting(
        self, operation_types: Collection[str], limit: int, *, after: str = "", leave_out: Collection[str] = ()
    ) -> Sequence[Task]:
        """See `TaskStore.waiting`, and `claimable`."""
        return self._those_that_open(await self.inner.waiting(operation_types, limit, after=after, leave_out=leave_out))

    async def overdue(self, now: datetime, limit: int) -> Sequence[Task]:
        """See `TaskStore.overdue`. What cannot be decrypted here is left to a process with its key."""
        return self._those_that_open(await self.inner.overdue(now, limit))

    async def list(self, query: TaskQuery) -> Sequence[TaskSummary]:
        """See `TaskStore.list`."""
        found = await self.inner.list(query)
        return [replace(each, progress=self._shown_progress(each)) for each in found]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """See `TaskStore.subscribe`."""
        return self.inner.subscribe(
            lambda change: listener(self._decrypted(change) if isinstance(change, Task) else change)
        )

    async def get_record(self, kind: str, key: str) -> Record | None:
        """See `RecordStore.get_record`."""
        record = await self.inner.get_record(kind, key)
        return None if record is None else self._decrypted_record(record)

    async def put_record(self, record: Record) -> bool:
        """See `RecordStore.put_record`."""
        return await self.inner.put_record(self._encrypted_record(record))

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        """See `RecordStore.records`. Which keys are in use is this store's own business, and no record of anybody
        else's.

        What cannot be opened here is passed over.
        """
        if query.kind in (KEY_RECORDS, PLAIN_RECORDS):
            return []
        opened: list[Record] = []
        for record in await self.inner.records(query):
            try:
                opened.append(self._decrypted_record(record))
            except CannotDecrypt as error:
                self._pass_over(f"{record.kind} {record.key}", "a record is passed over: %s", error, {})
        return opened

    # Tasks.

    def _encrypted(self, task: Task) -> Task:
        place = _Place(task)
        url, progress = task.callback_url, task.progress
        return replace(
            task,
            arguments=self._encrypt(task.arguments, place("arguments", task.fingerprint)),
            checkpoint=None if task.checkpoint is None else self._encrypt(task.checkpoint, place("checkpoint")),
            callback_url=None if url is None else self._encrypt_text(url, place("callback_url")),
            caller=self._encrypted_caller(task.called_by, place("caller")),
            progress=progress and replace(progress, message=self._encrypted_message(progress.message, task)),
            inputs=tuple(self._encrypted_input(each, place) for each in task.inputs),
            outcome=None
            if task.outcome is None
            else self._encrypted_outcome(task.outcome, place("outcome", task.status)),
        )

    def _decrypted(self, task: Task) -> Task:
        place = _Place(task)
        url, outcome = task.callback_url, task.outcome
        if task.terminal and outcome is None and not self._accept_plain:
            raise _plain()
        return replace(
            task,
            arguments=self._decrypt(task.arguments, place("arguments", task.fingerprint)),
            checkpoint=None if task.checkpoint is None else self._decrypt(task.checkpoint, place("checkpoint")),
            callback_url=None if url is None else self._decrypt_text(url, place("callback_url")),
            caller=self._decrypted_caller(task, place("caller")),
            progress=self._decrypted_progress(task),
            inputs=tuple(self._decrypted_input(each, place) for each in task.inputs),
            outcome=None if outcome is None else self._decrypted_outcome(outcome, place("outcome", task.status)),
        )

    def _those_that_open(self, tasks: Sequence[Task]) -> list[Task]:
        opened: list[Task] = []
        for task in tasks:
            try:
                opened.append(self._decrypted(task))
            except CannotDecrypt as error:
                self._pass_over(task.task_ref, "a task is passed over: %s", error, {"task_ref": task.task_ref})
        return opened

    def _pass_over(self, what: str, told: str, error: CannotDecrypt, extra: dict[str, str]) -> None:
        # Every scan meets it again.
        if what not in self._passed_over and len(self._passed_over) < _MOST_TOLD:
            self._passed_over.add(what)
            logger.error(told, error.message, extra=extra)

    def _encrypted_input(self, request: InputRequest, place: _Place) -> InputRequest:
        asked, given = place.of_input(request)
        response = None if request.response is None else self._encrypt(request.response, given)
        return replace(request, params=self._encrypt(request.params, asked), response=response)

    def _decrypted_input(self, request: InputRequest, place: _Place) -> InputRequest:
        asked, given = place.of_input(request)
        response = None if request.response is None else self._decrypt(request.response, given)
        return replace(request, params=self._decrypt(request.params, asked), response=response)

    def _encrypted_caller(self, caller: Caller, place: str) -> Caller:
        return Caller(scope=caller.scope, claims={_SEALED: self.cipher.encrypt(encode_caller(caller) or "", place)})

    def _decrypted_caller(self, task: Task, place: str) -> Caller | None:
        # Sealed where nothing is known too: no writer of the store can give a task a caller, or take its caller away.
        sealed = _encrypted_text(task.called_by.claims)
        if sealed is None:
            return self._accepted(task.caller)
        opened = decode_caller(task.scope, self.cipher.decrypt(sealed, place))
        return None if opened == Caller(scope=task.scope) else opened

    def _encrypted_outcome(self, outcome: Outcome, place: str) -> Outcome:
        # The code of an error stays: stores list by it.
        error = outcome.error and TaskError(code=outcome.error.code, message="", retryable=outcome.error.retryable)
        return Outcome(value={_SEALED: self.cipher.encrypt(encode_outcome(outcome) or "", place)}, error=error)

    def _decrypted_outcome(self, outcome: Outcome, place: str) -> Outcome:
        sealed = _encrypted_text(outcome.value)
        if sealed is None:
            return self._accepted(outcome)
        opened = decode_outcome(self.cipher.decrypt(sealed, place))
        assert opened is not None
        return opened

    def _encrypted_message(self, message: str | None, task: Task) -> str | None:
        return None if message is None else self._encrypt_text(message, _place_of_progress(task))

    def _decrypted_progress(self, task: Task | TaskSummary) -> Progress | None:
        progress = task.progress
        if progress is None or progress.message is None:
            return progress
        return replace(progress, message=self._decrypt_text(progress.message, _place_of_progress(task)))

    def _shown_progress(self, task: TaskSummary) -> Progress | None:
        # One message that does not open must not hide the whole listing.
        try:
            return self._decrypted_progress(task)
        except CannotDecrypt as error:
            self._pass_over(task.task_ref, "a progress message is left out: %s", error, {"task_ref": task.task_ref})
            return task.progress and replace(task.progress, message=None)

    # Records.

    def _encrypted_record(self, record: Record) -> Record:
        if record.kind in CLEAR_KINDS:
            return record
        return replace(record, value=self._encrypt(record.value, _place_of_record(record)))

    def _decrypted_record(self, record: Record) -> Record:
        if record.kind in CLEAR_KINDS:
            return record
        return replace(record, value=self._decrypt(record.value, _place_of_record(record)))

    # Values.

    def _encrypt(self, value: Any, place: str) -> dict[str, str]:
        return {_SEALED: self.cipher.encrypt(encode_value(value) or "null", place)}

    def _decrypt(self, value: Any, place: str) -> Any:
        sealed = _encrypted_text(value)
        return self._accepted(value) if sealed is None else json.loads(self.cipher.decrypt(sealed, place))

    def _encrypt_text(self, text: str, place: str) -> str:
        return f"{_SEALED}:{self.cipher.encrypt(text, place)}"

    def _decrypt_text(self, text: str, place: str) -> str:
        sealed = text.removeprefix(f"{_SEALED}:")
        return self._accepted(text) if sealed == text else self.cipher.decrypt(sealed, place)

    def _accepted(self, plain: _Value) -> _Value:
        if not self._accept_plain:
            raise _plain()
        return plain


class _Place:
    """Where the payloads of one task belong: whose it is, of which operation, under which key."""

    __slots__ = ("_task",)

    def __init__(self, task: Task) -> None:
        # The key that equal calls share is taken away from their task at its end; the fingerprint, as good, is bound to
        # the arguments.
        key = "" if task.inflight or task.idempotency_key is None else f"={task.idempotency_key}"
        self._task = (task.task_ref, task.scope, task.operation_type, key)

    def __call__(self, *field: str) -> str:
        return place_of("task", *self._task, *field)

    def of_input(self, request: InputRequest) -> tuple[str, str]:
        """The places of a question and of its answer."""
        return self("question", request.key, request.method), self("answer", request.key, request.method)


def _place_of_progress(task: Task | TaskSummary) -> str:
    return place_of("progress", task.task_ref, task.scope, task.operation_type)


def _place_of_record(record: Record) -> str:
    return place_of("record", record.kind, record.key)


def _plain() -> CannotDecrypt:
    return CannotDecrypt(
        "A payload in the task store is not sealed: it was put there without the key, and is refused "
        "('accept_plain' in [encryption])."
    )


def _encrypted_text(value: Any) -> str | None:
    if isinstance(value, Mapping) and len(value) == 1:  # pyright: ignore[reportUnknownArgumentType]
        sealed: Any = value.get(_SEALED)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return sealed if isinstance(sealed, str) else None
    return None
