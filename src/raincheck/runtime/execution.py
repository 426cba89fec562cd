"""One execution of a task on this worker: its reports, its questions, and its stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NoReturn

from raincheck.callbacks.tokens import CompletionTokens
from raincheck.domain.task import InputRequest, Progress, Task, TaskStatus
from raincheck.domain.transitions import AskInput, AwaitExternal, Event, Refused, ReportProgress, SaveCheckpoint
from raincheck.errors import StoreError
from raincheck.operations.callers import given
from raincheck.operations.context import CallbackAddress, Start, TaskContext
from raincheck.operations.lease import Lease, verified_until
from raincheck.operations.operation import Operation
from raincheck.ports.engine import Slot
from raincheck.ports.records import Record
from raincheck.ports.task_store import TaskStore
from raincheck.tasks.results import Results
from raincheck.tasks.upstream_records import discard_cleanup, record_of
from raincheck.tasks.watch import ChangeNotifier
from raincheck.tasks.writer import TaskWriter

logger = logging.getLogger(__name__)

StopReason = Literal["settled", "lost", "timeout", "deadline", "shutdown"]
"""Why a run was told to stop: the task was settled elsewhere (cancelled), its lease went to another worker, the
attempt's timeout passed, the task's deadline passed, or the worker shuts down."""

_PROGRESS_SECONDS = 0.25
_STORE_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


class Interrupted(Exception):
    """The run was told to stop.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason: StopReason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerParts:
    """What all executions of a worker share.

    Attributes:
        store: The registry of tasks.
        writer: Writes what becomes of them.
        changes: Where cancels and answers are heard of.
        callbacks: Makes the tokens by which tasks are settled from outside.
        results: Offloads large results.
    """

    store: TaskStore
    writer: TaskWriter
    changes: ChangeNotifier
    callbacks: CompletionTokens
    results: Results


class Execution:
    """The worker's side of one claimed task: an observer of its changes and the backend of its `TaskContext`.

    Attributes:
        task: The latest record that this worker knows.
        fence: The fencing number of this claim: what `task` has changed to since does not make it ours again.
        asked: When the claim was asked for, on the clock of `raincheck.timing.clock`.
        lease: What the operation's own code is held to.
        body: The operation's own code, while it runs.
    """

    __slots__ = (
        "_asked",
        "_callback",
        "_cancelled",
        "_lease_length",
        "_news",
        "_parts",
        "_remaining",
        "_saver",
        "_slot",
        "_stop",
        "_suspended",
        "_timer",
        "_timer_since",
        "_unsaved",
        "_waiter",
        "asked",
        "body",
        "context",
        "fence",
        "lease",
        "loop",
        "operation",
        "task",
        "task_ref",
        "version",
    )

    def __init__(
        self,
        task: Task,
        operation: Operation,
        parts: WorkerParts,
        *,
        slot: Slot,
        lease: timedelta,
        asked: float,
    ) -> None:
        self.asked = asked
        self.body: asyncio.Task[Any] | None = None
        self.task = task
        self.task_ref = task.task_ref
        self.version = task.version
        self.fence = task.fence
        self.operation = operation
        self.loop = asyncio.get_running_loop()
        self.context = TaskContext(
            task_ref=task.task_ref,
            operation_type=task.operation_type,
            idempotency_key=task.handed_on_key,
            start=Start(task.attempt, task.fence, task.checkpoint),
            caller=given(operation.policy, task.called_by),
            backend=self,
            loop=self.loop,
        )
        self._parts = parts
        self._callback: CallbackAddress | None = None
        self._slot = slot
        self._lease_length = lease
        self.lease = Lease(
            verified_until(asked, lease.total_seconds()),
            seconds=lease.total_seconds(),
            exclusive=self.may_start_elsewhere,
            lost=lambda: self.interrupt("lost"),
        )
        self._cancelled: asyncio.Task[Any] | None = None
        self._stop: StopReason | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._news: asyncio.Event | None = None
        self._asked = 0
        self._suspended = 0
        self._unsaved: Progress | None = None
        self._saver: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._remaining = 0.0
        self._timer_since = 0.0

    @property
    def may_start_elsewhere(self) -> bool:
        """Whether another worker starts the task again where it takes this one for lost."""
        return not self.task.terminal and (self.task.retry_when_lost or self.task.resumable)

    # How it is told to stop.

    @property
    def stop_reason(self) -> StopReason | None:
        """Why it is to stop, None while it may go on."""
        return self._stop

    def interrupt(self, reason: StopReason) -> None:
        """Tell the run to stop; the first reason stands, except that a timeout may be superseded."""
        if self._stop is None or self._stop == "timeout":
            self._stop = reason
            self.context.mark_cancelled()
            if reason == "lost":
                # Another worker may start it now: not one more step of it is to run here.
                self.lease.revoke()
                self.cancel_body()
        self._wake()

    def cancel_body(self) -> None:
        """Cancel the operation's own code, once, whatever cancellations of its own it swallowed."""
        if self.body is not None and self._cancelled is not self.body:
            self._cancelled = self.body
            self.body.cancel()
            self.lease.stop()

    async def until_stopped(self, body: asyncio.Task[Any] | None = None, *, seconds: float | None = None) -> None:
        """Wait for the order to stop, for the end of `body`, or until `seconds` have gone by."""
        if self._stop is not None:
            return
        # `asyncio.wait` would do; it keeps more than a kilobyte for every task that waits.
        self._waiter = self.loop.create_future()
        if body is not None:
            body.add_done_callback(self._wake)
        timer = None if seconds is None else self.loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self, ended: asyncio.Task[Any] | None = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Sleep between attempts; raises `Interrupted` when the run is told to stop."""
        await self.until_stopped(seconds=seconds)
        if self._stop is not None:
            raise Interrupted(self._stop)

    def notify(self, task: Task) -> None:
        """The stored task changed: by this worker, or elsewhere (a cancel, a lost lease, an answer)."""
        self.version = task.version
        self.task = task
        self.lease.exclusive = self.may_start_elsewhere
        if task.fence != self.fence or task.status is TaskStatus.PENDING:
            self.interrupt("lost")
        elif task.terminal:
            self.interrupt("settled")
        elif self._news is not None:
            self._news.set()

    async def look_again(self) -> None:
        """Ask the store once more before the code begins: its end may have been told to a caller since the claim.

        Whether the lease still holds need not be asked: a first step waits for that.
        """
        try:
            stored = await self._parts.store.get(self.task_ref)
        except StoreError as error:
            logger.warning("cannot look at a claimed task: %s", error.message, extra={"task_ref": self.task_ref})
            return
        if stored is not None and stored.version > self.version:
            self.notify(stored)

    # The attempt's clock, which stands still while the task waits for its caller.

    def start_timer(self, seconds: float) -> None:
        """Begin an attempt: interrupt it when it has run for `seconds`."""
        self.lease.stopping = False
        self._remaining = seconds
        self._resume_timer()

    def stop_timer(self) -> float:
        """End the attempt; how many seconds it had left, negative when it overran."""
        self._pause_timer()
        if self._stop == "timeout":
            self._stop = None
        return self._remaining

    def _resume_timer(self) -> None:
        self._timer_since = self.loop.time()
        self._timer = self.loop.call_later(self._remaining, self.interrupt, "timeout")

    def _pause_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._remaining -= self.loop.time() - self._timer_since

    # Writing: compare-and-set against whatever the stored task has become.

    async def apply(self, event: Event, record: Record | None = None) -> Task:
        """Apply the event to the stored task, however often others write in between; the record goes with it.

        Raises:
            Refused: The event does not apply any more: the lease is gone, or the task is settled.
            StoreError: The store did not take it; nothing was written.
        """
        records = () if record is None else (record,)
        changed = await self._parts.writer.apply(
            self.task, event, self._read, lease=self._lease_length, records=records
        )
        if changed is None:
            raise Refused(self.task, event, "terminal")
        if changed.version > self.version:
            self.notify(changed)
        return changed

    async def _read(self) -> Task | None:
        stored = await self._parts.store.get(self.task_ref)
        if stored is None:
            return None
        self.notify(stored)
        return self.task

    async def apply_with_retry(self, event: Event, record: Record | None = None, *, tries: int | None = None) -> Task:
        """`apply`, tried again while the store does not answer: an outcome must not be lost to a full disk.

        Raises:
            Refused: As in `apply`.
            StoreError: Only where `tries` ran out.
        """
        tried = 0
        while True:
            try:
                return await self.apply(event, record)
            except StoreError as error:
                tried += 1
                if tries is not None and tried >= tries:
                    raise
                pause = _STORE_RETRY_SECONDS[min(tried, len(_STORE_RETRY_SECONDS)) - 1]
                logger.warning(
                    "cannot write %s, trying again in %g s: %s",
                    type(event).__name__,
                    pause,
                    error.message,
                    extra={"task_ref": self.task_ref, "operation": self.task.operation_type},
                )
                await asyncio.sleep(pause)

    # The backend of the operation's context.

    async def report(self, progress: Progress) -> None:
        """See `ContextBackend.report`."""
        self._unsaved = progress
        if self._saver is None or self._saver.done():
            # Ours, not the operation's: ended by `end_reports`, whatever becomes of the lease.
            self._saver = asyncio.create_task(self._save_progress(), context=Context())

    async def _save_progress(self) -> None:
        while self._unsaved is not None and self._stop is None:
            progress, self._unsaved = self._unsaved, None
            try:
                await self.apply(ReportProgress(fence=self.fence, progress=progress))
            except Refused:
                return
            except StoreError as error:
                logger.warning("progress not stored: %s", error.message, extra={"task_ref": self.task_ref})
            await asyncio.sleep(_PROGRESS_SECONDS)

    async def end_reports(self) -> None:
        """Stop storing progress: the outcome comes next."""
        if self._saver is not None:
            self._saver.cancel()
            await asyncio.gather(self._saver, return_exceptions=True)

    async def ask_first(self) -> None:
        """Put the questions of `Operation.ask_first` that were not answered before the task."""
        for name, params in self.operation.ask_first.items():
            self.context.answers[name] = await self.ask("elicitation/create", params, name=name)

    async def ask(self, method: str, params: Mapping[str, Any], *, name: str | None = None) -> Mapping[str, Any]:
        """See `ContextBackend.ask`. Answers given before a lost worker are given back in order (or by `name`)."""
        if name is None:
            self._asked += 1
            name = str(self._asked)
        for earlier in self.task.inputs:
            if earlier.response is not None and earlier.method == method and identity(earlier.key) == name:
                return earlier.response
        # With the attempt in it, a key that was withdrawn with a lost worker is never used again.
        key = input_key(self.task.attempt, name)
        self._news = self._news or asyncio.Event()
        await self.apply_with_retry(
            AskInput(fence=self.fence, requests=(InputRequest(key=key, method=method, params=dict(params)),))
        )
        await self.suspend()
        while (response := self._response(key)) is None:
            # Cleared by the next waiter; a waiter that was woken looks again, so none misses its answer.
            self._news.clear()
            await self._news.wait()
        await self.resume()
        return response

    async def save(self, checkpoint: Any, cleanup: Mapping[str, Any] | None) -> None:
        """See `ContextBackend.save`."""
        record = None if cleanup is None else record_of(self.task, cleanup)
        await self.apply_with_retry(SaveCheckpoint(fence=self.fence, checkpoint=checkpoint), record)

    async def external_completed(self) -> None:
        """See `ContextBackend.external_completed`."""
        try:
            await discard_cleanup(self._parts.store, self.task_ref)
        except StoreError as error:
            # It is told to stop after its end then, which changes nothing.
            logger.warning("cannot forget an upstream job: %s", error.message, extra={"task_ref": self.task_ref})

    async def hand_over(self) -> None:
        """See `ContextBackend.hand_over`."""
        await self.apply_with_retry(AwaitExternal(fence=self.fence))

    async def await_external(self) -> NoReturn:
        """See `ContextBackend.await_external`."""
        await self.hand_over()
        await self.suspend()
        try:
            await self.loop.create_future()
        finally:
            if self._stop is None:
                await self.resume()
        raise AssertionError("nobody sets it")

    async def callback_address(self) -> CallbackAddress:
        """See `ContextBackend.callback_address`."""
        self._callback = self._callback or await self._parts.callbacks.address(self.task)
        return self._callback

    async def suspend(self) -> None:
        """See `ContextBackend.suspend`."""
        self._suspended += 1
        if self._suspended == 1:
            self._pause_timer()
            self._slot.release()

    async def resume(self) -> None:
        """See `ContextBackend.resume`."""
        # Of several questions that wait side by side, the last one to be answered takes the place again.
        self._suspended -= 1
        if self._suspended == 0:
            await self._slot.acquire()
            if self._stop is None:
                self._resume_timer()

    def _response(self, key: str) -> Mapping[str, Any] | None:
        return next((request.response for request in self.task.inputs if request.key == key), None)


def input_key(attempt: int, name: str) -> str:
    """The key of a question: the attempt that asked it (0: before the task), and which question of the operation."""
    return f"{attempt}-{name}"


def identity(key: str) -> str:
    """Which question of the operation a key stands for, whatever attempt asked it."""
    return key.partition("-")[2]
