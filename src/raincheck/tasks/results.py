"""Large results: offloaded before their task is settled, and read again, whole or in pages."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from raincheck.domain.redaction import redact_outcome
from raincheck.domain.result_body import ResultBody, body_of, to_text
from raincheck.domain.task import LargeResult, Outcome, Task, TaskError
from raincheck.domain.unicode_text import well_formed, well_formed_json
from raincheck.errors import CallError, OperationFailed, ResultTooLarge, StoreError, TaskFailure, TaskNotFound
from raincheck.operations.operation import Policy
from raincheck.ports.blob_store import BlobStore, blob_key
from raincheck.ports.records import Record, RecordStore

logger = logging.getLogger(__name__)

MARGIN = timedelta(hours=1)
"""How much longer than its task a blob stays, at least."""

_LONGEST_MARGIN = timedelta(days=1)
_PAUSES = (0.05, 0.1, 0.2, 0.5)
_LONGEST_MESSAGE = 2000
_OF_REQUESTS = "request-result"
_REF = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredResult:
    """A result that can be read.

    Attributes:
        task_ref: Whose it is.
        form, shape, media_type, size, sha256: See `LargeResult`.
    """

    task_ref: str
    form: str
    shape: str | None
    media_type: str
    size: int
    sha256: str
    _blobs: BlobStore | None
    _blob: str | None
    _data: bytes

    async def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes of the body from `offset` on, by default all.

        Raises:
            TaskNotFound: The blob has expired.
            StoreError: It cannot be read.
        """
        wanted = self.size - offset if length is None else min(length, self.size - offset)
        if wanted <= 0:
            return b""
        if self._blob is None:
            return self._data[offset : offset + wanted]
        if self._blobs is None:
            raise StoreError("This process does not know where large results are kept ([results]).")
        found = await self._blobs.get(self._blob, offset, wanted)
        if found is None:
            raise TaskNotFound("The result is not kept any more.")
        whole = offset == 0 and wanted == self.size
        if len(found) != wanted or (whole and hashlib.sha256(found).hexdigest() != self.sha256):
            logger.error("the blob of a result is damaged", extra={"task_ref": self.task_ref})
            raise StoreError("The result is damaged where it is kept.")
        return found


class Results:
    """Where results are that are too large for their tasks.

    Args:
        store: The open task store: its records tell of large results of calls that were no tasks.
        blobs: Where the bodies are; None: in the tasks themselves.
        clock: The wall clock.
    """

    def __init__(self, store: RecordStore, blobs: BlobStore | None, *, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock

    async def open(self) -> None:
        """Get ready. See `BlobStore.open`."""
        if self._blobs is not None:
            await self._blobs.open()

    async def close(self) -> None:
        """Let go of everything. Idempotent."""
        if self._blobs is not None:
            await self._blobs.close()

    async def purge(self, limit: int) -> int:
        """Remove up to `limit` blobs whose time has come; how many."""
        return 0 if self._blobs is None else await self._blobs.purge(self._clock(), limit)

    async def offload(
        self, outcome: Outcome, task: Task, policy: Policy, *, give_up: Callable[[], bool] = lambda: False
    ) -> Outcome:
        """The outcome as it is to be stored: what is larger than `max_inline_bytes` is a durable blob by then.

        A result that cannot be put away stays whole in the outcome, callers are shown the preview all the same.

        Args:
            outcome: Within `max_result_bytes` (`outcome_of`).
            task: Whose it is.
            policy: Says from which size on.
            give_up: Whether there is no use in trying again.
        """
        body = _large_body(outcome, policy)
        if body is None:
            return outcome
        if outcome.secret and (shown := body_of(redact_outcome(outcome))) is not None:
            # A preview goes into logs, webhooks and lists.
            body = replace(body, preview=shown.preview)
        # Settled it is by its deadline at the latest, and its retention begins then.
        now = self._clock()
        margin = min(max(MARGIN, task.deadline_at - now), _LONGEST_MARGIN)
        key = blob_key(now + timedelta(seconds=task.ttl_seconds) + margin)
        return await self._put(outcome, body, task.task_ref, key, give_up)

    async def drop(self, outcome: Outcome | None, *, stored: Outcome | None = None) -> None:
        """The result is of no use: remove its blob now, unless it is that of the `stored` outcome. What fails
        here expires later."""
        key = _blob_of(outcome)
        if key is None or self._blobs is None or key == _blob_of(stored):
            return
        try:
            await self._blobs.remove(key)
        except StoreError as error:
            logger.info("a blob stays until it expires: %s", error.message)

    async def offload_of_request(self, outcome: Outcome, task_ref: str, scope: str, policy: Policy) -> Outcome:
        """As `offload`, for a call that was answered without a task; its result is found by a ref of its own.

        Raises:
            StoreError: Nothing may point to it; the caller gets the whole result instead.
        """
        body = _large_body(outcome, policy)
        if body is None or self._blobs is None:
            return outcome
        expires_at = self._clock() + timedelta(seconds=policy.ttl_seconds)
        large = body.large(task_ref, blob_key(expires_at + MARGIN))
        assert large.blob is not None
        await self._blobs.put(large.blob, body.data)
        value = {"scope": scope, "large": _plain(large)}
        await self._store.put_record(Record(kind=_OF_REQUESTS, key=task_ref, value=value, expires_at=expires_at))
        return _shown(outcome, large, keep=False)

    async def of_request(self, task_ref: str, scope: str | None) -> StoredResult:
        """The large result of a call that was no task; with None as the scope whosever it is.

        Raises:
            TaskNotFound: There is none of that scope.
        """
        known = _REF.fullmatch(task_ref) is not None
        record = await self._store.get_record(_OF_REQUESTS, task_ref) if known else None
        expired = record is not None and record.expires_at is not None and record.expires_at <= self._clock()
        if record is None or expired or scope not in (None, record.value["scope"]):
            raise TaskNotFound("There is no such result: the task_ref is wrong, it has expired, or it is not yours.")
        return self._stored(LargeResult(**record.value["large"]), b"")

    def of(self, task: Task) -> StoredResult:
        """The result of a task.

        Raises:
            CallError: It has none (yet).
        """
        outcome = task.outcome
        if not task.terminal or outcome is None:
            raise CallError(f"Task {task.task_ref} has no result yet: it is {task.status}.")
        if outcome.large is not None and outcome.large.blob is not None:
            return self._stored(outcome.large, b"")
        body = None if task.status == "cancelled" else body_of(outcome)
        if body is None:
            raise CallError(f"Task {task.task_ref} has no result: it is {task.status}.")
        large = outcome.large or replace(body, preview=lambda: None).large(task.task_ref, None)
        return self._stored(large, body.data)

    def _stored(self, large: LargeResult, data: bytes) -> StoredResult:
        return StoredResult(
            task_ref=large.task_ref,
            form=large.form,
            shape=large.shape,
            media_type=large.media_type,
            size=large.size,
            sha256=large.sha256,
            _blobs=self._blobs,
            _blob=large.blob,
            _data=data,
        )

    async def _put(
        self, outcome: Outcome, body: ResultBody, task_ref: str, key: str, give_up: Callable[[], bool]
    ) -> Outcome:
        if self._blobs is None:
            return _shown(outcome, body.large(task_ref, None), keep=True)
        for pause in (*_PAUSES, None):
            try:
                await self._blobs.put(key, body.data)
            except StoreError as error:
                if pause is None or give_up():
                    told = "a large result stays in its task, it cannot be put away: %s"
                    logger.warning(told, error.message, extra={"task_ref": task_ref})
                    return _shown(outcome, body.large(task_ref, None), keep=True)
                await asyncio.sleep(pause)
            else:
                break
        return _shown(outcome, body.large(task_ref, key), keep=False)


def _blob_of(outcome: Outcome | None) -> str | None:
    return None if outcome is None or outcome.large is None else outcome.large.blob


def outcome_of(value: Any, limit: int) -> Outcome:
    """What an operation returned as the outcome of its attempt: a failure where it is no JSON, or larger than `limit`
    bytes of it. An `Outcome` stays as it is within the limit.

    Raises:
        TypeError, ValueError: An `Outcome` holds what is no JSON.
    """
    if not isinstance(value, Outcome):
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            return _failure(OperationFailed(f"The operation returned something that JSON cannot hold: {error}"))
        return Outcome(value=_well_formed(value, text)) if _fits(text, limit) else _too_large(limit)
    held = {"value": value.value, "mcp_result": value.mcp_result, "rpc_error": value.rpc_error}
    texts = {name: to_text(each) for name, each in held.items() if each is not None}
    if not all(_fits(text, limit) for text in texts.values()):
        return _too_large(limit)
    return replace(value, **{name: _well_formed(held[name], text) for name, text in texts.items()})


def _well_formed(value: Any, text: str) -> Any:
    """The value whose JSON is that text, looked through there: a large one has a million places."""
    return value if well_formed(text) is text else well_formed_json(value)


def _fits(text: str, limit: int) -> bool:
    if len(text) > limit:
        return False
    return len(text) * 4 <= limit or len(well_formed(text).encode()) <= limit


def _too_large(limit: int) -> Outcome:
    message = f"The result is larger than {limit} bytes (max_result_bytes)."
    return _failure(ResultTooLarge(message, details={"max_result_bytes": limit}))


def _failure(error: TaskFailure) -> Outcome:
    return Outcome(error=TaskError.from_exception(error))


def _large_body(outcome: Outcome, policy: Policy) -> ResultBody | None:
    # Most results are small, which their lists of blocks tell at a glance only where they are texts.
    if outcome.large is not None or (outcome.value is None and outcome.mcp_result is None):
        return None
    body = body_of(outcome)
    return None if body is None or len(body.data) <= policy.max_inline_bytes else body


def _shown(outcome: Outcome, large: LargeResult, *, keep: bool) -> Outcome:
    error = outcome.error
    if error is not None and len(error.message) > _LONGEST_MESSAGE:
        # A tool's error text, which the result holds whole.
        error = replace(error, message=f"{error.message[:_LONGEST_MESSAGE]}…")
    if keep:
        return replace(outcome, error=error, large=large)
    return replace(outcome, value=None, mcp_result=None, error=error, large=large)


def _plain(large: LargeResult) -> dict[str, Any]:
    return {name: getattr(large, name) for name in LargeResult.__dataclass_fields__}
