"""The engine on procrastinate (PostgreSQL): its jobs bring the ids of tasks to its workers.

Where the queue lives in the store's own database, a task and its job come into being in one transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status
from procrastinate.types import JSONDict
from procrastinate.worker import Worker

from raincheck.domain.task import Task
from raincheck.engines.procrastinate.connections import Connections
from raincheck.engines.procrastinate.job_manager import JobEnds
from raincheck.engines.procrastinate.schema import SCHEMA, ensure_schema, mapped, parameters_of, place_of
from raincheck.engines.queue.engine import Jobs, QueuedEngine
from raincheck.engines.queue.publisher import QueueUnavailable
from raincheck.errors import StoreUnavailable
from raincheck.ports.engine import EngineFactory
from raincheck.ports.task_store import Companion, TaskStore
from raincheck.ports.tls import Tls

_FUNCTION = "raincheck_task"
# Fetching, handing in, deleting, heartbeat and maintenance, each one statement at a time.
_CONNECTIONS = 5
_ANSWER_SECONDS = 4.0
_STOP_SECONDS = 2.0
_MIGRATION_SECONDS = 40.0
_CLEAR_UP_SECONDS = 30.0
# A job that comes while a worker begins to listen is not heard of.
_POLL_SECONDS = 1.0
_STALLED_SECONDS = 20.0
_JOB = (
    f"SELECT {SCHEMA}.procrastinate_defer_jobs_v1(ARRAY[ROW(%s::varchar, %s::varchar, %s::integer, NULL, NULL,"
    f" jsonb_build_object('task_ref', %s::text), NULL)::{SCHEMA}.procrastinate_job_to_defer_v1])"
)


def procrastinate_engine(
    url: str,
    *,
    name: str,
    reconcile_seconds: float,
    tls: Tls | None = None,
    jobs_come_with_tasks: bool = False,
    stalled_seconds: float = _STALLED_SECONDS,
) -> EngineFactory:
    """What makes the engine on procrastinate.

    Args:
        url: The database: `postgresql://…`. Its tables are made in a schema of their own.
        name: The queue's name.
        reconcile_seconds: How long a task may be pending before it counts as lost by the queue.
        tls: Certificates beyond what the address says.
        jobs_come_with_tasks: The store runs `job_statement` with each new task.
        stalled_seconds: After how long without a heartbeat a worker's jobs are cleared up; tasks do not wait for it.

    Raises:
        ConfigurationError: The address is none.
    """
    parameters = parameters_of(url, tls)

    def make(
        store: TaskStore,
        operation_types: Callable[[], Collection[str]],
        *,
        max_concurrency: int,
        clock: Callable[[], datetime],
    ) -> QueuedEngine:
        queue = _ProcrastinateQueue(
            parameters,
            name=name,
            concurrency=max_concurrency,
            jobs_come_with_tasks=jobs_come_with_tasks,
            stalled_seconds=stalled_seconds,
        )
        return QueuedEngine(
            store,
            operation_types,
            queue,
            max_concurrency=max_concurrency,
            reconcile_seconds=reconcile_seconds,
            clock=clock,
        )

    return make


def job_statement(name: str) -> Companion:
    """The job of a new task, for the transaction that inserts it.

    Args:
        name: The queue's name.
    """

    def companion(task: Task) -> tuple[str, Sequence[Any]]:
        return _JOB, (name, _FUNCTION, task.priority, task.task_ref)

    return companion


async def make_queue_schema(url: str, tls: Tls | None = None) -> None:
    """Make or upgrade procrastinate's tables, without an engine that runs.

    Raises:
        ConfigurationError: The address is none, or the tables are of a newer procrastinate.
        StoreUnavailable: The server does not answer, or a right is missing.
    """
    connections, parameters = Connections(), parameters_of(url, tls)
    try:
        with connections.answering(_MIGRATION_SECONDS):
            async with await connections.kind.connect(**parameters, autocommit=True) as connection:
                await ensure_schema(connection)
    except QueueUnavailable as error:
        raise StoreUnavailable(f"The queue at {place_of(parameters)} cannot be made: {error}") from error


class _ProcrastinateQueue:
    """See `raincheck.engines.queue.engine.Queue`."""

    def __init__(
        self,
        parameters: dict[str, Any],
        *,
        name: str,
        concurrency: int,
        jobs_come_with_tasks: bool,
        stalled_seconds: float,
    ) -> None:
        self._parameters = parameters
        self._queue = name
        self._concurrency = concurrency
        self._jobs_come_with_tasks = jobs_come_with_tasks
        self._stalled_seconds = stalled_seconds
        self._opening = asyncio.Lock()
        self._connections = Connections()
        self._pool = self._connections.pool(parameters, size=_CONNECTIONS, seconds=_ANSWER_SECONDS)
        _quiet()
        self._connector = PsycopgConnector()
        self._app = App(connector=self._connector)
        self._app.job_manager = self._manager = JobEnds(self._connector)
        self._jobs: Jobs | None = None
        self._opened = False
        self._doubtful = False
        self._closed = False
        self._clear_up_at = 0.0

        @self._app.task(name=_FUNCTION, queue=name)
        async def _(task_ref: str) -> None:
            if self._jobs is not None:
                await self._jobs.run(task_ref)

    @property
    def name(self) -> str:
        """See `Queue.name`."""
        return f"the procrastinate queue {self._queue!r} at {place_of(self._parameters)}"

    async def open(self) -> None:
        """See `Queue.open`."""
        async with self._opening:
            if self._closed:
                raise QueueUnavailable("it is closed")
            if self._opened and not self._doubtful:
                return
            with self._connections.answering(_MIGRATION_SECONDS):
                connect = self._connections.kind.connect
                async with await connect(**self._parameters, autocommit=True) as connection:
                    await ensure_schema(connection)
            if not self._opened:
                await self._pool.open()
                await self._connector.open_async(self._pool)
                self._opened = True
            else:
                # Connections that a restart of the server broke: replaced now, not found one by one.
                with self._connections.answering(_ANSWER_SECONDS):
                    await self._pool.check()
            self._doubtful = False

    @contextmanager
    def _watched(self, seconds: float = _ANSWER_SECONDS) -> Generator[None]:
        """Bounded; after a failure the next `open` looks at everything again."""
        try:
            with self._connections.answering(seconds):
                yield
        except QueueUnavailable:
            self._doubtful = True
            raise

    async def send(self, tasks: Sequence[Task]) -> None:
        """See `Queue.send`."""
        # By priority: the jobs of one batch have one.
        refs: dict[int, list[str]] = {}
        for task in tasks:
            # A task that came back from a lost worker has a new job either way.
            if task.attempt > 0 or not self._jobs_come_with_tasks:
                refs.setdefault(task.priority, []).append(task.task_ref)
        if not refs:
            return
        await self.open()
        with self._watched():
            for priority, of_priority in refs.items():
                deferrer = self._app.configure_task(_FUNCTION, queue=self._queue, priority=priority)
                payloads: list[JSONDict] = [{"task_ref": ref} for ref in of_priority]
                await deferrer.batch_defer_async(*payloads)

    async def work(self, jobs: Jobs, stopping: asyncio.Event) -> None:
        """See `Queue.work`."""
        self._jobs = jobs
        worker = Worker(
            self._app,
            queues=[self._queue],
            name=self._queue,
            concurrency=self._concurrency,
            fetch_job_polling_interval=_POLL_SECONDS,
            # Jobs are not aborted: a cancelled task is heard of through the store.
            abort_job_polling_interval=3600.0,
            # Jobs end at once; tasks that run go on.
            shutdown_graceful_timeout=0.0,
            listen_notify=True,
            delete_jobs="always",
            install_signal_handlers=False,
            update_heartbeat_interval=self._stalled_seconds / 4,
            stalled_worker_timeout=self._stalled_seconds,
        )
        running = asyncio.create_task(worker.run(), name="raincheck-procrastinate")
        waiting = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            await self._stop(worker, running)
        try:
            with mapped():
                if not running.cancelled():
                    running.result()
        except QueueUnavailable:
            self._doubtful = True
            raise

    async def _stop(self, worker: Worker, running: asyncio.Task[None]) -> None:
        worker.stop()
        await asyncio.wait({running}, timeout=_STOP_SECONDS)
        while not running.done():
            # Its ends wait for an answer, or for a connection, one after the other.
            self._connections.cut()
            running.cancel()
            await asyncio.wait({running}, timeout=0.5)

    async def maintain(self, pending: Callable[[str], Awaitable[bool]]) -> None:
        """See `Queue.maintain`."""
        with self._watched():
            await self._app.check_connection_async()
        loop = asyncio.get_running_loop()
        if self._concurrency and loop.time() > self._clear_up_at:
            self._clear_up_at = loop.time() + self._stalled_seconds / 4
            with self._watched(_CLEAR_UP_SECONDS):
                await self._clear_up(pending)

    async def _clear_up(self, pending: Callable[[str], Awaitable[bool]]) -> None:
        """Jobs of dead workers, which procrastinate counts as running for ever: again, or over."""
        seconds = self._stalled_seconds
        for job in await self._manager.get_stalled_jobs(queue=self._queue, seconds_since_heartbeat=seconds):
            assert job.id is not None
            if await pending(str(job.task_kwargs["task_ref"])):
                await self._manager.retry_job_by_id_async(job_id=job.id, retry_at=datetime.now(UTC))
            else:
                await self._manager.finish_job(job, Status.FAILED, delete_job=True)
        await self._manager.prune_stalled_workers(seconds)

    async def close(self) -> None:
        """See `Queue.close`."""
        if self._closed:
            return
        self._closed = True
        if not self._opened:
            return
        if self._doubtful:
            self._connections.cut()
        timer = asyncio.get_running_loop().call_later(_STOP_SECONDS, self._connections.cut)
        await self._manager.stop(_STOP_SECONDS)
        await self._pool.close(timeout=_STOP_SECONDS)
        timer.cancel()
        # What still waits for an answer has its connection taken away.
        self._connections.cut()


def _quiet() -> None:
    """procrastinate tells of every job, the pool of every attempt to connect; the engine says once that the queue is
    away."""
    for name in ("procrastinate", "psycopg.pool"):
        log = logging.getLogger(name)
        if log.level == logging.NOTSET:
            log.setLevel(logging.CRITICAL)
