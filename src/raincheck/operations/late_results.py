"""Late results of threads that were asked to stop: dropped, with a log line of their size.

A thread cannot be killed. What a synchronous function has done by then, it has done.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pydantic_core

from raincheck.operations.context import TaskCancelled, TaskContext
from raincheck.operations.lease import current_lease

logger = logging.getLogger(__name__)

_TASK: ContextVar[TaskContext | None] = ContextVar("raincheck_task", default=None)


def thrown_away(context: TaskContext, value: Any, error: BaseException | None) -> None:
    """Log what came too late; called in the thread that it came from."""
    if isinstance(error, asyncio.CancelledError | TaskCancelled):
        return
    extra = {"task_ref": context.task_ref, "operation": context.operation_type}
    if error is not None:
        told = "operation %r raised %s after it was told to stop: that is told to nobody"
        logger.warning(told, context.operation_type, type(error).__name__, extra=extra)
        return
    told = "operation %r returned after it was told to stop: its result is thrown away (%s)"
    logger.warning(told, context.operation_type, _size(value), extra=extra)


def _size(value: Any) -> str:
    try:
        return f"{len(pydantic_core.to_json(value))} bytes as JSON"
    except Exception:  # noqa: BLE001  the value's own code may be asked
        return f"a {type(value).__name__}, which is no JSON"


@contextmanager
def on_behalf_of(context: TaskContext) -> Generator[None]:
    """Functions that are `watched` run for this task while the block runs."""
    token = _TASK.set(context)
    try:
        yield
    finally:
        _TASK.reset(token)


def watched(function: Callable[..., Any], given_up: Callable[[], bool]) -> Callable[..., Any]:
    """A synchronous function that a host runs in its own threads, seen as one of ours is.

    Its thread works under the lease of its task, so that nothing starts beside it, and a result that comes too late is
    told. An async function comes back as it is.

    Args:
        function: The tool's.
        given_up: Asked in the thread at its end: whether the host knows that its call has gone.
    """
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return function

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        context, lease = _TASK.get(), current_lease()
        if context is None:
            return function(*args, **kwargs)
        value: Any = None
        error: BaseException | None = None
        returned = None if lease is None else lease.thread_works()
        try:
            value = function(*args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        else:
            return value
        finally:
            if context.cancelled or given_up():
                thrown_away(context, value, error)
            if lease is not None and returned is not None:
                lease.call_soon(returned)
            del value, error

    return run
