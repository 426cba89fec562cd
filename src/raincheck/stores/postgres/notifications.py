"""Change notifications on PostgreSQL: NOTIFY in few and small transactions, and LISTEN.

Telling is not part of the writes: a transaction that notifies holds a lock of the whole server while it commits. A
notification that is lost is made up for: listeners also look now and then in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import LiteralString, cast

import psycopg

from raincheck.errors import StoreError
from raincheck.stores.postgres.connections import Connection, Connections, cut_off_at, quote
from raincheck.stores.postgres.errors import store_error

logger = logging.getLogger(__name__)

# PostgreSQL takes less than 8000 bytes.
_LARGEST_PAYLOAD = 7900
_GAP_SECONDS = 0.005
_LOOKS_BEFORE_A_PING = 5
_PAUSES = (0.05, 0.1, 0.2, 0.5)
_ANYTHING = "*"


class Signals:
    """One store's telling and listening.

    Args:
        tell: Called with the ref of a task that another store changed, or None when any may have been.
        poll_interval: Seconds between two Nones while it listens.
    """

    def __init__(
        self,
        connections: Connections,
        sql: Mapping[str, LiteralString],
        tell: Callable[[str | None], None],
        *,
        poll_interval: float,
    ) -> None:
        self._connections = connections
        self._sql = sql
        self._tell = tell
        self._poll_interval = poll_interval
        digest = hashlib.sha256(connections.address.schema.encode()).hexdigest()
        self._channel = f"raincheck_{digest[:16]}"
        self._sender_id = secrets.token_hex(8)
        self._loop = asyncio.get_running_loop()
        self._changed: dict[str, None] = {}
        self._sender: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def announce(self, ref: str) -> None:
        """This store has changed that task."""
        self._changed[ref] = None
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name="raincheck-postgres-notify", context=Context())

    def listen(self, listening: bool) -> None:
        """Begin or end to listen."""
        if listening and self._listener is None:
            self._listener = self._loop.create_task(self._listen_loop(), name="raincheck-postgres-listen")
        elif not listening and self._listener is not None:
            listener, self._listener = self._listener, None
            listener.cancel()
            self._ending.add(listener)
            listener.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Stop listening, and tell what is left to be told."""
        self.listen(False)
        for task in (*self._ending, *([self._sender] if self._sender else [])):
            await asyncio.gather(task, return_exceptions=True)

    async def _send_all(self) -> None:
        while self._changed:
            payload = self._payload()
            until = asyncio.get_running_loop().time() + self._connections.address.timeout_seconds
            try:
                async with self._connections.one(until) as connection:
                    await connection.execute(self._sql["notify"], {"channel": self._channel, "payload": payload})
            except (psycopg.Error, TimeoutError, OSError, StoreError) as error:
                # Others look by themselves within their interval.
                logger.debug("cannot tell of changes: %s", type(error).__name__)
                self._changed.clear()
                return
            await asyncio.sleep(_GAP_SECONDS)

    def _payload(self) -> str:
        parts = [self._sender_id]
        size = len(self._sender_id)
        while self._changed:
            ref = next(iter(self._changed))
            # Ours are short and plain; one that is not is told as "anything".
            part = ref if ref.isascii() and " " not in ref and len(ref) < 200 else _ANYTHING
            size += len(part) + 1
            if size > _LARGEST_PAYLOAD:
                break
            del self._changed[ref]
            parts.append(part)
        return " ".join(parts)

    async def _listen_loop(self) -> None:
        failures = 0
        while True:
            try:
                failures = await self._listen_once(failures)
            except (psycopg.Error, TimeoutError, OSError, StoreError) as error:
                if failures == 0:
                    place = self._connections.address.place
                    logger.warning("cannot hear of other processes' changes: %s", store_error(error, place).message)
                failures += 1
            self._tell(None)
            await asyncio.sleep(min(self._poll_interval, _PAUSES[min(failures, len(_PAUSES) - 1)]))

    async def _listen_once(self, failures: int) -> int:
        """Listen until the connection is lost."""
        loop = asyncio.get_running_loop()
        seconds = self._connections.address.timeout_seconds
        connection = await self._connections.connect(loop.time() + seconds)
        try:
            if not self._connections.direct:
                return await self._look_loop()
            with cut_off_at(connection, loop.time() + seconds):
                await connection.execute(cast("LiteralString", f"LISTEN {quote(self._channel)}"))
            if failures:
                logger.info("hearing of other processes' changes again")
            self._tell(None)
            await self._hear(connection, seconds)
        finally:
            await connection.close()
        return 0

    async def _look_loop(self) -> int:
        """A pooler is between, which no notification comes through."""
        while True:
            self._tell(None)
            await asyncio.sleep(self._poll_interval)

    async def _hear(self, connection: Connection, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for _ in range(_LOOKS_BEFORE_A_PING):
                async with contextlib.aclosing(connection.notifies(timeout=self._poll_interval)) as notifications:
                    async for notification in notifications:
                        self._heard(notification.payload.split(" "))
                self._tell(None)
            with cut_off_at(connection, loop.time() + seconds):
                await connection.execute("SELECT 1")

    def _heard(self, parts: Sequence[str]) -> None:
        sender, *refs = parts
        if sender == self._sender_id:
            return
        for ref in refs:
            self._tell(None if ref == _ANYTHING else ref)
