"""Change notifications on Redis: one subscribed connection while there is a listener."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import Any, cast

from redis.exceptions import RedisError

from raincheck.errors import StoreError
from raincheck.stores.redis.connections import Address, Wire
from raincheck.stores.redis.errors import is_answer, store_error
from raincheck.stores.redis.rows import text_from
from raincheck.stores.redis.scripts import encode_command
from raincheck.stores.shared.listeners import Listeners

logger = logging.getLogger(__name__)

_PING = encode_command((b"PING",))
_AGAIN_SECONDS = 0.2


class Pushes:
    """Tells listeners of other processes' changes.

    A message is lost where the connection is, and one that was never sent where its writer died: so listeners also hear
    None after every new connection and every `poll_interval` seconds.

    Args:
        poll_interval: Seconds between looks in any case.
    """

    def __init__(self, address: Address, listeners: Listeners, *, poll_interval: float) -> None:
        self._address = address
        self._listeners = listeners
        self._poll_interval = poll_interval
        self._own = secrets.token_hex(6).encode()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ended: set[asyncio.Task[None]] = set()

    def message(self, task_refs: list[bytes]) -> bytes:
        """What tells the others of these tasks, "" for none."""
        if not task_refs:
            return b""
        if any(b"\n" in ref for ref in task_refs):
            return self._own
        return b"\n".join((self._own, *task_refs))

    def open(self) -> None:
        """From now on it may be told to watch; called on the store's event loop."""
        self._loop = asyncio.get_running_loop()

    def watch(self, watching: bool) -> None:
        """Listen to the others, or stop listening. The event loop need not be running at the moment."""
        if self._loop is None:
            return
        if watching and not self._tasks:
            self._tasks = [
                self._loop.create_task(self._listen_loop(), name="raincheck-redis-pushes"),
                self._loop.create_task(self._look_loop(), name="raincheck-redis-looks"),
            ]
        elif not watching:
            for task in self._tasks:
                task.cancel()
                self._ended.add(task)
                task.add_done_callback(self._ended.discard)
            self._tasks = []

    async def close(self) -> None:
        """Stop listening, and let go of the connection."""
        self.watch(False)
        self._loop = None
        await asyncio.gather(*self._ended, return_exceptions=True)

    async def _look_loop(self) -> None:
        while True:
            await asyncio.sleep(self._poll_interval)
            self._listeners.tell(None)

    async def _listen_loop(self) -> None:
        told = False
        while True:
            try:
                await self._listen()
            except (RedisError, OSError, StoreError, TimeoutError) as error:
                if not told:
                    message = error.message if isinstance(error, StoreError) else self._said(error)
                    logger.warning("cannot hear of changes of other processes, looking for them instead: %s", message)
                told = True
            else:
                told = False
            await asyncio.sleep(_AGAIN_SECONDS)

    def _said(self, error: Exception) -> str:
        return store_error(error, self._address.place).message

    async def _listen(self) -> None:
        """Subscribe and listen until the connection is lost; raises only where it could not be made."""
        wire = self._address.wire()
        pinging: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._address.timeout_seconds):
                await wire.connect()
                command = encode_command((b"SUBSCRIBE", self._address.root + b"changes"))
                await wire.send_packed_command(command, check_health=False)
                await self._read(wire)
            pinging = asyncio.create_task(self._ping_loop(wire), name="raincheck-redis-ping")
            self._listeners.tell(None)
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self._hear(wire)
        finally:
            if pinging is not None:
                pinging.cancel()
                await asyncio.gather(pinging, return_exceptions=True)
            with contextlib.suppress(RedisError, OSError):
                await wire.disconnect(nowait=True)

    async def _ping_loop(self, wire: Wire) -> None:
        # Of a connection that leads nowhere any more, nothing else would tell.
        with contextlib.suppress(RedisError, OSError):
            while True:
                await asyncio.sleep(self._address.timeout_seconds / 2)
                await wire.send_packed_command(_PING, check_health=False)

    async def _hear(self, wire: Wire) -> None:
        while True:
            async with asyncio.timeout(self._address.timeout_seconds):
                answer = await self._read(wire)
            kind, *_, data = answer
            if kind == b"message":
                self._tell(cast("bytes", data))

    async def _read(self, wire: Wire) -> list[Any]:
        try:
            answer = await wire.read_response(disable_decoding=True, disconnect_on_error=False)
        except RedisError as error:
            if is_answer(error):
                raise StoreError(self._said(error)) from error
            raise
        return answer

    def _tell(self, data: bytes) -> None:
        sender, *refs = data.split(b"\n")
        if sender == self._own:
            return
        if not refs:
            self._listeners.tell(None)
        for ref in refs:
            self._listeners.tell(text_from(ref))
