"""Lost answers of inserts: looked for before the caller gets an error, or cancelled once the store is back.

A store that did not answer may have committed the task all the same. Who is told that the call failed calls again, and
without a key of its own gets a second task: then the first one must not run unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from raincheck.domain.task import Task
from raincheck.domain.transitions import Cancel, Refused
from raincheck.errors import StoreError, StoreUnavailable
from raincheck.ports.task_store import TaskStore
from raincheck.tasks.writer import TaskWriter
from raincheck.timing.background import BackgroundLoop
from raincheck.timing.clock import monotonic

logger = logging.getLogger(__name__)

# The caller has waited for the store's whole patience already.
_LOOK_SECONDS = 0.5
_PAUSES = (0.2, 0.5, 1.0, 2.0)
# A store that is back may still carry out for so long what had reached it before.
_LATE_SECONDS = 30.0
_MOST = 10_000
_BATCH = 500


class LostAnswers:
    """Sees to the tasks that may have been inserted though their callers were told that the store failed.

    Args:
        store: The store.
        clock: What time it is for the tasks.
    """

    def __init__(self, store: TaskStore, writer: TaskWriter) -> None:
        self._store = store
        self._writer = writer
        # Since when the store answers again, and does not have it.
        self._unwanted: dict[str, float | None] = {}
        self._looks = 0
        self._loop = BackgroundLoop(
            "lost-answers", self._look_again, purpose="look for lost answers", seconds=_PAUSES[-1]
        )

    async def task_or_refusal(self, task: Task, error: StoreUnavailable, *, keyed: bool) -> Task:
        """The task as it is stored, if the store says so at once.

        Args:
            task: What was to be inserted.
            error: What the store said.
            keyed: Whether the caller gave an idempotency key, by which the same call finds the task.

        Raises:
            StoreUnavailable: It was not accepted, or that is unknown; then what no later call can find is cancelled.
        """
        if not error.maybe_done:
            raise error
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                if (found := await self._store.get(task.task_ref)) is not None:
                    return found
        if keyed or task.inflight:
            again = "the same idempotency_key" if keyed else "the same parameters"
            raise told(error, f"The call may have been accepted all the same: call again with {again}.")
        self._cancel_later(task)
        raise told(
            error,
            "The call may have been accepted all the same; then its task is cancelled when the store answers again. "
            "Call again, best with an idempotency_key.",
        )

    def wanted(self, task_ref: str) -> None:
        """A later call has found the task: it is not cancelled."""
        self._unwanted.pop(task_ref, None)

    def _cancel_later(self, task: Task) -> None:
        if len(self._unwanted) >= _MOST:
            logger.warning("a task that may have been accepted is not looked for", extra={"task_ref": task.task_ref})
            return
        self._loop.start()
        if not self._unwanted:
            self._loop.wake()
        self._unwanted[task.task_ref] = None

    async def stop(self) -> None:
        """Look no more."""
        await self._loop.stop()

    async def _look_again(self) -> float | None:
        try:
            if self._looks:
                await self._look()
        except StoreError as error:
            logger.debug("cannot look for tasks whose answers were lost: %s", error.message)
        self._looks = self._looks + 1 if self._unwanted else 0
        return _PAUSES[min(self._looks, len(_PAUSES)) - 1] if self._unwanted else None

    async def _look(self) -> None:
        waiting = list(self._unwanted)
        for start in range(0, len(waiting), _BATCH):
            batch = waiting[start : start + _BATCH]
            stored = await self._store.versions(batch)
            now = monotonic()
            for task_ref in batch:
                if task_ref not in self._unwanted:
                    continue
                if task_ref in stored:
                    await self._cancel(task_ref)
                    self._unwanted.pop(task_ref, None)
                elif (since := self._unwanted[task_ref]) is None:
                    self._unwanted[task_ref] = now
                elif now - since > _LATE_SECONDS:
                    del self._unwanted[task_ref]

    async def _cancel(self, task_ref: str) -> None:
        async def read() -> Task | None:
            task = await self._store.get(task_ref)
            return task if task_ref in self._unwanted else None

        with contextlib.suppress(Refused):
            task = await read()
            if task is not None and await self._writer.apply(task, Cancel(), read) is not None:
                logger.info("cancelled: its caller was told that the store failed", extra={"task_ref": task_ref})


def told(error: StoreUnavailable, doubt: str) -> StoreUnavailable:
    """The error with that doubt, where the store may have done it all the same; else as it is."""
    if not error.maybe_done:
        return error
    return StoreUnavailable(f"{error.message} {doubt}", details={"maybe_done": True}, maybe_done=True)
