"""Daemon threads for synchronous operations.

Not `concurrent.futures`: its threads are joined at exit, so one hung function would keep the server from ending. A
thread cannot be killed; when its caller is cancelled it is *abandoned*: the caller goes on at once, the thread stays
until its function returns. The pool has no upper bound of its own (the engine's `max_concurrency` is the bound), so
that abandoned threads take no place from others; `abandoned()` says how many there are.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from raincheck.errors import OperationFailed
from raincheck.operations.exhaustion import exhausted
from raincheck.operations.lease import current_lease

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, slots=True)
class _Call:
    run: Callable[[], Any]
    name: str
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    returned: Callable[[], None] | None = None
    late: Callable[[Any, BaseException | None], None] | None = None
    began: bool = False
    finished: bool = False
    abandoned: bool = False
    warning: asyncio.TimerHandle | None = None

    def deliver(self, value: Any, error: BaseException | None) -> None:
        if self.returned is not None:
            self.returned()
        if self.warning is not None:
            self.warning.cancel()
        if self.future.done():
            return
        if error is None:
            self.future.set_result(value)
        elif isinstance(error, StopIteration):  # a future refuses it
            self.future.set_exception(OperationFailed("the operation raised StopIteration"))
        else:
            self.future.set_exception(error)


class _Worker:
    """One thread and its inbox. Calls are handed to one worker, so a retiring one can lose none."""

    def __init__(self, pool: ThreadPool) -> None:
        self.inbox: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._pool = pool
        self._thread = threading.Thread(target=self._work, name="raincheck-idle", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _work(self) -> None:
        while True:
            try:
                call = self.inbox.get(timeout=self._pool.idle_seconds)
            except queue.Empty:
                if self._pool.retire(self):
                    return
                call = self.inbox.get()
            self._thread.name = f"raincheck-{call.name}"
            value: Any = None
            error: BaseException | None = None
            try:
                # Whose caller has gone before it begins does not begin.
                if not call.abandoned:
                    call.began = True
                    value = call.run()
            except BaseException as raised:  # noqa: BLE001 - handed to the caller, whatever it is
                error = raised
            self._thread.name = "raincheck-idle"
            self._pool.finished(self, call)
            if call.abandoned and call.began and call.late is not None:
                call.late(value, error)
            try:
                call.loop.call_soon_threadsafe(call.deliver, value, error)
            except RuntimeError:
                _logger.debug("the event loop closed before a thread of %r ended", call.name)
            # An idle thread must not keep the last call's values alive.
            del call, value, error


class ThreadPool:
    """Threads that grow on demand, are reused, and end after `idle_seconds` without work."""

    def __init__(self, *, idle_seconds: float = 30.0, warn_after_seconds: float = 5.0) -> None:
        self.idle_seconds = idle_seconds
        self._warn_after = warn_after_seconds
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy = 0
        self._abandoned = 0

    def busy(self) -> int:
        """How many threads run a function now, abandoned ones included."""
        return self._busy

    def abandoned(self) -> int:
        """How many threads still run a function whose caller was cancelled."""
        return self._abandoned

    def idle(self) -> int:
        """How many threads wait for work."""
        return len(self._idle)

    async def run(
        self,
        function: Callable[[], _T],
        *,
        name: str,
        late: Callable[[Any, BaseException | None], None] | None = None,
    ) -> _T:
        """Call `function` in a thread, with a copy of the caller's context variables; `name` is for thread and log.

        What it returns or raises after its caller was cancelled is told to `late`, in the thread.

        Cancelling abandons the thread: `CancelledError` goes through at once. A thread that still runs
        `warn_after_seconds` later is logged as a warning, once.

        Raises:
            BaseException: What the function raised.
            ResourcesExhausted: The system gives no more threads.
        """
        loop, lease = asyncio.get_running_loop(), current_lease()
        call = _Call(
            run=partial(contextvars.copy_context().run, function),
            name=name,
            loop=loop,
            future=loop.create_future(),
            late=late,
        )
        self._hand_over(call)
        if lease is not None:
            call.returned = lease.thread_works()
        try:
            return await call.future
        except asyncio.CancelledError:
            self._abandon(call)
            raise

    def _hand_over(self, call: _Call) -> None:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
            self._busy += 1
        if worker is None:
            worker = _Worker(self)
            try:
                worker.start()
            except RuntimeError as error:
                with self._lock:
                    self._busy -= 1
                raise exhausted("threads", f"run operation {call.name!r}") from error
        worker.inbox.put(call)

    def _abandon(self, call: _Call) -> None:
        with self._lock:
            if call.finished:
                return
            call.abandoned = True
            self._abandoned += 1
        call.warning = call.loop.call_later(self._warn_after, self._warn, call)

    def _warn(self, call: _Call) -> None:
        if not call.finished:
            _logger.warning(
                "operation %r was told to stop %g s ago and its thread still runs (%d such threads); "
                'check context.cancelled in its loops, or declare isolation = "process"',
                call.name,
                self._warn_after,
                self._abandoned,
            )

    def finished(self, worker: _Worker, call: _Call) -> None:
        """Take the thread back (called by the thread)."""
        with self._lock:
            call.finished = True
            self._busy -= 1
            self._abandoned -= call.abandoned
            self._idle.append(worker)

    def retire(self, worker: _Worker) -> bool:
        """Whether an idle thread may end; False when a call is on its way to it (called by the thread)."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            return True


THREADS = ThreadPool()
"""The pool that operations of kind python share."""
