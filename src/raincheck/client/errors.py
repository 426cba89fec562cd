"""Errors of a wait besides the task's own failure, and exceptions from a server's `error`.

The tree::

    RaincheckError
    └── ClientError           `handle` is the task, where it is known
        ├── WaitTimedOut      the driver's bounds are reached; the task goes on
        ├── TaskWasCancelled  the task ended as `cancelled`
        ├── InputNeeded       the task asks something and there is no one here to answer; it waits
        ├── ConnectionLost    the server does not answer; the task goes on, if it was accepted
        └── BadAnswer         the server's answer makes no sense

A task that failed raises the class of `raincheck.errors` that belongs to its code, and so does a call that was refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from raincheck.domain.task import InputRequest
from raincheck.errors import CallError, InternalError, RaincheckError, TaskFailure

if TYPE_CHECKING:
    from raincheck.client.models import TaskHandle, TaskView

__all__ = [
    "BadAnswer",
    "ClientError",
    "ConnectionLost",
    "InputNeeded",
    "TaskWasCancelled",
    "WaitTimedOut",
    "error_from",
]

_BY_CODE: dict[str, type[RaincheckError]] = {
    cls.code: cls
    for base in (CallError, TaskFailure)
    # Of two with one code the first counts.
    for cls in reversed(base.__subclasses__())
    if cls.__module__ == base.__module__
}


class ClientError(RaincheckError):
    """Base of what the driver itself raises.

    Attributes:
        handle: The task, None where it is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        handle: TaskHandle | None = None,
        retryable: bool | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable, details=details)
        self.handle = handle


class WaitTimedOut(ClientError):
    """The driver's bounds are reached. The task goes on: resume it with `handle`, or cancel it.

    Attributes:
        view: The task as it was last seen, None where no answer came.
    """

    code = "wait_timed_out"
    default_retryable = True

    def __init__(self, message: str, *, handle: TaskHandle, view: TaskView | None = None) -> None:
        super().__init__(message, handle=handle)
        self.view = view


class TaskWasCancelled(ClientError):
    """The task ended as `cancelled`, by this caller or another one of its scope."""

    code = "task_cancelled"


class InputNeeded(ClientError):
    """The task asks something, and no input callback answers. Answer it and resume; meanwhile the task waits.

    Attributes:
        requests: The questions.
    """

    code = "input_needed"

    def __init__(self, message: str, *, handle: TaskHandle, requests: Iterable[InputRequest]) -> None:
        super().__init__(message, handle=handle)
        self.requests = tuple(requests)


class ConnectionLost(ClientError):
    """The server did not answer, several times, or refuses these headers (not `retryable`). A task that it
    accepted goes on; `handle` resumes it."""

    code = "connection_lost"
    default_retryable = True


class BadAnswer(ClientError):
    """The server's answer is not what the tool or method promises."""

    code = "bad_answer"


def error_from(error: Mapping[str, Any], *, failed_task: TaskHandle | None = None) -> RaincheckError:
    """The exception for the structured `error` of a refused call or, with `failed_task`, of that task.

    A code of a newer server becomes a plain `TaskFailure` or `CallError`, whose `details` hold the code.
    """
    code = str(error.get("code") or InternalError.code)
    given = error.get("details")
    details: dict[str, Any] = dict(cast("Mapping[str, Any]", given)) if isinstance(given, Mapping) else {}
    if failed_task is not None:
        details.setdefault("task_ref", failed_task.task_ref)
    cls = _BY_CODE.get(code)
    if cls is None:
        cls = CallError if failed_task is None else TaskFailure
        details.setdefault("code", code)
    message = str(error.get("message") or code)
    return cls(message, retryable=error.get("retryable") is True, details=details)
