"""One process's share: store, registry, engine, runner, heartbeat and sweeper, started and stopped as one."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from raincheck.callbacks.tokens import CompletionTokens
from raincheck.config.program import Program, claim_store
from raincheck.domain.logs import guard_logs
from raincheck.domain.task import TaskStatus
from raincheck.encryption.cipher import check_keys
from raincheck.engines.local import local_engine
from raincheck.errors import StoreError
from raincheck.limits.fair_queue import FairQueue
from raincheck.limits.limiter import Limiter
from raincheck.operations.callers import check_encrypted
from raincheck.operations.catalog import OperationCatalog
from raincheck.operations.exits import guard_loop, leave_loop
from raincheck.operations.lease import hold_child_tasks, let_child_tasks_go
from raincheck.operations.orphan_reaper import reaper_running
from raincheck.polling.history_store import HistoryStore
from raincheck.polling.patience_store import PatienceStore
from raincheck.ports.blob_store import BlobStore
from raincheck.ports.engine import Engine, EngineFactory
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import PendingLimit, TaskStore
from raincheck.runtime.execution import WorkerParts
from raincheck.runtime.failure_alerts import FailureRate
from raincheck.runtime.heartbeat import Heartbeat
from raincheck.runtime.lost_workers import LostWorkers, WorkerProcesses
from raincheck.runtime.process_identity import Kernel, own_identity, worker_id
from raincheck.runtime.runner import Runner
from raincheck.runtime.sweeper import Sweeper, SweepTimes
from raincheck.runtime.upstream_cleanup import UpstreamCleanup
from raincheck.stores.shared.turn_taking import TurnTakingStore
from raincheck.tasks import task_log, upstream_records
from raincheck.tasks.registry import AcceptanceRules, Registry
from raincheck.tasks.results import Results
from raincheck.tasks.watch import ChangeNotifier
from raincheck.tasks.writer import TaskEnded, TaskWriter
from raincheck.timing.clock import StoreClock, monotonic
from raincheck.webhooks.delivery import PENDING, first_record
from raincheck.webhooks.dispatcher import WebhookDispatcher
from raincheck.webhooks.policy import WebhookRules

DEFAULT_PENDING_OF_PRINCIPAL = 1000
"""How many tasks of a caller who authenticates may be pending where nothing else is said."""

logger = logging.getLogger(__name__)

_STOP_SECONDS = 15.0
_DELIVERY_SECONDS = 3.0
_READINESS = "readiness"
_READINESS_KEPT = timedelta(hours=1)
_READY_SECONDS = 1.0
_SOON = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceSettings:
    """How this process takes part.

    Attributes:
        max_concurrency: How many tasks run here at once; 0: it only accepts.
        lease_seconds: How long a claim is good for without renewal; a dead worker's tasks are settled or run again
            within about two of them.
        drain_seconds: How long a clean shutdown waits for what runs.
        hang_seconds: How long the event loop may be silent before its tasks are given up to other workers; None: four
            leases, at least a minute.
        max_parameters_bytes: The largest parameters, as JSON.
        max_pending, max_pending_per_scope: How many tasks may be pending in the store, and in one scope; 0: any number.
            The latter where it is None: `DEFAULT_PENDING_OF_PRINCIPAL` for callers who authenticate.
        max_running_per_scope: How many tasks of one scope run at once, in all processes on the store; 0: any number.
        alert_on_failure_rate: The share of failed tasks of an operation from which on a warning is logged.
        public_url: Where the server is reached from outside, for callbacks; None: no address is given out.
        callback_secret: See `raincheck.callbacks.tokens.CompletionTokens`.
        webhooks: How the ends of tasks are delivered.
        program: The program whose mark the store is to carry; None: its place was named.
    """

    max_concurrency: int = 50
    lease_seconds: float = 15.0
    drain_seconds: float = 5.0
    hang_seconds: float | None = None
    max_parameters_bytes: int = 1024 * 1024
    max_pending: int = 0
    max_pending_per_scope: int | None = None
    max_running_per_scope: int = 0
    alert_on_failure_rate: float = 0.05
    public_url: str | None = None
    callback_secret: str | None = field(default=None, repr=False)
    webhooks: WebhookRules = field(default_factory=WebhookRules)
    program: Program | None = None


class Service:
    """Accepts and runs tasks of the given operations on the given store.

    Args:
        store: Not yet opened; the service opens and closes it.
        operations: The operations of this process.
        clock: What time it is; by default the store's own clock, and the machine's where it has none.
        engine: Makes what brings tasks to this process.
        blobs: Where large results are kept, not yet opened; None: in their tasks.

    Attributes:
        callbacks: Takes the calls by which tasks are settled from outside.
        clock: What time it is for the tasks.
        results: The large results.
        registry: The use cases, once started.
        history: What is known of each operation from its tasks that ended.
        patience: What was learned of how long clients wait.
    """

    def __init__(
        self,
        store: TaskStore,
        operations: OperationCatalog,
        settings: ServiceSettings | None = None,
        *,
        engine: EngineFactory = local_engine,
        blobs: BlobStore | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        guard_logs()
        self.settings = settings or ServiceSettings()
        kernel = Kernel()
        local = store.capabilities.shared and not store.capabilities.remote
        own = own_identity(kernel)
        self.worker_id = worker_id(socket.gethostname(), secrets.token_hex(4), os.getpid(), own)
        processes = WorkerProcesses(own if local else None, kernel)
        self._store = store
        # What starts tasks lets the scopes take turns; every other part has the store itself.
        self._operations = operations
        self._changes = ChangeNotifier(store)
        self._store_clock = StoreClock(store)
        self.clock = clock = clock or self._store_clock
        writer = TaskWriter(store, clock, delivery_of=first_record, ended=self._ended)
        self.history = HistoryStore(store, clock=clock)
        self.patience = PatienceStore(store, clock=clock)
        lease = self.settings.lease_seconds
        self.results = Results(store, blobs, clock=clock)
        self._limiter = Limiter(
            store, operations, clock=clock, max_running_per_scope=self.settings.max_running_per_scope
        )
        starting = TurnTakingStore(store, FairQueue(store, self._limiter.held_back))
        self._engine: Engine = engine(
            starting,
            partial(self._limiter.startable, operations),
            max_concurrency=self.settings.max_concurrency,
            clock=clock,
        )
        self._limiter.freed = self._engine.wake
        self._failures = FailureRate(self.settings.alert_on_failure_rate)
        self.callbacks = CompletionTokens(
            store,
            operations,
            self.results,
            writer,
            public_url=self.settings.public_url,
            secret=self.settings.callback_secret,
        )
        self._runner = Runner(
            WorkerParts(
                store=starting,
                writer=writer,
                changes=self._changes,
                callbacks=self.callbacks,
                results=self.results,
            ),
            operations,
            worker_id=self.worker_id,
            lease_seconds=lease,
            returned=self._engine.deliver,
            limiter=self._limiter,
        )
        self._heartbeat = Heartbeat(
            store,
            self._runner,
            worker_id=self.worker_id,
            lease_seconds=lease,
            clock=clock,
            hang_seconds=self.settings.hang_seconds or max(60.0, 4 * lease),
        )
        self._sweeper = Sweeper(
            store,
            writer,
            SweepTimes(sweep=min(1.0, lease / 4), lease=lease),
            store_clock=self._store_clock,
            purge_others=self.results.purge,
            returned=self._engine.deliver,
            held=lambda: self._runner.leases,
            lost_workers=LostWorkers(store, processes, guarded=reaper_running) if local and own else None,
        )
        self._upstream_cleanup = UpstreamCleanup(store, operations, clock=clock)
        total, per_scope = self.settings.max_pending or None, self.settings.max_pending_per_scope
        of_principal = PendingLimit(total, DEFAULT_PENDING_OF_PRINCIPAL)
        self.registry = Registry(
            store,
            operations,
            writer,
            engine=self._engine,
            changes=self._changes,
            rules=AcceptanceRules(
                max_parameters_bytes=self.settings.max_parameters_bytes,
                pending_limit=PendingLimit(total, per_scope or None),
                pending_limit_of_principal=None if per_scope is not None else of_principal,
                check_callback_url=self.settings.webhooks.check_callback,
            ),
            limiter=self._limiter,
            worker_gone=processes.gone,
        )
        self._deliverer = WebhookDispatcher(store, self.settings.webhooks, operations, clock=clock)
        self._started = False
        self._stopping: asyncio.Task[None] | None = None
        self._seen_ready_at = float("-inf")

    @property
    def running(self) -> int:
        """How many tasks are under way in this process."""
        return self._engine.running

    async def has_work(self) -> bool:
        """Whether a task runs here or is pending, or a delivery or a cancellation upstream is due within minutes.

        Raises:
            StoreError: The store does not answer.
        """
        if self.running or await self._store.claimable(tuple(self._operations), 1):
            return True
        soon = self.clock() + _SOON
        for kind in (PENDING, upstream_records.KIND):
            if await self._store.records(RecordQuery(kind, due=soon, limit=1)):
                return True
        return False

    async def start(self) -> None:
        """Open the store and begin: what was pending is taken up, what was orphaned is settled.

        Raises:
            StoreError: The store cannot be opened; nothing was started.
            ConfigurationError: The engine can never be used as it is set, the store's file is another program's, or an
                operation keeps secrets of callers and nothing seals them; nothing is left running.
        """
        for name, operation in tuple(self._operations.items()):
            check_encrypted(name, operation.policy, encrypts=self._store.capabilities.encrypts)
        await self._store.open()
        try:
            await check_keys(self._store)
            if self.settings.program is not None:
                await claim_store(self._store, self.settings.program)
            await self.results.open()
        except BaseException:
            await self._store.close()
            raise
        hold_child_tasks()
        guard_loop()
        self._started, self._stopping = True, None
        try:
            await self._store_clock.start()
            self._changes.start()
            self._heartbeat.start()
            self._sweeper.start()
            self._upstream_cleanup.start()
            self._deliverer.start()
            self.history.start(self._operations)
            self.patience.start()
            await self._engine.start(self._runner.run)
        except BaseException:
            await self.stop(0.0)
            raise
        if self.settings.max_concurrency:
            logger.info("worker %s started, max_concurrency %d", self.worker_id, self.settings.max_concurrency)
        else:
            logger.info("%s started: it accepts tasks, and workers elsewhere run them", self.worker_id)

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Drain, stop what still runs, give back what may run again, and close the store.

        Idempotent; a stop under way is waited for, and goes on where its caller is cancelled.
        """
        if self._started:
            self._started = False
            drain_seconds = self.settings.drain_seconds if drain_seconds is None else drain_seconds
            self._stopping = asyncio.create_task(self._stop(drain_seconds), name="raincheck-stop")
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    async def _stop(self, drain_seconds: float) -> None:
        async with AsyncExitStack() as parts:
            # The last one first; one that fails to stop keeps none of the others.
            parts.callback(leave_loop)
            parts.callback(let_child_tasks_go)
            parts.push_async_callback(self._store.close)
            parts.push_async_callback(self.results.close)
            parts.push_async_callback(self._store_clock.stop)
            parts.push_async_callback(self.patience.stop)
            parts.push_async_callback(self.history.stop)
            parts.push_async_callback(self._changes.stop)
            parts.push_async_callback(self._heartbeat.stop)
            parts.push_async_callback(self._limiter.stop)
            parts.push_async_callback(self._deliverer.stop, min(_DELIVERY_SECONDS, self.settings.drain_seconds))
            parts.push_async_callback(self._sweeper.stop)
            parts.push_async_callback(self._close_executors)
            parts.push_async_callback(self.registry.stop)
            parts.push_async_callback(self._upstream_cleanup.stop)
            await self._end_attempts(drain_seconds)
        logger.info("%s%s stopped", "worker " if self.settings.max_concurrency else "", self.worker_id)

    async def _end_attempts(self, drain_seconds: float) -> None:
        await self._engine.stop(drain_seconds)
        self._runner.interrupt_all()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._engine.join()
        except TimeoutError:
            logger.error("%d tasks would not stop; their leases will run out", self._engine.running)

    async def unready(self, seconds: float) -> str | None:
        """Why this process should get no work now, or None; the store has `seconds` to answer. Tells nothing secret.

        A store that can only be read takes no tasks: so it is written to, at most once a second however often is asked.
        """
        if not self._started:
            return "this process is stopping, or not started yet"
        if self._sweeper.failing:
            return "the task store is not available"
        if monotonic() - self._seen_ready_at < _READY_SECONDS:
            return None
        try:
            async with asyncio.timeout(seconds):
                await self._store.get(_READINESS)
                await self._write_a_record()
        except TimeoutError:
            return f"the task store did not answer within {seconds:g} s"
        except StoreError as error:
            logger.warning("not ready: %s", error.message)
            return "the task store is not available"
        self._seen_ready_at = monotonic()
        return None

    async def _write_a_record(self) -> None:
        there = await self._store.get_record(_READINESS, self.worker_id)
        version = 1 if there is None else there.version + 1
        expires_at = self.clock() + _READINESS_KEPT
        record = Record(kind=_READINESS, key=self.worker_id, value=None, version=version, expires_at=expires_at)
        await self._store.put_record(record)

    def _ended(self, ended: TaskEnded) -> None:
        task = ended.task
        task_log.ended(task)
        self.history.settled(task)
        self._limiter.settled(task)
        self._failures.settled(task.operation_type, failed=task.status is TaskStatus.FAILED)
        if ended.delivery:
            self._deliverer.wake()

    async def _close_executors(self) -> None:
        async with AsyncExitStack() as executors:
            for operation in tuple(self._operations.values()):
                close: Callable[[], Awaitable[None]] | None = getattr(operation.executor, "aclose", None)
                if close is not None:
                    executors.push_async_callback(close)
