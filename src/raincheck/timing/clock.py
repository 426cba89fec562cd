"""Clocks: one wall clock for all processes on a store, and a monotonic one for intervals.

Leases and deadlines are compared by processes on different machines, whose wall clocks differ and jump. Where the
store has a clock of its own, every process reads that one, and goes on from it by the machine's uptime; where it has
none, all use the wall clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Protocol

from raincheck.errors import StoreError
from raincheck.timing.background import BackgroundLoop

logger = logging.getLogger(__name__)

# A store that tells its time in whole seconds is known the better the longer it is asked.
_SYNC_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
_JUMP_SECONDS = 1.0
_SMALL_DOUBT = 0.005
# By so much, at most, a second of this machine differs from one of the store's.
_DRIFT = 200e-6


_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", None)


def utc_now() -> datetime:
    """The wall clock: for what is stored and shown, never for measuring intervals."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds for intervals: never set, and going on while the machine sleeps (where the platform has such a clock).

    On Linux all processes of a machine read the same, from its start on.
    """
    return time.monotonic() if _CLOCK_ID is None else time.clock_gettime(_CLOCK_ID)


class TimeSource(Protocol):
    """What tells its own time: a `raincheck.ports.task_store.TaskStore`."""

    async def time(self) -> datetime | None:
        """See `raincheck.ports.task_store.TaskStore.time`."""
        ...


class StoreClock:
    """The clock of one process on a store; call it for the time. Safe to call from any thread.

    Args:
        source: The store.
        local: The machine's wall clock.

    Attributes:
        jumped_at: When the clock last jumped, on the clock of `elapsed`; minus infinity before the first time. A lease
            that seems to be over just after a jump may be a healthy one.
    """

    def __init__(self, source: TimeSource, local: Callable[[], datetime] = utc_now) -> None:
        self.jumped_at = float("-inf")
        self._source = source
        self._local = local
        self._anchor: tuple[datetime, float] | None = None
        self._doubt = 0.0
        self._offset: float | None = None
        self._pauses: Iterator[float] = chain(_SYNC_SECONDS[1:], repeat(_SYNC_SECONDS[-1]))
        self._loop = BackgroundLoop(
            "clock", self._synchronise, purpose="read the store's clock", seconds=_SYNC_SECONDS[0], at_once=False
        )

    def __call__(self) -> datetime:
        """The time, aware and in UTC."""
        if self._anchor is not None:
            at, since = self._anchor
            return at + timedelta(seconds=monotonic() - since)
        now = self._local()
        offset = now.timestamp() - monotonic()
        if self._offset is not None and abs(offset - self._offset) > _JUMP_SECONDS:
            self._jumped(offset - self._offset)
        self._offset = offset
        return now

    async def start(self) -> None:
        """Read the store's clock, and again and again; the store is open.

        Where it cannot be read now, the machine's clock has to do until it can: the calls themselves will say why.
        """
        try:
            # The first answer may have had to connect, or to set the clock; the second one tells when it was given.
            known = await self.synchronise() and await self.synchronise()
        except StoreError as error:
            logger.warning("cannot read the store's clock: %s", error.message)
            known = True
        if known:
            self._loop.start()

    async def stop(self) -> None:
        """Read the store's clock no more."""
        await self._loop.stop()

    async def synchronise(self) -> bool:
        """Read the store's clock once; whether there is one.

        Raises:
            StoreError: The store does not answer.
        """
        asked = monotonic()
        found = await self._source.time()
        if found is None:
            return False
        doubt = (monotonic() - asked) / 2
        middle = asked + doubt
        if self._anchor is not None:
            at, since = self._anchor
            step = (found - at).total_seconds() - (middle - since)
            if abs(step) > _JUMP_SECONDS + doubt:
                self._jumped(step)
            elif doubt > max(_SMALL_DOUBT, self._doubt + _DRIFT * (middle - since)):
                # The answer took its time, and may be of any moment of it: what is known is truer.
                return True
        self._anchor, self._doubt = (found, middle), doubt
        return True

    async def read_again(self) -> None:
        """Read the store's clock now, where it is read at all: who is about to act on it must know that it was set.

        Raises:
            StoreError: The store does not answer.
        """
        if self._loop.running:
            await self.synchronise()

    def _jumped(self, seconds: float) -> None:
        logger.warning("the clock jumped by %+.1f s; leases are given time to be renewed", seconds)
        self.jumped_at = monotonic()

    async def _synchronise(self) -> float:
        try:
            await self.synchronise()
        except StoreError as error:
            logger.debug("cannot read the store's clock: %s", error.message)
        return next(self._pauses)
