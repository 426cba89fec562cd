"""One attempt of an operation: the boundary between its code and ours, for tasks, inline calls and adopted tools alike.

Whatever the operation's code does becomes an outcome, and neither the outcome's error nor the log says what is secret.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from raincheck.errors import InternalError, OperationFailed, RaincheckError, TaskFailure, TaskTimeout
from raincheck.local_paths import without_folders
from raincheck.operations.callers import check_fresh
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Operation
from raincheck.results import outcome_of
from raincheck.secrecy import marked, opened, outcome_scrubbed, texts_of, withheld, withholding, without
from raincheck.task import Outcome, Task, TaskError, TaskStatus

__all__ = ["failure", "guarded", "log_deadline", "timed_out", "worth_retrying"]

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
    told_to_stop: Callable[[], bool],
) -> Outcome:
    """Run one attempt; whatever the operation's code does becomes an outcome, without its secrets.

    Args:
        operation: What is run.
        arguments: As they are stored, secret ones in their envelopes (`raincheck.secrecy.wrapped`).
        context: What the operation knows and says.
        first: What comes before the operation's own code, within its guard.
        told_to_stop: Whether a cancellation is an order from outside; else the operation cancelled itself.

    Raises:
        CancelledError: It was told to stop, and has.
    """
    secret = texts_of(arguments) | context.caller.secret_texts
    with withholding(secret):
        outcome = await _ran(operation, arguments, context, first, told_to_stop)
    if (error := outcome.error) is not None:
        if secret:
            outcome = outcome_scrubbed(outcome, secret)
        if outcome.mcp_result is None:
            message = without(error.message, secret)[:_LONGEST_MESSAGE]
            told = replace(outcome.error or error, message=without_folders(message, opened(arguments)))
            outcome = replace(outcome, error=told)
    return marked(outcome, operation.secret_results) if operation.secret_results else outcome


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


def worth_retrying(outcome: Outcome | None) -> bool:
    """Whether another attempt may succeed."""
    error: TaskError | None = outcome.error if outcome else None
    if error is None:
        return False
    return error.retryable or error.code == OperationFailed.code


async def _ran(
    operation: Operation,
    arguments: Mapping[str, Any],
    context: TaskContext,
    first: Callable[[], Awaitable[None]],
    told_to_stop: Callable[[], bool],
) -> Outcome:
    extra = {"task_ref": context.task_ref, "operation": operation.operation_type}
    try:
        await first()
        check_fresh(context.caller)
        value = await operation.executor.run(opened(arguments), context)
        return outcome_of(value, operation.policy.max_result_bytes)
    except asyncio.CancelledError:
        if not told_to_stop():
            # The operation cancelled itself (a library's stray cancel scope): an error like any other.
            return failure(OperationFailed("The operation was cancelled from within."))
        raise
    except InternalError as error:
        correlation = secrets.token_hex(8)
        logger.error("internal error %s", correlation, exc_info=True, extra=extra)
        return failure(InternalError(error.message, details={"correlation_id": correlation}))
    except RaincheckError as error:
        return failure(error if isinstance(error, TaskFailure) else _foreign(error))
    except Exception as error:  # whatever an operation raises is its own error, and the caller's answer
        logger.info("operation failed: %s", type(error).__name__, exc_info=True, extra=extra)
        return failure(_foreign(error))
    except BaseException as error:  # noqa: BLE001  sys.exit in an operation must not end the server
        logger.warning("an operation raised %s", type(error).__name__, extra=extra)
        return failure(OperationFailed(f"The operation tried to end the process ({type(error).__name__})."))


def _foreign(error: BaseException) -> OperationFailed:
    try:
        text = str(error).strip()
    except Exception:  # noqa: BLE001  the operation's own code, and its error has to be told all the same
        text = ""
    text = text or type(error).__name__
    return OperationFailed(without(text, withheld())[:_LONGEST_MESSAGE], details={"type": type(error).__name__})
