"""The engine on an existing queue: the queue brings ids, the store holds the tasks.

A queue's job is a task's id and nothing else. Whatever the queue loses is found in the store by the scanner; whatever
it brings twice or too late is no longer pending there, and done at once. Its own state decides nothing about a task.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from raincheck.domain.task import Task, TaskStatus
from raincheck.engines.pending_scanner import PendingScanner
from raincheck.engines.queue.publisher import Outage, QueuePublisher, QueueRefused, QueueUnavailable
from raincheck.engines.slots import SlotPool
from raincheck.errors import ConfigurationError, StoreError
from raincheck.ports.engine import RunTask
from raincheck.ports.task_store import TaskStore
from raincheck.timing.background import BackgroundLoop

logger = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
_FLUSH_SECONDS = 1.0
_MAINTAIN_SECONDS = 2.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 3.0
# Tasks of several processes reach a queue a little out of order.
_OUT_OF_ORDER = timedelta(seconds=1)
# What waited for as long is not alone; what was alone is so for a while.
_BACKLOG = timedelta(seconds=0.25)
_ALONE_SECONDS = 0.25
_NEVER = datetime.min.replace(tzinfo=UTC)


class Queue(Protocol):
    """An existing queue. Every verb but `close` is bounded, and may raise `QueueUnavailable`; `open` also
    `QueueRefused`."""

    @property
    def name(self) -> str:
        """What it is called in the log, without a secret."""
        ...

    async def open(self) -> None:
        """Connect, and make in the queue what has to be there. May be called again after a failure.

        Raises:
            ConfigurationError: It can never be used as it is set.
        """
        ...

    async def send(self, tasks: Sequence[Task]) -> None:
        """Hand these tasks to the queue, in order."""
        ...

    async def work(self, jobs: Jobs, stopping: asyncio.Event) -> None:
        """Bring jobs to `jobs.run` until `stopping` is set; then fetch no more, end every job, and return."""
        ...

    async def maintain(self, pending: Callable[[str], Awaitable[bool]]) -> None:
        """Called every few seconds: see whether it answers, and clear up after dead workers.

        Args:
            pending: Whether a task still waits for a worker.
        """
        ...

    async def close(self) -> None:
        """Let go of every connection; requests under way fail. Idempotent; raises nothing."""
        ...


class Jobs:
    """What becomes of an id that a queue brings to this process.

    A job lasts until its task first gives its place back, so that a queue's own bound on jobs is the bound on tasks,
    and a busy worker takes no job that an idle one could run.

    In a backlog a job is no more than the right to one start: what the store says is next has it. The task that was
    brought goes to the end of the queue, so that there is a job for each that waits.

    Args:
        now: What time it is for the tasks.
        again: Hands a task to the queue once more.
    """

    def __init__(
        self,
        store: TaskStore,
        operation_types: Callable[[], Collection[str]],
        pool: SlotPool,
        run: RunTask,
        *,
        now: Callable[[], datetime],
        again: Callable[[Task], None],
    ) -> None:
        self._store = store
        self._operation_types = operation_types
        self._pool = pool
        self._run = run
        self._waiting: set[asyncio.Future[None]] = set()
        self._ended = False
        self._now = now
        self._again = again
        self._alone_until = float("-inf")
        self.head: datetime | None = None
        # A queue has as long for its first job as for any other.
        self.heard_at = time.monotonic()

    async def run(self, task_ref: str) -> None:
        """The job of one task. Raises nothing."""
        if self._ended:
            return
        self.heard_at = time.monotonic()
        try:
            task = await self._store.get(task_ref)
        except StoreError as error:
            logger.warning("cannot look up a delivered task: %s", error.message, extra={"task_ref": task_ref})
            return
        if task is None or task.status is not TaskStatus.PENDING or task.operation_type not in self._operation_types():
            return
        self.head = task.updated_at
        over = asyncio.get_running_loop().create_future()
        self._waiting.add(over)
        try:
            await self._hold(await self._next(task), over)
        finally:
            self._waiting.discard(over)

    async def _next(self, brought: Task) -> Task:
        """Whose turn it is."""
        waited = self._now() - brought.updated_at
        if waited < _BACKLOG or time.monotonic() < self._alone_until:
            return brought
        try:
            found = await self._store.claimable(self._operation_types(), self._pool.running + 2)
        except StoreError as error:
            logger.warning("cannot see whose turn it is: %s", error.message, extra={"task_ref": brought.task_ref})
            return brought
        if all(task.scope == brought.scope for task in found):
            self._alone_until = time.monotonic() + _ALONE_SECONDS
            return brought
        chosen = next((task for task in found if not self._pool.runs(task.task_ref)), brought)
        if chosen.task_ref == brought.task_ref or (
            # Of one scope's tasks the queue says which are urgent, if it can.
            chosen.scope == brought.scope and chosen.priority != brought.priority
        ):
            return brought
        # As one that came back: the queue has its job as running.
        self._again(replace(brought, attempt=max(1, brought.attempt)))
        return chosen

    async def _hold(self, task: Task, over: asyncio.Future[None]) -> None:
        def released() -> None:
            if not over.done():
                over.set_result(None)

        if self._pool.free > 0:
            if self._pool.spawn(self._run, task, released):
                await over
            return
        turn = asyncio.ensure_future(self._pool.spawn_in_turn(self._run, task, released))
        try:
            await asyncio.wait({turn, over}, return_when=asyncio.FIRST_COMPLETED)
            if turn.done() and turn.result():
                await over
        finally:
            turn.cancel()

    def let_go(self) -> None:
        """The queue lost its hold of these jobs: end them all. Tasks that run go on."""
        for over in tuple(self._waiting):
            if not over.done():
                over.set_result(None)

    def end(self) -> None:
        """As `let_go`, and whatever the queue still brings is done at once: it stays pending in the store."""
        self._ended = True
        self.let_go()


class QueuedEngine:
    """Brings tasks to workers over a queue.

    Args:
        queue: The queue; this engine opens and closes it.
        max_concurrency: How many tasks run here at once; 0: this process only hands tasks to the queue.
        reconcile_seconds: How long a task may be pending before it counts as lost by the queue.
        clock: The clock that the tasks' times are of.
    """

    def __init__(
        self,
        store: TaskStore,
        operation_types: Callable[[], Collection[str]],
        queue: Queue,
        *,
        max_concurrency: int,
        reconcile_seconds: float,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._operation_types = operation_types
        self._queue = queue
        self._size = max_concurrency
        self._reconcile_seconds = reconcile_seconds
        self._clock = clock
        self._pool = SlotPool(max_concurrency, lambda: self._scanner.place_is_free())
        self._scanner = PendingScanner(
            store,
            operation_types,
            self._pool,
            scan_seconds=min(1.0, reconcile_seconds / 2),
            lost_before=self._lost_before,
        )
        self._outage = Outage(queue.name)
        self._sender = QueuePublisher(queue.send, self._outage)
        self._jobs: Jobs | None = None
        self._stopping = asyncio.Event()
        self._work_pause = _FIRST_PAUSE
        self._worker = BackgroundLoop("queue", self._work, purpose=f"work off {queue.name}", seconds=_FIRST_PAUSE)
        self._maintenance = BackgroundLoop(
            "queue-maintenance",
            self._maintain,
            purpose=f"maintain {queue.name}",
            seconds=_MAINTAIN_SECONDS,
            at_once=False,
        )

    @property
    def running(self) -> int:
        """See `Engine.running`."""
        return self._pool.running

    async def start(self, run: RunTask) -> None:
        """See `Engine.start`."""
        try:
            await self._queue.open()
        except QueueRefused as error:
            await self._queue.close()
            raise ConfigurationError(f"{self._queue.name} cannot be used: {error}") from None
        except QueueUnavailable as error:
            self._outage.failed(error)
        except BaseException:
            await self._queue.close()
            raise
        self._sender.start()
        self._maintenance.start()
        if self._size:
            self._jobs = Jobs(
                self._store,
                self._operation_types,
                self._pool,
                run,
                now=self._clock,
                again=self._sender.put,
            )
            self._worker.start()
            self._scanner.start(run)

    async def deliver(self, task: Task) -> None:
        """See `Engine.deliver`."""
        self._sender.put(task)

    def wake(self, operation_type: str) -> None:
        """See `Engine.wake`."""
        self._scanner.look_for(operation_type)

    async def stop(self, drain_seconds: float) -> None:
        """See `Engine.stop`."""
        self._stopping.set()
        await self._scanner.stop()
        await self._worker.drain(_STOP_SECONDS)
        await self._worker.stop()
        if self._jobs is not None:
            self._jobs.end()
        await self._pool.drain(drain_seconds)

    async def join(self) -> None:
        """See `Engine.join`."""
        try:
            # First: what is given back at the end is handed to the queue again.
            await self._pool.join()
        finally:
            await self._sender.flush(_FLUSH_SECONDS)
            # Before the ends of those that may wait for an answer.
            await self._queue.close()
            await self._sender.stop()
            await self._maintenance.stop()

    def _lost_before(self) -> datetime:
        limit = self._clock() - timedelta(seconds=self._reconcile_seconds)
        jobs = self._jobs
        if jobs is None or self._outage.going_on or time.monotonic() - jobs.heard_at > self._reconcile_seconds:
            return limit
        if jobs.head is None:
            return _NEVER
        # The queue is being worked off, oldest first: in a long one nothing is lost that its head has not passed.
        return min(limit, jobs.head - _OUT_OF_ORDER)

    async def _work(self) -> float | None:
        jobs = self._jobs
        if jobs is None or self._stopping.is_set():
            return None
        began = time.monotonic()
        try:
            await self._queue.open()
            await self._queue.work(jobs, self._stopping)
        except (QueueUnavailable, ConfigurationError) as error:
            self._outage.failed(error)
        finally:
            jobs.let_go()
        worked = time.monotonic() - began > 2 * _LONGEST_PAUSE
        self._work_pause = _FIRST_PAUSE if worked else min(2 * self._work_pause, _LONGEST_PAUSE)
        return self._work_pause

    async def _maintain(self) -> None:
        try:
            await self._queue.open()
            await self._queue.maintain(self._pending)
        except (QueueUnavailable, ConfigurationError) as error:
            self._outage.failed(error)
        else:
            self._outage.answered()

    async def _pending(self, task_ref: str) -> bool:
        task = await self._store.get(task_ref)
        return task is not None and task.status is TaskStatus.PENDING
