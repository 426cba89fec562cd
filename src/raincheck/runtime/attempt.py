"""One attempt of an operation: the boundary between its code and ours, for tasks, inline calls and adopted tools alike.

Whatever the operation's code does becomes an outcome, and neither the outcome's error nor the log says what is secret.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from raincheck.domain.local_paths import without_folders
from raincheck.domain.redaction import (
    REDACTED,
    mark_secret_members,
    redact,
    redact_texts,
    redacted_texts,
    redacting,
    texts_of,
    unwrap_secrets,
    without,
)
from raincheck.domain.task import Outcome, Task, TaskError, TaskStatus
from raincheck.domain.traces import alone, by_us_alone, raised_by, text_of
from raincheck.errors import InternalError, OperationFailed, RaincheckError, TaskFailure, TaskTimeout
from raincheck.operations.callers import check_fresh, too_late
from raincheck.operations.context import TaskContext
from raincheck.operations.error_details import plain_details, plain_text
from raincheck.operations.exits import by_signal, stopped, watched_exits
from raincheck.operations.operation import FailedAs, Operation, Policy
from raincheck.tasks.results import outcome_of

logger = logging.getLogger(__name__)

_LONGEST_MESSAGE = 2000


async def _nothing() -> None:
    return


async def guarded(
    operation: Operation,
    arguments: Mapping[str, Any],
    context: TaskContext,
    *,
    first: Callable[[], Awaitable[None]] = _nothing,
    stop_requested: Callable[[], bool],
) -> Outcome:
    """Run one attempt; whatever the operation's code does becomes an outcome, without its secrets.

    Args:
        operation: What is run.
        arguments: As they are stored, secret ones in their envelopes (`raincheck.domain.redaction.wrap_secrets`).
        context: What the operation knows and says.
        first: What comes before the operation's own code, within its guard.
        stop_requested: Whether a cancellation is an order from outside; else the operation cancelled itself.

    Raises:
        CancelledError: It was told to stop, and has.
    """
    secret = texts_of(arguments) | context.caller.secret_texts
    with redacting(secret):
        outcome = await _ran(operation, arguments, context, first, stop_requested)
        if outcome.error is not None:
            outcome = _told(outcome, outcome.error, arguments, secret, operation.policy)
    return mark_secret_members(outcome, operation.secret_results) if operation.secret_results else outcome


def failure(error: RaincheckError) -> Outcome:
    """The outcome of an attempt that ended in that error."""
    return Outcome(error=TaskError.from_exception(error))


def timed_out(operation: Operation, task_ref: str) -> TaskTimeout:
    """The error of an attempt that ran into its timeout; the log says what to raise."""
    seconds = operation.policy.attempt_seconds
    logger.warning(
        "operation %r was stopped after %g s; where it needs longer, raise its timeout_seconds",
        operation.operation_type,
        seconds,
        extra={"task_ref": task_ref, "operation": operation.operation_type},
    )
    return TaskTimeout(
        f"The operation ran longer than {seconds:g} s (timeout).",
        retryable=operation.repeatable,
        details={"limit": "timeout", "phase": "processing", "seconds": seconds},
    )


def log_deadline(task: Task) -> None:
    """Log that a task ends by its deadline, and what to raise."""
    logger.warning(
        "the deadline of a task of operation %r passed while it was %s: give it more time (default_max_wait_seconds of "
        "the operation, max_wait_seconds of the call)%s",
        task.operation_type,
        task.status,
        ", or more of them a place (max_concurrency of [execution])" if task.status is TaskStatus.PENDING else "",
        extra={"task_ref": task.task_ref, "operation": task.operation_type},
    )


def worth_retrying(outcome: Outcome | None, context: TaskContext) -> bool:
    """Whether another attempt may succeed."""
    error: TaskError | None = outcome.error if outcome else None
    if error is None or too_late(context.caller, checkpoint=context.checkpoint):
        return False
    return error.retryable or error.code == OperationFailed.code


async def _ran(
    operation: Operation,
    arguments: Mapping[str, Any],
    context: TaskContext,
    first: Callable[[], Awaitable[None]],
    stop_requested: Callable[[], bool],
) -> Outcome:
    outcome: Outcome | None = None
    error: BaseException | None = None
    with watched_exits() as exits:
        try:
            await first()
            check_fresh(context.caller, checkpoint=context.checkpoint)
            value = await operation.executor.run(unwrap_secrets(arguments), context)
            outcome = outcome_of(value, operation.policy.max_result_bytes)
        except GeneratorExit:
            raise
        except BaseException as raised:  # noqa: BLE001  whatever an operation raises is its own error
            error = raised
    try:
        # What a task or a callback of it raised to end the process has cancelled it, too.
        error = exits.error or error
        if error is not None:
            if by_signal(error):
                raise error
            if isinstance(alone(error), asyncio.CancelledError) and stop_requested():
                raise alone(error)
            outcome = _failed(error, operation.policy.max_result_bytes)
        assert outcome is not None
        return outcome if outcome.error is None else _logged(outcome, outcome.error, error, operation, context)
    finally:
        # Its traceback holds this frame, and with it whatever the operation's code held.
        error = None


def _failed(error: BaseException, max_result_bytes: int) -> Outcome:
    """What an attempt that raised this ended in."""
    match alone(error):
        case FailedAs(outcome=outcome):
            return outcome_of(outcome, max_result_bytes)
        case asyncio.CancelledError():
            # The operation cancelled itself (a library's stray cancel scope): an error like any other.
            return failure(OperationFailed("The operation was cancelled from within."))
        case InternalError() as internal:
            return failure(InternalError(internal.message, details={"correlation_id": secrets.token_hex(8)}))
        case TaskFailure() as told:
            return failure(told)
        case Exception() as raised:
            return failure(_foreign(raised))
        case raised:
            # sys.exit in an operation must not end the server.
            return failure(stopped(raised))


def _foreign(error: Exception) -> OperationFailed:
    text = redact(text_of(error))[:_LONGEST_MESSAGE]
    return OperationFailed(text, details={"type": type(error).__name__})


def _logged(
    outcome: Outcome, error: TaskError, cause: BaseException | None, operation: Operation, context: TaskContext
) -> Outcome:
    """The outcome with what was raised, which the log is told with its traceback, where that has anybody's code."""
    extra = {"task_ref": context.task_ref, "operation": operation.operation_type, "code": error.code}
    if cause is None:
        logger.error("operation failed: %s", error.message, extra=extra)
        return outcome
    if isinstance(alone(cause), FailedAs):
        cause = alone(cause).__cause__ or cause
    raised = raised_by(cause)
    what = " at ".join(filter(None, raised))
    if error.code == InternalError.code and (correlation := error.details.get("correlation_id")):
        logger.error("internal error %s: %s", correlation, what, exc_info=cause, extra=extra)
    elif isinstance(alone(cause), TaskFailure) and by_us_alone(cause):
        logger.error("operation failed: %s: %s", what, _in_the_log(error), extra=extra)
    else:
        logger.error("operation failed: %s", what, exc_info=cause, extra=extra)
    return replace(outcome, error=replace(error, raised=raised))


def _in_the_log(error: TaskError) -> str:
    """What raincheck's own error says; where something is secret no text, as in a traceback."""
    if not redacted_texts():
        return error.message
    facts = [f"{name} {error.details[name]}" for name in ("exit_code", "signal", "status") if name in error.details]
    return ", ".join(facts) or REDACTED


def _told(
    outcome: Outcome, error: TaskError, arguments: Mapping[str, Any], secret: Collection[str], policy: Policy
) -> Outcome:
    """The failed outcome as it is kept: without secrets and folders, JSON values within bounds."""
    details = plain_details(error.details, policy.max_inline_bytes)
    error = replace(error, message=plain_text(error.message), retryable=bool(error.retryable), details=details)
    outcome = replace(outcome, error=error)
    if secret:
        outcome = redact_texts(outcome, secret)
        error = outcome.error or error
    if outcome.mcp_result is None:
        message = without(error.message, secret)[:_LONGEST_MESSAGE]
        error = replace(error, message=without_folders(message, unwrap_secrets(arguments)))
    return replace(outcome, error=error)
