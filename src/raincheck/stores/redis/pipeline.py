"""One connection of a Redis store, shared by all its callers: what waits is sent together, answers come back in order.

Every command may be sent twice: a write names itself (a nonce), and a script that finds its nonce answers as it did.
So a lost connection is no question of what was done: everything unanswered is sent again on the next one. What arrives
after its caller was told that it did not (a frozen server that goes on) is refused by the script itself, which knows
when the caller gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, cast

from redis.exceptions import RedisError

from raincheck.errors import StoreError, StoreUnavailable
from raincheck.stores.redis.commands import Call, ServerClock, Write
from raincheck.stores.redis.connections import Address, Wire, newer_layout, server_seconds
from raincheck.stores.redis.errors import code_of, is_answer, never_helps_soon, no_answer, store_error
from raincheck.stores.redis.scripts import SCRIPTS, encode_command

logger = logging.getLogger(__name__)

_RECONNECT_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.4)
# Bounds what is copied to be sent in one piece.
_MOST_CALLS = 500
_MOST_BYTES = 1024 * 1024

_LOAD = b"".join(encode_command((b"SCRIPT", b"LOAD", script.text)) for script in SCRIPTS.values())
_TIME = encode_command((b"TIME",))


class Pipeline:
    """A connection that comes back by itself while it is needed.

    Args:
        address: The server.
        clock: Set whenever the server tells its time.
        news: The message that tells other processes of these tasks.
    """

    def __init__(self, address: Address, clock: ServerClock, news: Callable[[list[bytes]], bytes]) -> None:
        self._address = address
        self._clock = clock
        self._news = news
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Call] = deque()
        self._sent: deque[Call] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._wire: Wire | None = None
        self._closing = False
        self._broken: asyncio.Future[StoreError] | None = None
        self._trouble: StoreError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def load(self) -> int:
        """How many calls are under way."""
        return len(self._waiting) + len(self._sent)

    async def open(self) -> Wire:
        """Connect now; the connection, for what is to be asked before the first call.

        Raises:
            StoreError: It cannot be reached, or refuses.
        """
        try:
            await self._connect()
        except (RedisError, OSError) as error:
            raise store_error(error, self._address.place) from error
        assert self._wire is not None
        return self._wire

    def start(self) -> None:
        """Begin to send what is put."""
        self._task = asyncio.create_task(self._run(), name="raincheck-redis-pipeline", context=Context())

    async def close(self) -> None:
        """Wait for the answers to what was put, then disconnect. Idempotent."""
        self._closing = True
        if self._task is not None:
            await self._idle.wait()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._disconnect()

    def put(self, call: Call) -> None:
        """Send it with whatever else waits.

        Raises:
            StoreUnavailable: The pipeline is closing.
        """
        if self._closing:
            raise StoreUnavailable(f"The task store {self._address.place} is closed.")
        call.give_up_at = self._loop.time() + self._address.timeout_seconds
        call.late_at = call.give_up_at - self._address.timeout_seconds / 10
        self._waiting.append(call)
        self._wake.set()
        self._idle.clear()
        if self._timer is None:
            self._timer = self._loop.call_at(call.give_up_at, self._expire)

    # The connection's life.

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                if self._wire is None:
                    await self._wake.wait()
                    await self._connect()
                failures = 0
                await self._serve()
            except (RedisError, OSError, StoreError) as error:
                self._lost(error)
            except Exception as error:  # the loop must outlive a bug: without it no call is ever answered
                logger.exception("a connection to the task store failed")
                self._lost(error)
            await self._disconnect()
            await asyncio.sleep(_RECONNECT_SECONDS[min(failures, len(_RECONNECT_SECONDS) - 1)])
            failures += 1

    def _lost(self, error: Exception) -> None:
        self._trouble = error if isinstance(error, StoreError) else store_error(error, self._address.place)
        for call in self._sent:
            call.unanswered = True
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
        if never_helps_soon(error):
            for call in self._waiting:
                call.fail(self._trouble)
        self._drop_the_dead()

    async def _connect(self) -> None:
        wire = self._address.wire()
        self._wire = wire
        try:
            async with asyncio.timeout(self._address.timeout_seconds):
                await wire.connect()
                await wire.send_packed_command(_LOAD + _TIME, check_health=False)
                answers = [await self._read(wire) for _ in range(len(SCRIPTS) + 1)]
        except TimeoutError:
            await self._disconnect()
            raise no_answer(self._address.place, self._address.timeout_seconds) from None
        except BaseException:
            await self._disconnect()
            raise
        for answer in answers:
            if isinstance(answer, Exception):
                await self._disconnect()
                raise answer
        self._clock.set(server_seconds(answers[-1]), self._loop.time())
        self._trouble = None

    async def _disconnect(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            with contextlib.suppress(RedisError, OSError):
                await wire.disconnect(nowait=True)

    async def _serve(self) -> None:
        wire = self._wire
        assert wire is not None
        self._broken = self._loop.create_future()
        receiver = asyncio.create_task(self._receive(wire), name="raincheck-redis-receiver")
        sender = asyncio.create_task(self._send_loop(wire), name="raincheck-redis-sender")
        try:
            await asyncio.wait({receiver, sender, self._broken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            broken, self._broken = self._broken, None
            receiver.cancel()
            sender.cancel()
            results = await asyncio.gather(receiver, sender, return_exceptions=True)
        if broken.done():
            raise broken.result()
        for result in results:
            if isinstance(result, Exception):
                raise result

    def _break(self, error: StoreError) -> None:
        """Give the connection up; what it has not answered is sent again on the next one."""
        if self._broken is not None and not self._broken.done():
            self._broken.set_result(error)

    # Sending and receiving.

    async def _send_loop(self, wire: Wire) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._batch():
                data = self._encoded(batch)
                self._sent.extend(batch)
                await wire.send_packed_command(data, check_health=False)
            self._rest_if_idle()

    def _batch(self) -> list[Call]:
        batch: list[Call] = []
        size = 0
        while self._waiting and len(batch) < _MOST_CALLS and size < _MOST_BYTES:
            call = self._waiting.popleft()
            if not call.done.done():
                batch.append(call)
                size += call.size
        return batch

    def _encoded(self, batch: list[Call]) -> bytes:
        # The last of the writes tells of all, so that many changes are one message.
        told = [call for call in batch if isinstance(call, Write) and call.task_ref is not None]
        last = told[-1] if told else None
        news = self._news([cast("bytes", call.task_ref) for call in told])
        return b"".join([call.encoded(self._clock, news if call is last else b"") for call in batch])

    async def _receive(self, wire: Wire) -> None:
        while True:
            answer = await self._read(wire)
            if not self._sent:
                raise OSError("an answer that nobody asked for")
            self._settle(self._sent.popleft(), answer)
            if not self._sent:
                self._rest_if_idle()

    async def _read(self, wire: Wire) -> Any:
        try:
            return await wire.read_response(disable_decoding=True, disconnect_on_error=False)
        except RedisError as error:
            if is_answer(error):
                return error
            raise

    def _settle(self, call: Call, answer: Any) -> None:
        if isinstance(answer, Exception):
            code = code_of(answer)
            if code == "NOSCRIPT":
                call.by_text()
                self._again(call)
            else:
                error = store_error(answer, self._address.place)
                call.fail(error)
                if code in ("READONLY", "MASTERDOWN"):
                    # After a failover the name may stand for another machine.
                    self._break(error)
        elif isinstance(call, Write) and isinstance(answer, list):
            self._settle_write(call, cast("list[Any]", answer))
        else:
            call.finish(answer)

    def _settle_write(self, call: Write, answer: list[Any]) -> None:
        kind = answer[0] if answer else None
        if kind == b"late":
            # Either it was late indeed and its caller has gone, or one of the clocks was set.
            self._clock.set(server_seconds(answer), self._loop.time())
            if self._loop.time() < call.late_at:
                self._again(call)
            else:
                # It looked for its own trace first: it was not done, and will not be.
                call.unanswered = False
                call.fail(no_answer(self._address.place, self._address.timeout_seconds))
        elif kind == b"layout":
            call.fail(newer_layout(answer[1], self._address.place))
        else:
            call.finish(answer)

    def _again(self, call: Call) -> None:
        self._waiting.append(call)
        self._wake.set()

    # Giving up.

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        silence = no_answer(self._address.place, self._address.timeout_seconds)
        if any(call.give_up_at <= now for call in self._sent):
            # It may lead nowhere any more, which no error would ever tell.
            self._break(silence)
        for call in self._sent:
            call.unanswered = call.unanswered or call.give_up_at <= now
        for call in (*self._sent, *self._waiting):
            if call.give_up_at <= now:
                call.fail(self._trouble or silence)
        self._drop_the_dead()
        times = [call.give_up_at for call in (*self._sent, *self._waiting)]
        if times:
            self._timer = self._loop.call_at(max(min(times), now + 0.01), self._expire)

    def _drop_the_dead(self) -> None:
        self._waiting = deque(call for call in self._waiting if not call.done.done())
        if self._waiting:
            self._wake.set()
        else:
            self._wake.clear()
        self._rest_if_idle()

    def _rest_if_idle(self) -> None:
        if not self._waiting and not self._sent:
            self._idle.set()
