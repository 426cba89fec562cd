"""Completion tokens: one-time tokens that settle a task from outside.

A token is 256 random bits; the store holds its hash. It settles one task, once; a wrong one gets
no information. It outlives the worker that made it: the record of its hash is all that a later call needs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import secrets
from typing import Final, Literal

from raincheck.domain.redaction import mark_secret_members
from raincheck.domain.task import Outcome, Progress, Task
from raincheck.domain.transitions import CompleteExternally, Refused, ReportProgress
from raincheck.errors import ResultTooLarge
from raincheck.operations.catalog import OperationCatalog
from raincheck.operations.context import CallbackAddress
from raincheck.operations.operation import Policy
from raincheck.ports.records import Record
from raincheck.ports.task_store import TaskStore
from raincheck.tasks.results import Results
from raincheck.tasks.writer import TaskWriter

logger = logging.getLogger(__name__)

CALLBACK_PATH: Final = "/callbacks/"
"""Where the token stands behind in a callback's address."""

CallbackEnd = Literal["accepted", "settled", "unknown"]
"""What became of a call: it was accepted; its task was settled already; there is no such token."""

_KIND: Final = "callback"
_BYTES = 32
_LONGEST_TOKEN = 128


class CompletionTokens:
    """Makes tokens, and takes the calls that come with them.

    Args:
        store: The open store.
        operations: The operations of this process.
        results: Puts large results away.
        writer: Writes the ends and the progress that the calls bring.
        public_url: Where this server is reached from outside; None: tokens have no address.
        secret: Makes a task's token the same after a lost worker; None: a new one each time, the earlier stay good.
    """

    def __init__(
        self,
        store: TaskStore,
        operations: OperationCatalog,
        results: Results,
        writer: TaskWriter,
        *,
        public_url: str | None,
        secret: str | None,
    ) -> None:
        self._store = store
        self._operations = operations
        self._results = results
        self._writer = writer
        self._base = None if public_url is None else public_url.rstrip("/") + CALLBACK_PATH
        self._secret = None if secret is None else secret.encode()

    async def address(self, task: Task) -> CallbackAddress:
        """A token for that task; durable when this returns."""
        token = secrets.token_urlsafe(_BYTES) if self._secret is None else _derived(self._secret, task.task_ref)
        value = {"task_ref": task.task_ref}
        # Where there is one already, it is this task's: the token that a secret makes is the same each time.
        await self._store.put_record(Record(kind=_KIND, key=_hash(token), value=value, expires_at=task.deadline_at))
        return CallbackAddress(token, None if self._base is None else self._base + token)

    async def look_up(self, token: str) -> CallbackEnd:
        """What would become of a call with that token now."""
        task = await self._task(token)
        if task is None:
            return await self._missing(token)
        return "settled" if task.terminal else "accepted"

    async def settle(self, token: str, outcome: Outcome) -> CallbackEnd:
        """End the token's task so.

        Raises:
            ResultTooLarge: The value is larger than its operation allows; nothing was changed.
            StoreError: Nothing was changed.
        """
        kept: Outcome | None = None
        while (task := await self._task(token)) is not None and not task.terminal:
            self._check_size(task, outcome)
            if kept is None:
                operation = self._operations.get(task.operation_type)
                told = outcome if operation is None else mark_secret_members(outcome, operation.secret_results)
                kept = await self._results.offload(told, task, Policy() if operation is None else operation.policy)
            if await self._writer.write(task, CompleteExternally(outcome=kept)) is not None:
                logger.info("settled by a callback", extra=_extra(task))
                return "accepted"
        await self._results.drop(kept)
        return await self._missing(token) if task is None else "settled"

    async def report(self, token: str, progress: Progress) -> CallbackEnd:
        """Say how far the token's task is; the token stays good. A task that no worker has at the moment forgets it.

        Raises:
            StoreError: Nothing was changed.
        """
        while (task := await self._task(token)) is not None:
            if task.terminal:
                return "settled"
            try:
                if await self._writer.write(task, ReportProgress(fence=task.fence, progress=progress)) is not None:
                    return "accepted"
            except Refused:
                return "accepted"
        return await self._missing(token)

    async def _task(self, token: str) -> Task | None:
        if not 0 < len(token) <= _LONGEST_TOKEN:
            return None
        record = await self._store.get_record(_KIND, _hash(token))
        return None if record is None else await self._store.get(record.value["task_ref"])

    async def _missing(self, token: str) -> CallbackEnd:
        # The task may be gone (its retention is over) and its token not yet.
        known = 0 < len(token) <= _LONGEST_TOKEN and await self._store.get_record(_KIND, _hash(token)) is not None
        return "settled" if known else "unknown"

    def _check_size(self, task: Task, outcome: Outcome) -> None:
        operation = self._operations.get(task.operation_type)
        if operation is None or outcome.value is None:
            return
        limit = operation.policy.max_result_bytes
        size = len(json.dumps(outcome.value, ensure_ascii=False, separators=(",", ":")).encode())
        if size > limit:
            raise ResultTooLarge(f"the result is larger than {limit} bytes (max_result_bytes)")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _derived(secret: bytes, task_ref: str) -> str:
    digest = hmac.digest(secret, b"raincheck callback token\0" + task_ref.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _extra(task: Task) -> dict[str, str]:
    return {"task_ref": task.task_ref, "operation": task.operation_type}
