"""Every error that raincheck raises or stores, and the code each one carries.

The tree::

    RaincheckError
    ├── ConfigurationError        a setting, a flag or a declaration is wrong; the start stops
    ├── MissingDependency         an extra is not installed
    ├── StoreError                the task store
    │   ├── StoreUnavailable      it does not answer, is full or read-only now; trying again may help
    │   └── StoreUnusable         corrupt, or written by a newer raincheck; trying again will not help
    ├── CallError                 the call was wrong: no task was made or changed
    │   ├── InvalidParameters     invalid_parameters
    │   ├── UnknownOperation      unknown_operation
    │   ├── TaskNotFound          task_not_found
    │   ├── IdempotencyConflict   idempotency_conflict
    │   ├── PayloadTooLarge       payload_too_large
    │   ├── QueueFull             queue_full
    │   ├── RateLimited           rate_limited
    │   └── CircuitOpen           circuit_open
    └── TaskFailure               why a task ended as `failed`
        ├── OperationFailed       operation_failed
        ├── TaskTimeout           timeout
        ├── WorkerLost            worker_lost
        ├── UpstreamError         upstream_error
        ├── ResultTooLarge        result_too_large
        ├── InternalError         internal
        └── ResourcesExhausted    internal

Messages are for the caller: they say what, where and what is allowed, and hold no secret, no payload and no traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "ERROR_CODES",
    "CallError",
    "CircuitOpen",
    "ConfigurationError",
    "IdempotencyConflict",
    "InternalError",
    "InvalidParameters",
    "MissingDependency",
    "OperationFailed",
    "PayloadTooLarge",
    "QueueFull",
    "RaincheckError",
    "RateLimited",
    "ResourcesExhausted",
    "ResultTooLarge",
    "StoreError",
    "StoreUnavailable",
    "StoreUnusable",
    "TaskFailure",
    "TaskNotFound",
    "TaskTimeout",
    "UnknownOperation",
    "UpstreamError",
    "WorkerLost",
]


class RaincheckError(Exception):
    """Base of every error of raincheck.

    Attributes:
        code: The stable code that callers see (docs/handle-tools.md lists them).
        message: One line for the caller.
        retryable: Whether the same call may succeed later, unchanged.
        details: Structured facts about this occurrence, JSON-serialisable.
    """

    code: ClassVar[str] = "internal"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, retryable: bool | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = self.default_retryable if retryable is None else retryable
        self.details: dict[str, Any] = dict(details or {})


class ConfigurationError(RaincheckError):
    """A setting, flag or declaration is wrong. The message names file, table, key and the allowed values."""


class MissingDependency(RaincheckError):
    """An optional dependency is not installed. The message names the command that installs it."""


class StoreError(RaincheckError):
    """The task store could not do what was asked. Nothing was written, unless it says `maybe_done`.

    Attributes:
        maybe_done: The store may have done it all the same, or may still do it: its answer was lost.
    """

    maybe_done = False


class StoreUnavailable(StoreError):
    """The store does not answer, is full, locked or read-only at the moment."""

    default_retryable = True

    def __init__(
        self,
        message: str,
        *,
        retryable: bool | None = None,
        details: Mapping[str, Any] | None = None,
        maybe_done: bool = False,
    ) -> None:
        super().__init__(message, retryable=retryable, details=details)
        self.maybe_done = maybe_done


class StoreUnusable(StoreError):
    """The store is corrupt, foreign, or was written by a newer raincheck."""


class CallError(RaincheckError):
    """The call itself was wrong or refused: no task was made or changed."""


class InvalidParameters(CallError):
    """Parameters do not fit the operation's schema, or an argument of the call is out of bounds."""

    code = "invalid_parameters"


class UnknownOperation(CallError):
    """There is no operation of that `operation_type`."""

    code = "unknown_operation"


class TaskNotFound(CallError):
    """No such task for this caller: unknown, expired, or of another scope (the same answer for all three)."""

    code = "task_not_found"


class IdempotencyConflict(CallError):
    """The `idempotency_key` was used before in this scope with another operation or other parameters."""

    code = "idempotency_conflict"


class PayloadTooLarge(CallError):
    """The parameters are larger than `max_parameters_bytes`."""

    code = "payload_too_large"


class QueueFull(CallError):
    """Too many tasks are pending. `details` holds `limit` ("in_all" | "of_scope")."""

    code = "queue_full"
    default_retryable = True


class RateLimited(CallError):
    """The caller calls too often. `details` holds `retry_after_seconds`."""

    code = "rate_limited"
    default_retryable = True


class CircuitOpen(CallError):
    """The operation failed too often lately. `details` holds `retry_after_seconds`."""

    code = "circuit_open"
    default_retryable = True


class TaskFailure(RaincheckError):
    """Why a task ended as `failed`. Operations may raise a subclass to choose what the caller is told."""


class OperationFailed(TaskFailure):
    """The operation ran and reported an error of its own."""

    code = "operation_failed"


class TaskTimeout(TaskFailure):
    """A time limit passed. `details`: `limit` ("timeout" | "deadline"), `phase` ("pending" | "processing" |
    "input_required") and `seconds`. Retryable where nothing had begun, or running twice is declared harmless."""

    code = "timeout"


class WorkerLost(TaskFailure):
    """The worker that ran the task died or lost its lease, and the operation may not run again by itself. Retryable
    where running twice is declared harmless (`on_worker_lost = "retry"`)."""

    code = "worker_lost"


class UpstreamError(TaskFailure):
    """A server that the operation called answered with an error or not at all. `details` may hold `status`."""

    code = "upstream_error"


class ResultTooLarge(TaskFailure):
    """The result is larger than `max_result_bytes`."""

    code = "result_too_large"


class InternalError(TaskFailure):
    """A bug. The caller gets a correlation id in `details`, the log the rest."""

    code = "internal"


class ResourcesExhausted(TaskFailure):
    """The machine had no descriptors, memory, threads or space left to start the operation: nothing of it ran, and it
    may be tried again."""

    code = "internal"


def _codes(cls: type[RaincheckError]) -> set[str]:
    return {cls.code}.union(*(_codes(sub) for sub in cls.__subclasses__()))


ERROR_CODES: tuple[str, ...] = tuple(sorted(_codes(RaincheckError)))
"""Every code that may stand in a public `error.code`."""
