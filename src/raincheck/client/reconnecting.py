"""A session that connects anew after each loss."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, cast

from raincheck.client.errors import ConnectionLost
from raincheck.client.parsing import Session
from raincheck.client.retries import backoff, lost_connection
from raincheck.domain.logs import guard_logs

logger = logging.getLogger(__name__)

Connect = Callable[[], AbstractAsyncContextManager[Session]]
"""Opens one connection: what `ReconnectingSession` calls again after each loss."""

_Ask = Callable[[Session], Awaitable[Any]]

_HANDLE_TOOLS = frozenset(
    {
        "initiate_background_task",
        "resolve_task_status",
        "cancel_background_task",
        "provide_task_input",
        "list_background_tasks",
    }
)


class ReconnectingSession:
    """A session over connections that may be lost: the call under way fails, the next one connects anew.

    A call itself is never repeated here, since only its caller knows whether that is safe; the drivers repeat theirs.
    Each connection lives in a task of its own, so that an SDK which cancels the task that opened it harms no caller.

    Args:
        connect: Opens one connection.
        outage_seconds: How long a call waits for a server that does not come back, before `ConnectionLost`.
        answer_seconds: How long a handle tool may take to answer before its connection counts as lost.
    """

    def __init__(self, connect: Connect, *, outage_seconds: float = 60.0, answer_seconds: float = 45.0) -> None:
        guard_logs()
        self._connect = connect
        self._outage = outage_seconds
        self._answer = answer_seconds
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    async def __aenter__(self) -> Self:
        # The first connection is not waited for: what fails at once is most likely a wrong address or command.
        self._connection = await _Connection.opened(self._connect)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed = True
        if self._connection is not None:
            await self._connection.close()

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        """Call a tool over the present connection, or a new one.

        Raises:
            ConnectionLost: The server does not come back.
            Exception: What the SDK raises; where that tells of a lost connection, the next call connects anew.
        """
        seconds = self._answer if name in _HANDLE_TOOLS else None
        return await self._asked(lambda session: session.call_tool(name, arguments), seconds)

    async def read_resource(self, uri: str) -> Any:
        """Read a resource over the present connection, or a new one. Raises as `call_tool` does."""
        return await self._asked(lambda session: cast(Any, session).read_resource(uri), self._answer)

    async def _asked(self, ask: _Ask, seconds: float | None) -> Any:
        connection = await self._present()
        try:
            async with asyncio.timeout(seconds):
                return await connection.ask(ask)
        except Exception as error:
            if lost_connection(error):
                await self._drop(connection)
            raise

    async def _present(self) -> _Connection:
        async with self._connecting:
            if self._closed:
                raise ConnectionResetError("the session is closed")
            if self._connection is None or self._connection.lost:
                self._connection = await self._opened_again()
            return self._connection

    async def _opened_again(self) -> _Connection:
        until = time.monotonic() + self._outage
        attempt = 0
        while True:
            attempt += 1
            try:
                return await _Connection.opened(self._connect)
            except Exception as error:
                if isinstance(error, ConnectionLost) and not error.retryable:
                    raise
                pause = backoff(attempt)
                if time.monotonic() + pause > until:
                    raise ConnectionLost(f"The server did not come back within {self._outage:g} s.") from error
                logger.info("no connection yet, trying again in %.1f s: %s", pause, type(error).__name__)
            await asyncio.sleep(pause)

    async def _drop(self, connection: _Connection) -> None:
        if self._connection is connection:
            self._connection = None
        await connection.close()


class _Connection:
    """One connection, in a task of its own."""

    def __init__(self, connect: Connect) -> None:
        self._open: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()
        self._owner = asyncio.create_task(self._live(connect))

    @classmethod
    async def opened(cls, connect: Connect) -> _Connection:
        connection = cls(connect)
        try:
            await asyncio.wait({connection._open, connection._owner}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await connection.close()
            raise
        if not connection._open.done():
            raise connection._end()
        return connection

    @property
    def lost(self) -> bool:
        return self._owner.done() or self._closing.is_set()

    async def ask(self, ask: _Ask) -> Any:
        call = asyncio.ensure_future(ask(self._open.result()))
        try:
            await asyncio.wait({call, self._owner}, return_when=asyncio.FIRST_COMPLETED)
            # An SDK that tears the connection down cancels the calls under way too.
            if call.done() and not call.cancelled():
                return call.result()
            raise self._end()
        finally:
            if not call.done():
                call.cancel()
                await asyncio.wait({call})

    async def close(self) -> None:
        self._closing.set()
        if not self._owner.done():
            # A transport that hangs while it closes must not hold the caller.
            await asyncio.wait({self._owner}, timeout=10)
        if not self._owner.done():
            self._owner.cancel()
            await asyncio.wait({self._owner}, timeout=5)
        if self._owner.done() and not self._owner.cancelled() and self._owner.exception() is not None:
            logger.debug("the connection ended with an error", exc_info=self._owner.exception())

    def _end(self) -> Exception:
        failure = None if not self._owner.done() or self._owner.cancelled() else self._owner.exception()
        if isinstance(failure, ConnectionLost):
            return failure
        if self._open.done() or failure is None or lost_connection(failure):
            lost = ConnectionResetError("the connection to the server was lost")
            lost.__cause__ = failure
            return lost
        return failure if isinstance(failure, Exception) else ConnectionResetError(str(failure))

    async def _live(self, connect: Connect) -> None:
        async with connect() as session:
            with contextlib.suppress(asyncio.InvalidStateError):
                self._open.set_result(session)
            await self._closing.wait()
