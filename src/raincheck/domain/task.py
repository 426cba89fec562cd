"""The task: its record, status, outcome, and id.

Records are frozen; a change is a new record made by `raincheck.domain.transitions`. Times are aware UTC datetimes.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from raincheck.domain.caller import Caller
from raincheck.errors import RaincheckError

PRINCIPAL = "principal:"
"""Begins the scope of a caller who authenticates."""


class TaskStatus(StrEnum):
    """Where a task is in its life (design.md §3)."""

    PENDING = "pending"
    PROCESSING = "processing"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether a task in this status never changes again."""
        return self in TERMINAL


class KeyKind(StrEnum):
    """By whom a task's key was chosen; keys of different kinds are different keys."""

    CALLER = "caller"
    """The caller's own `idempotency_key`: taken for the task's retention."""
    INFLIGHT = "inflight"
    """The fingerprint of equal calls (`dedupe = "inflight"`): taken until the task is terminal."""
    TOOL_USE = "tool_use"
    """A digest of a host's id of one tool use, which may be sent again: taken for the task's retention."""


TERMINAL: frozenset[TaskStatus] = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class Raised(NamedTuple):
    """What an operation's code raised, for the operator: the type of the exception, and the `file:line` of the
    innermost line of the user's own, None where there is none."""

    type: str
    at: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskError:
    """The structured error of a failed task: `{"code", "message", "retryable", "details"}` for the caller, and what was
    `raised` for the operator alone."""

    code: str
    message: str
    retryable: bool = False
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    raised: Raised | None = None

    @classmethod
    def from_exception(cls, error: RaincheckError) -> TaskError:
        """The public form of an error of ours."""
        return cls(code=error.code, message=error.message, retryable=error.retryable, details=error.details)

    def public(self) -> dict[str, Any]:
        """The four members that callers see."""
        return {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "details": dict(self.details),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class LargeResult:
    """What callers are shown in place of a result that is larger than `max_inline_bytes`.

    Attributes:
        task_ref: Whose result it is.
        blob: The key of the blob that holds the whole (`raincheck.ports.blob_store`); None where the outcome holds it.
        form: What the body is: "text", "json", "binary", or "tool_result" (the JSON of a whole MCP tool result).
        shape: What else the MCP tool result needs to be put together again from the body
            (`raincheck.domain.result_body`).
        media_type: Of the body.
        size: Of the body, in bytes.
        sha256: Of the body, in hexadecimal digits.
        preview: A short JSON value that shows what the result looks like.
    """

    task_ref: str
    blob: str | None
    form: str
    shape: str | None
    media_type: str
    size: int
    sha256: str
    preview: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a task ended; all members are JSON values.

    A completed task has a `value`, or the whole `mcp_result` where the operation was an MCP tool. A failed task has an
    `error`; beside it stands `mcp_result` (with `isError: true`) where a tool ran and reported an error, and
    `rpc_error` (`{"code", "message", "data"?}`) where it ended in a JSON-RPC error, since the task surfaces hand back
    exactly what the call would have returned. `secret` names the members of the result that only its caller may see.
    Where there is `large`, callers are shown that in place of `value` and `mcp_result`, which are then mostly None: a
    blob has the whole.
    """

    value: Any = None
    mcp_result: Mapping[str, Any] | None = None
    error: TaskError | None = None
    rpc_error: Mapping[str, Any] | None = None
    secret: tuple[str, ...] = ()
    large: LargeResult | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a task is: `fraction` from 0 to 1, or None where only a `message` is known."""

    fraction: float | None = None
    message: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InputRequest:
    """One question that a task asks its caller.

    Attributes:
        key: Unique within the task, never reused.
        method: The MCP request it stands for: `elicitation/create` or `sampling/createMessage`.
        params: That request's params (for elicitation: `message` and `requestedSchema`).
        response: The answer, None while it is outstanding.
    """

    key: str
    method: str
    params: Mapping[str, Any]
    response: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One run of an operation for one caller.

    Attributes:
        task_ref: Its id, at least 128 random bits; `taskId` on the wire.
        scope: Whose task it is.
        operation_type: Which operation runs.
        arguments: The operation's parameters, validated; a JSON object.
        version: Grows by one with every write (compare-and-set); lease renewals do not count.
        created_at, updated_at: Acceptance, and the last change that a caller can see.
        deadline_at: When it must be settled.
        ttl_seconds: Retention once settled.
        settled_at, expires_at: When it became terminal, and when it may be removed.
        attempt: How many times a worker has started it.
        max_attempts: After that many starts a lost worker ends it, even where it may run again.
        retry_when_lost: Whether it may run again when its worker is lost (`on_worker_lost = "retry"`).
        fence: The fencing number: grows with every claim. A writer with an older one is refused.
        worker_id, lease_until, started_at: Who runs it, until when without renewal, since when; None unless claimed.
        idempotency_key, key_kind: The key that no other task of the scope has, and by whom it was chosen.
        fingerprint: The digest of operation and arguments.
        priority: Pending tasks of a higher one start first; from -100 to 100.
        callback_url: Where the caller has its end reported, None: nowhere.
        own_webhook: Whether its end is reported to the operation's own webhook.
        caller: Who called; None where nothing is known of it but its scope.
        checkpoint: What its operation saved to go on from, a JSON value; None before. A task that has one may be
            taken up by another worker when its own is lost: it goes on and does not start anew.
        awaiting_external: Whether its end was handed over to a holder of its token: its code is not started again.
        progress: The last report, None before the first; of a completed task that made reports a fraction of 1.0.
        inputs: Every question it asked, in order, answered or not.
        outcome: How it ended, None before.
    """

    task_ref: str
    scope: str
    operation_type: str
    arguments: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    deadline_at: datetime
    ttl_seconds: float
    status: TaskStatus = TaskStatus.PENDING
    version: int = 1
    settled_at: datetime | None = None
    expires_at: datetime | None = None
    attempt: int = 0
    max_attempts: int = 3
    retry_when_lost: bool = False
    fence: int = 0
    worker_id: str | None = None
    lease_until: datetime | None = None
    started_at: datetime | None = None
    idempotency_key: str | None = None
    key_kind: KeyKind = KeyKind.CALLER
    fingerprint: str = ""
    priority: int = 0
    callback_url: str | None = None
    own_webhook: bool = False
    caller: Caller | None = None
    checkpoint: Any = None
    awaiting_external: bool = False
    progress: Progress | None = None
    inputs: tuple[InputRequest, ...] = ()
    outcome: Outcome | None = None

    @property
    def called_by(self) -> Caller:
        """Who called, as far as is known."""
        return self.caller or Caller(scope=self.scope)

    @property
    def terminal(self) -> bool:
        """Whether it never changes again."""
        return self.status in TERMINAL

    @property
    def due_at(self) -> datetime | None:
        """When the sweeper must look at it: its deadline, or before that the end of its lease; None once terminal."""
        if self.terminal:
            return None
        return self.deadline_at if self.lease_until is None else min(self.deadline_at, self.lease_until)

    @property
    def error_code(self) -> str | None:
        """The code of the error with which it ended."""
        return self.outcome.error.code if self.outcome is not None and self.outcome.error is not None else None

    @property
    def inflight(self) -> bool:
        """Whether it has a key that it keeps only until it is terminal."""
        return self.key_kind is KeyKind.INFLIGHT and self.idempotency_key is not None

    @property
    def resumable(self) -> bool:
        """Whether another worker goes on with it, and does not start it anew."""
        return self.checkpoint is not None or self.awaiting_external

    @property
    def callers_key(self) -> str | None:
        """The idempotency key that the caller itself passed."""
        return self.idempotency_key if self.key_kind is KeyKind.CALLER else None

    @property
    def handed_on_key(self) -> str:
        """The idempotency key for what the operation calls: a digest of the scope and the caller's key, or the
        `task_ref` where the caller passed none.

        The same for every attempt and every retry; never the caller's own text, by which one scope could take another's
        place at an upstream that knows them all as one user.
        """
        if self.callers_key is None:
            return self.task_ref
        return hashlib.sha256(json.dumps([self.scope, self.callers_key]).encode()).hexdigest()

    @property
    def outstanding(self) -> tuple[InputRequest, ...]:
        """The questions not yet answered."""
        return tuple(request for request in self.inputs if request.response is None)


def new_task_ref() -> str:
    """A fresh id with 159 random bits at least, safe in URLs, in headers, and as an argument of a command."""
    while (ref := secrets.token_urlsafe(20)).startswith("-"):
        pass
    return ref


def scope_key(scope: str) -> str:
    """A scope as it stands within a record: a short digest, which does not tell its name."""
    return hashlib.blake2b(scope.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
