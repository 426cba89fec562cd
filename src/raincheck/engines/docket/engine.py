"""The engine on docket (Redis streams): `pydocket` brings the ids of tasks to its workers.

A client that can write to the queue's Redis can run code in the workers: docket pickles its jobs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from docket import Docket, Worker
from docket.dependencies import Dependency
from key_value.aio.stores.null import NullStore
from redis.asyncio import Redis

from raincheck.domain.task import Task
from raincheck.engines.docket.redis import (
    address_of,
    mapped,
    ping,
    place_of,
    probe_of,
    remove_idle_consumers,
    with_query,
)
from raincheck.engines.queue.engine import Jobs, QueuedEngine
from raincheck.ports.engine import EngineFactory
from raincheck.ports.task_store import TaskStore
from raincheck.ports.tls import Tls

_FUNCTION = "raincheck_task"
_CHECK = timedelta(milliseconds=20)
_REDELIVERY_SECONDS = 45.0
# Nothing of ours is scheduled for later.
_SCHEDULING = timedelta(seconds=10)
_RECONNECTION = timedelta(seconds=1)
_STOP_SECONDS = 2.0
_CONSUMER_IDLE_MS = 600_000
_CONSUMERS_SECONDS = 60.0


def docket_engine(
    url: str,
    *,
    name: str,
    reconcile_seconds: float,
    tls: Tls | None = None,
    redelivery_seconds: float = _REDELIVERY_SECONDS,
) -> EngineFactory:
    """What makes the engine on docket.

    Args:
        url: The Redis server: `redis://…`, `rediss://…` or `unix://…`.
        name: The docket's name, which starts each of its keys.
        reconcile_seconds: How long a task may be pending before it counts as lost by the queue.
        tls: Certificates beyond what the address says.
        redelivery_seconds: When docket brings again what a worker took and did not end; tasks do not wait for it.

    Raises:
        ConfigurationError: The address is none.
    """
    address = address_of(url, tls)

    def make(
        store: TaskStore,
        operation_types: Callable[[], Collection[str]],
        *,
        max_concurrency: int,
        clock: Callable[[], datetime],
    ) -> QueuedEngine:
        return QueuedEngine(
            store,
            operation_types,
            _DocketQueue(address, name=name, concurrency=max_concurrency, redelivery_seconds=redelivery_seconds),
            max_concurrency=max_concurrency,
            reconcile_seconds=reconcile_seconds,
            clock=clock,
        )

    return make


class _DocketQueue:
    """See `raincheck.engines.queue.engine.Queue`."""

    def __init__(self, address: str, *, name: str, concurrency: int, redelivery_seconds: float) -> None:
        self._address = address
        self._docket_name = name
        self._concurrency = concurrency
        self._redelivery = timedelta(seconds=redelivery_seconds)
        self._docket: Docket | None = None
        self._probe: Redis | None = None
        self._opening = asyncio.Lock()
        self._jobs: Jobs | None = None
        self._consumers_at = 0.0

    @property
    def name(self) -> str:
        """See `Queue.name`."""
        return f"the docket {self._docket_name!r} at {place_of(self._address)}"

    async def open(self) -> None:
        """See `Queue.open`."""
        async with self._opening:
            if self._docket is not None:
                return
            probe = self._probe or probe_of(self._address)
            self._probe = probe
            with mapped():
                await ping(probe)
            self._docket = await self._enter_docket()

    async def _enter_docket(self) -> Docket:
        _quiet()
        docket = Docket(
            name=self._docket_name,
            # Connections are taken for a command at a time; all jobs of a batch may want one at once.
            url=with_query(self._address, max_connections=str(self._concurrency + 20)),
            execution_ttl=timedelta(0),
            result_storage=NullStore(stable_api=True),
        )

        async def run_task(task_ref: str) -> None:
            if self._jobs is not None:
                await self._jobs.run(task_ref)

        # docket's own demonstration tasks cannot be called here.
        docket.tasks.clear()
        docket.register(run_task, names=[_FUNCTION])
        await docket.__aenter__()
        return docket

    async def send(self, tasks: Sequence[Task]) -> None:
        """See `Queue.send`."""
        await self.open()
        docket = self._docket
        assert docket is not None
        calls = [docket.call(_FUNCTION, key=task.task_ref)(task.task_ref) for task in tasks if task.attempt == 0]
        # A task that came back from a dead worker: docket still has its key as running.
        again = [docket.call(_FUNCTION, key=task.task_ref)(task.task_ref) for task in tasks if task.attempt > 0]
        with mapped():
            executions = [*await docket.add_many(calls), *await docket.replace_many(again)]
            for execution in executions:
                if execution.schedule_exception is not None:
                    raise execution.schedule_exception

    async def work(self, jobs: Jobs, stopping: asyncio.Event) -> None:
        """See `Queue.work`."""
        assert self._docket is not None
        self._jobs = jobs
        worker = Worker(
            self._docket,
            name=f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}",
            concurrency=self._concurrency,
            redelivery_timeout=self._redelivery,
            reconnection_delay=_RECONNECTION,
            minimum_check_interval=_CHECK,
            scheduling_resolution=_SCHEDULING,
            schedule_automatic_tasks=False,
            dependencies=[_session(jobs.let_go)],
        )
        await worker.__aenter__()
        running = asyncio.create_task(worker.run_forever(), name="raincheck-docket")
        waiting = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            await self._stop(worker, running, jobs)
        with mapped():
            running.result()

    async def _stop(self, worker: Worker, running: asyncio.Task[None], jobs: Jobs) -> None:
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await worker.__aexit__(None, None, None)
        except TimeoutError:
            # A Redis that does not answer: docket waits for it in more than one place.
            while not running.done():
                running.cancel()
                jobs.let_go()
                await asyncio.wait({running}, timeout=0.5)

    async def maintain(self, pending: Callable[[str], Awaitable[bool]]) -> None:
        """See `Queue.maintain`."""
        probe = self._probe
        assert probe is not None
        with mapped():
            await ping(probe)
            loop = asyncio.get_running_loop()
            if self._concurrency and loop.time() > self._consumers_at:
                self._consumers_at = loop.time() + _CONSUMERS_SECONDS
                await remove_idle_consumers(probe, f"{self._docket_name}:stream", idle_ms=_CONSUMER_IDLE_MS)

    async def close(self) -> None:
        """See `Queue.close`."""
        docket, self._docket = self._docket, None
        probe, self._probe = self._probe, None
        if docket is not None:
            await docket.__aexit__(None, None, None)
        if probe is not None:
            await probe.aclose()
            await probe.connection_pool.disconnect()


def _session(ended: Callable[[], None]) -> Dependency[None]:
    """Hears of the end of docket's hold on its jobs: it stops, or lost Redis; docket then waits for the jobs' end."""

    class Session(Dependency[None]):
        @classmethod
        @asynccontextmanager
        async def worker_lifecycle(cls, docket: Docket, worker: Worker) -> AsyncGenerator[None]:
            try:
                yield
            finally:
                ended()

        async def __aenter__(self) -> None: ...

    return Session()


def _quiet() -> None:
    """docket tells of every job, and of each command that fails; the engine says once that the queue is away."""
    log = logging.getLogger("docket")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)
