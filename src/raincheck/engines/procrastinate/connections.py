"""Connections to procrastinate's PostgreSQL that can be cut off.

Waiting for a server is bounded by cutting the connections: what waits on one then fails at once. Cancelling would ask
the server, which may be the one that does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from raincheck.engines.procrastinate.schema import mapped
from raincheck.engines.queue.publisher import QueueUnavailable


class Connections:
    """Makes connections, and can cut them all.

    Attributes:
        kind: The class to make them with.
    """

    def __init__(self) -> None:
        made: WeakSet[AsyncConnection[Any]] = WeakSet()

        class Connection(AsyncConnection[Any]):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                made.add(self)

        self._made = made
        self.kind: type[AsyncConnection[Any]] = Connection

    def pool(self, parameters: dict[str, Any], *, size: int, seconds: float) -> AsyncConnectionPool[Any]:
        """A pool of them, not yet open."""
        return AsyncConnectionPool(
            kwargs=parameters,
            connection_class=self.kind,
            min_size=0,
            max_size=size,
            timeout=seconds,
            # A further attempt comes with the next that wants a connection.
            reconnect_timeout=seconds,
            configure=_autocommit,
            open=False,
        )

    def cut(self) -> None:
        """Requests that wait on one of them fail now."""
        for connection in tuple(self._made):
            if not connection.closed:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as copy:
                    copy.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def answering(self, seconds: float) -> Generator[None]:
        """Within this, a server that does not answer in time is `QueueUnavailable`, as is every error of its.

        Raises:
            QueueUnavailable, QueueRefused: The server does not answer, or says no.
        """
        late = False

        def cut() -> None:
            nonlocal late
            late = True
            self.cut()

        timer = asyncio.get_running_loop().call_later(seconds, cut)
        try:
            with mapped():
                yield
        except QueueUnavailable:
            if late:
                raise QueueUnavailable(f"PostgreSQL does not answer within {seconds:g} s") from None
            raise
        finally:
            timer.cancel()


async def _autocommit(connection: AsyncConnection[Any]) -> None:
    # Each of procrastinate's statements is a transaction of its own; BEGIN and COMMIT would be two more round trips.
    await connection.set_autocommit(True)
