"""What a running operation may know and say: `TaskContext`, injected where a parameter is annotated with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

from raincheck.domain.caller import LOCAL, Caller
from raincheck.domain.task import Progress
from raincheck.errors import OperationFailed
from raincheck.operations.json_values import json_value

_T = TypeVar("_T")

LARGEST_CHECKPOINT = 64 * 1024
"""The largest checkpoint, in bytes of JSON."""

_LONGEST_MESSAGE = 500


class CallbackAddress(NamedTuple):
    """How the task is settled from outside: the one-time token, and the whole address where one is configured."""

    token: str
    url: str | None


class TaskCancelled(BaseException):
    """Raised by `TaskContext.check_cancelled` in a synchronous operation that was told to stop.

    A `BaseException`, as `asyncio.CancelledError` is, so that an operation's own `except Exception` lets it through.
    """


class ContextBackend(Protocol):
    """What a runner gives to a context. The coroutines run on the runner's event loop."""

    async def report(self, progress: Progress) -> None:
        """Store the progress; reports that come faster than they can be stored are merged, the last one wins."""
        ...

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Park the task until the caller has answered; the answer."""
        ...

    async def save(self, checkpoint: Any, cleanup: Mapping[str, Any] | None) -> None:
        """Make the checkpoint durable, and with it what is to be stopped outside where the task ends without it."""
        ...

    async def external_completed(self) -> None:
        """What `save` was given as a cleanup has ended: nothing is to be stopped any more."""
        ...

    async def suspend(self) -> None:
        """Give the task's place back; its attempt's timer stands still."""
        ...

    async def resume(self) -> None:
        """Take a place again; for each `suspend` one."""
        ...

    async def hand_over(self) -> None:
        """Make durable that the task is settled from outside: its code is not started again."""
        ...

    async def await_external(self) -> NoReturn:
        """`hand_over`, and wait to be settled from outside; never returns."""
        ...

    async def callback_address(self) -> CallbackAddress:
        """The task's one-time token; when this returns, a call with it is taken."""
        ...


class Start(NamedTuple):
    """One start of a task.

    Attributes:
        attempt: 1 for the first, more after a lost worker.
        fence: Its fencing number; 0 where the operation runs without a task.
        checkpoint: What an earlier start saved last; None: nothing.
    """

    attempt: int = 1
    fence: int = 0
    checkpoint: Any = None


class TaskContext:
    """The running task, as its operation sees it.

    Usable from an async operation (await the coroutine methods) and from a synchronous one in its thread (the
    `_sync` forms). Annotate a parameter with it and it is passed in; it is not part of the operation's schema.

    Attributes:
        task_ref: The task's id.
        operation_type: The operation's name.
        idempotency_key: Hand it on to what you call, so that a second run does not take effect twice. A digest of the
            caller's scope and its `idempotency_key`, the same for every attempt; the `task_ref` where it gave none.
        attempt: 1 for the first start, more after a lost worker.
        fence: The fencing number of this start: it grows with every start of the task. Hand it on to a resource that
            remembers the highest one it saw and refuses lower ones: so nothing that a worker without a lease still
            does takes effect there. 0 where the operation runs without a task (`mode = "inline"`).
        answers: What the caller answered to the operation's `ask_first`, by name, each `{"action", "content"}`.
        caller: Who called; with the caller's token and headers only where the operation asks for them.
        checkpoint: What was saved last, by this start of the task or by an earlier one; None before.
    """

    def __init__(
        self,
        *,
        task_ref: str,
        operation_type: str,
        idempotency_key: str | None,
        start: Start | None = None,
        caller: Caller | None = None,
        backend: ContextBackend,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.task_ref = task_ref
        self.operation_type = operation_type
        self.idempotency_key = idempotency_key or task_ref
        start = start or Start()
        self.attempt = start.attempt
        self.fence = start.fence
        self.answers: dict[str, Mapping[str, Any]] = {}
        self.checkpoint = start.checkpoint
        self.caller = caller or Caller(scope=LOCAL)
        self._backend = backend
        self._loop = loop
        self._cancelled = False
        self._waiting: tuple[Future[Any], ...] = ()

    @property
    def backend(self) -> ContextBackend:
        """What stands behind this context, for executors."""
        return self._backend

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

    async def save(self, checkpoint: Any, *, cleanup: Mapping[str, Any] | None = None) -> None:
        """Save what the operation can go on from: durable when this returns, and then in `checkpoint`.

        From then on the task is started again when its worker is lost, whatever `on_worker_lost` says: the operation
        has to look at `checkpoint` first, and go on from there.

        Args:
            checkpoint: Anything JSON-serialisable but null, at most `LARGEST_CHECKPOINT` bytes; replaces the last one.
            cleanup: For executors that start work on other servers: what `stop_outside` is given where the task ends
                before `ContextBackend.external_completed` was called; kept in the same step.

        Raises:
            OperationFailed: It is null, no JSON, or too large.
        """
        value = json_value(checkpoint)
        if value is None:
            raise OperationFailed("a checkpoint must not be null")
        size = len(json.dumps(value, separators=(",", ":")))
        if size > LARGEST_CHECKPOINT:
            raise OperationFailed(
                f"a checkpoint is {size} bytes as JSON; at most {LARGEST_CHECKPOINT} are allowed: save a reference"
            )
        await self._backend.save(value, cleanup)
        self.checkpoint = value

    @asynccontextmanager
    async def idle(self) -> AsyncGenerator[None]:
        """While the block only waits: the task gives its place to others and its attempt's timer stands still.

        Its lease is renewed and its deadline counts on. At the end of the block it waits for a place again.
        """
        await self._backend.suspend()
        try:
            yield
        except BaseException:
            if not self._cancelled:
                await self._backend.resume()
            raise
        await self._backend.resume()

    async def await_external(self) -> NoReturn:
        """Hand the task's end over to the holder of `callback_url`.

        Never returns. The task stays `processing` and holds no place until it is settled by the call, cancelled, or
        its deadline passes. This is durable: where the worker is lost, another one goes on waiting and the operation's
        code is not started again.
        """
        await self._backend.await_external()

    async def callback_url(self) -> str:
        """The address at which this task is settled by one `POST`, whatever its worker does (docs/upstream-jobs.md).

        Its holder can settle this task and nothing else; it is good until the deadline. Within one start of the
        task it is always the same, after a lost worker it is another one unless `callback_secret` is set.

        Raises:
            OperationFailed: `public_url` in [server] is not set.
        """
        address = await self._backend.callback_address()
        if address.url is None:
            raise OperationFailed("a callback address needs 'public_url' in [server]: where this server is reached")
        return address.url

    async def callback_token(self) -> str:
        """The last part of `callback_url`, for callers that know the rest."""
        return (await self._backend.callback_address()).token

    def progress_sync(self, fraction: float | None = None, message: str | None = None) -> None:
        """`progress` for a synchronous operation; raises `TaskCancelled` if the task was told to stop."""
        self.check_cancelled()
        self._call(self.progress(fraction, message))

    def elicit_sync(self, message: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """`elicit` for a synchronous operation (its thread waits)."""
        self.check_cancelled()
        return self._call(self.elicit(message, schema))

    def save_sync(self, checkpoint: Any) -> None:
        """`save` for a synchronous operation."""
        self.check_cancelled()
        self._call(self.save(checkpoint))

    def callback_url_sync(self) -> str:
        """`callback_url` for a synchronous operation."""
        self.check_cancelled()
        return self._call(self.callback_url())

    def await_external_sync(self) -> NoReturn:
        """`await_external` for a synchronous operation; its thread waits too, so prefer an async one for many tasks."""
        self.check_cancelled()
        self._call(self.await_external())
        raise AssertionError("it never returns")

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
