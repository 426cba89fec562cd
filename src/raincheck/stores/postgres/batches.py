"""The statement batcher: concurrent requests go to PostgreSQL in one statement.

While one statement is under way, what comes in waits and goes together in the next. Whatever the server does, a caller
has an answer within the store's timeout: a connection that is lost is replaced, and what went with it is asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, ClassVar, Generic, TypeVar

import psycopg

from raincheck.errors import StoreError, StoreUnavailable
from raincheck.stores.postgres.connections import Connection, Connections
from raincheck.stores.postgres.errors import is_lost, may_pass, store_error

logger = logging.getLogger(__name__)

# Bounds how long the first of a burst waits for the last, and the size of a statement.
_LARGEST_BATCH = 500
_LARGEST_BYTES = 8 * 1024 * 1024
# With less than that part of the timeout left, nothing is sent.
_LAST_TRY = 0.1
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4)


class Request:
    """Something wanted of the server.

    Attributes:
        done: Where the answer goes.
        size: About how many bytes it sends.
        doubtful: Whether it was sent once, and the connection was lost before the answer.
        sent: Whether it is on its way, or `doubtful`: the server may carry it out.
        writes: Whether it changes anything.
    """

    __slots__ = ("done", "doubtful", "give_up_at", "sent", "size")

    writes: ClassVar[bool] = False

    def __init__(self, done: asyncio.Future[Any], size: int = 0) -> None:
        self.done = done
        self.size = size
        self.doubtful = False
        self.sent = False
        self.give_up_at = 0.0


_R = TypeVar("_R", bound=Request)


class StatementBatcher(Generic[_R]):
    """Serves requests of one kind, those that wait together.

    Args:
        serve: Answers requests with a connection, within so many seconds; those that it leaves without an answer come
            again. It sends nothing that may not be sent twice, given `Request.doubtful`.
        at_once: How many statements may be under way.
        alone: Whether each request has a statement of its own.
        ready: Whether a request may go now; one that may not waits for `StatementBatcher.wake`.
    """

    def __init__(
        self,
        connections: Connections,
        serve: Callable[[Connection, Sequence[_R], float], Awaitable[None]],
        *,
        at_once: int,
        alone: bool = False,
        ready: Callable[[_R], bool] | None = None,
    ) -> None:
        self._connections = connections
        self._serve = serve
        self._at_once = at_once
        self._largest = 1 if alone else _LARGEST_BATCH
        self._ready = ready
        self._queue: deque[_R] = deque()
        self._outstanding: deque[_R] = deque()
        self._serving = 0
        self._servers: set[asyncio.Task[None]] = set()
        self._watchdog: asyncio.TimerHandle | None = None
        self._trouble: BaseException | None = None

    def put(self, request: _R) -> None:
        """Add a request; its `done` has the answer, or an error, within the store's timeout."""
        loop = asyncio.get_running_loop()
        request.give_up_at = loop.time() + self._connections.address.timeout_seconds
        self._queue.append(request)
        self._outstanding.append(request)
        if self._watchdog is None:
            self._watchdog = loop.call_at(request.give_up_at, self._give_up)
        self.wake()

    def wake(self) -> None:
        """Look for requests that may go now."""
        if self._queue and self._serving < self._at_once:
            self._serving += 1
            server = asyncio.create_task(self._run(), name="raincheck-postgres", context=Context())
            self._servers.add(server)
            server.add_done_callback(self._servers.discard)

    async def drain(self) -> None:
        """Wait until every request has its answer."""
        while self._servers or self._queue:
            if self._servers:
                await asyncio.wait(self._servers)
            else:
                await asyncio.wait([request.done for request in self._queue])
                self._queue.clear()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._outstanding.clear()

    def _give_up(self) -> None:
        loop = asyncio.get_running_loop()
        self._watchdog = None
        now = loop.time()
        while self._outstanding:
            request = self._outstanding[0]
            if not request.done.done():
                if request.give_up_at > now:
                    self._watchdog = loop.call_at(request.give_up_at, self._give_up)
                    return
                self._fail(request, self._trouble or TimeoutError())
            self._outstanding.popleft()

    def _forget_answered(self) -> None:
        while self._outstanding and self._outstanding[0].done.done():
            self._outstanding.popleft()

    async def _run(self) -> None:
        failures = 0
        try:
            while batch := self._take():
                if await self._settle(batch):
                    failures = 0
                    self._forget_answered()
                else:
                    await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                    failures += 1
        finally:
            self._serving -= 1

    def _take(self) -> list[_R]:
        batch: list[_R] = []
        passed: list[_R] = []
        size = 0
        address = self._connections.address
        too_late = asyncio.get_running_loop().time() + address.timeout_seconds * _LAST_TRY
        while self._queue and len(batch) < self._largest and size < _LARGEST_BYTES:
            request = self._queue.popleft()
            if request.done.done() or request.give_up_at < too_late:
                # Its caller went away, or will be told in a moment that it takes too long: it is not sent any more.
                continue
            if self._ready is not None and not self._ready(request):
                passed.append(request)
                continue
            batch.append(request)
            size += request.size
        self._queue.extendleft(reversed(passed))
        return batch

    async def _settle(self, batch: list[_R]) -> bool:
        """Answer these requests or put them back; whether the server could be asked."""
        loop = asyncio.get_running_loop()
        patience = self._connections.address.patience_seconds
        until = min(loop.time() + patience, *(request.give_up_at for request in batch))
        sent = False
        try:
            async with self._connections.one(until) as connection:
                sent = True
                for request in batch:
                    request.sent = True
                await self._serve(connection, batch, until - loop.time())
        except (psycopg.Error, TimeoutError, OSError, StoreError) as error:
            if may_pass(error):
                if is_lost(error):
                    await self._connections.forget_idle()
                if self._trouble is None or not isinstance(error, TimeoutError):
                    # That there was no time left says less than what was before.
                    self._trouble = error
                self._put_back(batch, doubtful=sent and is_lost(error))
                return False
            _taken_back(batch)
            await self._apart(batch, error)
        except Exception as error:  # boundary: a bug of ours must not leave callers without an answer
            logger.exception("a statement could not be served")
            for request in batch:
                self._fail(request, error)
        else:
            self._put_back(batch, doubtful=False)
        self._trouble = None
        return True

    async def _apart(self, batch: list[_R], error: BaseException) -> None:
        """One of them cannot be served: each by itself, so that the others can."""
        if len(batch) == 1 or isinstance(error, StoreError):
            for request in batch:
                self._fail(request, error)
            return
        for request in batch:
            if not request.done.done():
                await self._settle([request])

    def _put_back(self, batch: list[_R], *, doubtful: bool) -> None:
        for request in reversed(batch):
            if not request.done.done():
                request.sent = request.doubtful = request.doubtful or doubtful
                self._queue.appendleft(request)

    def _fail(self, request: _R, error: BaseException) -> None:
        if not request.done.done():
            known = isinstance(error, psycopg.Error | TimeoutError | OSError)
            mapped = store_error(error, self._connections.address.place) if known else error
            if mapped is not error:
                mapped.__cause__ = error
            if request.writes and request.sent and isinstance(mapped, StoreUnavailable):
                mapped.maybe_done = True
            request.done.set_exception(mapped)


def _taken_back(batch: Sequence[Request]) -> None:
    """The server answered that it did none of it."""
    for request in batch:
        request.sent = request.doubtful
