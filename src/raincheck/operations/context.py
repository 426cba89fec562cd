"""What a running operation may know and say: `TaskContext`, injected where a parameter is annotated with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol, TypeVar

from raincheck.task import Progress

__all__ = ["ContextBackend", "TaskCancelled", "TaskContext"]

_T = TypeVar("_T")

_LONGEST_MESSAGE = 500


class TaskCancelled(BaseException):
    """Raised by `TaskContext.check_cancelled` in a synchronous operation that was told to stop.

    A `BaseException`, as `asyncio.CancelledError` is, so that an operation's own `except Exception` lets it through.
    """


class ContextBackend(Protocol):
    """What a runner gives to a context. Both coroutines run on the runner's event loop."""

    async def report(self, progress: Progress) -> None:
        """Store the progress; reports that come faster than they can be stored are merged, the last one wins."""
        ...

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Park the task until the caller has answered; the answer."""
        ...


class TaskContext:
    """The running task, as its operation sees it.

    Usable from an async operation (await the coroutine methods) and from a synchronous one in its thread (the
    `_sync` forms). Annotate a parameter with it and it is passed in; it is not part of the operation's schema.

    Attributes:
        task_ref: The task's id.
        operation_type: The operation's name.
        idempotency_key: The caller's key, or the `task_ref` where it gave none: hand it on to what you call, so that
            a second run does not take effect twice.
        attempt: 1 for the first start, more after a lost worker.
        fence: The fencing number of this start: it grows with every start of the task. Hand it on to a resource that
            remembers the highest one it saw and refuses lower ones: so nothing that a worker without a lease still
            does takes effect there. 0 where the operation runs without a task (`mode = "inline"`).
        answers: What the caller answered to the operation's `ask_first`, by name, each `{"action", "content"}`.
    """

    def __init__(
        self,
        *,
        task_ref: str,
        operation_type: str,
        idempotency_key: str | None,
        attempt: int,
        fence: int = 0,
        backend: ContextBackend,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.task_ref = task_ref
        self.operation_type = operation_type
        self.idempotency_key = idempotency_key or task_ref
        self.attempt = attempt
        self.fence = fence
        self.answers: dict[str, Mapping[str, Any]] = {}
        self._backend = backend
        self._loop = loop
        self._cancelled = False
        self._waiting: tuple[Future[Any], ...] = ()

    @property
    def cancelled(self) -> bool:
        """Whether the task was told to stop (cancelled, timed out, or its worker shuts down)."""
        return self._cancelled

    def check_cancelled(self) -> None:
        """Raise `TaskCancelled` if the task was told to stop: call it in the loops of a synchronous operation."""
        if self._cancelled:
            raise TaskCancelled(self.task_ref)

    def mark_cancelled(self) -> None:
        """Tell the operation to stop (for the runner), and wake its thread if it waits. Thread-safe, idempotent."""
        self._cancelled = True
        for future in self._waiting:
            future.cancel()

    async def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Report how far the task is: `fraction` from 0 to 1 (clamped), `message` one short line (cut at 500)."""
        if fraction is not None:
            fraction = min(1.0, max(0.0, float(fraction)))
        if message is not None:
            message = str(message)[:_LONGEST_MESSAGE]
        await self._backend.report(Progress(fraction=fraction, message=message))

    async def elicit(self, message: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the caller's user; the task is `input_required` until it answers and holds no concurrency slot.

        Args:
            message: The question.
            schema: JSON Schema of the answer: an object with primitive properties (MCP elicitation, form mode).

        Returns:
            `{"action": "accept" | "decline" | "cancel", "content": {...}}`.
        """
        return await self.ask(
            "elicitation/create", {"mode": "form", "message": message, "requestedSchema": dict(schema)}
        )

    async def sample(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the caller's model: `params` and the answer are those of MCP `sampling/createMessage`."""
        return await self.ask("sampling/createMessage", params)

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask by any request that MCP lets a server put to its client; what `elicit` and `sample` do."""
        return await self._backend.ask(method, params)

    def progress_sync(self, fraction: float | None = None, message: str | None = None) -> None:
        """`progress` for a synchronous operation; raises `TaskCancelled` if the task was told to stop."""
        self.check_cancelled()
        self._call(self.progress(fraction, message))

    def elicit_sync(self, message: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """`elicit` for a synchronous operation (its thread waits)."""
        self.check_cancelled()
        return self._call(self.elicit(message, schema))

    def _call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._waiting = (*self._waiting, future)
        try:
            if self._cancelled:  # told to stop before the future was in the set
                future.cancel()
            return future.result()
        except CancelledError:
            self.check_cancelled()
            raise
        finally:
            self._waiting = tuple(each for each in self._waiting if each is not future)
