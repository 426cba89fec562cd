"""Keeps the histories of this process's operations in the store, where all processes add to them.

An end costs an addition in memory. Seconds later what is new is merged into the operation's record by compare-and-set,
so that nothing is lost however many processes write; a killed process takes its last few seconds with it. Nothing is
read or written while nothing ends and no call asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from datetime import datetime, timedelta

from raincheck.domain.task import Task, scope_key
from raincheck.errors import StoreError
from raincheck.polling.history import End, History
from raincheck.ports.records import RecordQuery, RecordStore
from raincheck.ports.shared_state import SharedState, StateKind
from raincheck.timing.background import BackgroundLoop
from raincheck.timing.clock import monotonic

logger = logging.getLogger(__name__)

KIND = "sketch"
"""The kind of the records that hold histories."""

_FLUSH_SECONDS = 5.0
_FRESH_SECONDS = 10.0
_STOP_SECONDS = 3.0
_KEPT = timedelta(days=180)
_PAGE = 50
_HISTORY = StateKind(
    kind=KIND,
    what="a history",
    empty=lambda name: History(operation_type=name),
    decode=History.from_json,
    encode=History.to_json,
)


class _Known:
    """What this process knows of one operation: the stored history, and the ends that the store does not have yet."""

    __slots__ = ("fresh", "operation_type", "refreshing", "state", "whole")

    def __init__(self, operation_type: str, state: SharedState[History]) -> None:
        self.operation_type = operation_type
        self.state = state
        self.fresh: History | None = None
        self.whole: History | None = None
        self.refreshing: asyncio.Task[None] | None = None


class HistoryStore:
    """The histories as one process reads and writes them.

    Args:
        store: The open store.
        clock: The wall clock.
    """

    def __init__(
        self,
        store: RecordStore,
        *,
        clock: Callable[[], datetime],
        flush_seconds: float = _FLUSH_SECONDS,
        fresh_seconds: float = _FRESH_SECONDS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._fresh_seconds = fresh_seconds
        self._known: dict[str, _Known] = {}
        self._loop = BackgroundLoop(
            "history", self.flush, purpose="store histories", seconds=flush_seconds, at_once=False
        )
        self._stopped = True

    def start(self, names: Iterable[str]) -> None:
        """Begin; read what is known of these operations, so that already their first hints are learned ones."""
        self._stopped = False
        self._loop.start()
        for name in names:
            self.known(name)

    async def stop(self) -> None:
        """Write what is new, for a few seconds at most, and end."""
        if self._stopped:
            return
        self._stopped = True
        reading = [known.refreshing for known in self._known.values() if known.refreshing is not None]
        for each in reading:
            each.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        drained = await self._loop.drain(_STOP_SECONDS)
        await self._loop.stop()
        if not drained:
            logger.warning("the last durations were not stored: the store did not take them in time")

    def settled(self, task: Task) -> None:
        """A task has ended, and this process wrote it down."""
        known = self._of(task.operation_type)
        if known.fresh is None:
            known.fresh = History(operation_type=task.operation_type)
        known.fresh.add(End.of(task), scope_key(task.scope))
        known.whole = None

    def known(self, operation_type: str) -> History | None:
        """What is known of the operation, by the store as it was lately and by this process; None while nothing is.

        Never waits: where the store was not asked for a while, it is asked now, and the answer is there next time.
        """
        known = self._of(operation_type)
        stale = monotonic() - known.state.asked_at >= self._fresh_seconds
        if stale and not self._stopped and known.refreshing is None:
            known.refreshing = asyncio.create_task(self._refresh(known), name="raincheck-history")
        if known.whole is None:
            fresh, stored = known.fresh, known.state.value
            known.whole = stored if fresh is None else stored.merged(fresh, self._clock())
        return known.whole if known.whole.ends else None

    async def flush(self) -> None:
        """Merge what is new into the store; what it does not take stays here for the next time."""
        for known in tuple(self._known.values()):
            if known.fresh is not None:
                await self._write(known)

    def _of(self, operation_type: str) -> _Known:
        known = self._known.get(operation_type)
        if known is None:
            state = SharedState(self._store, self._clock, _HISTORY, operation_type)
            known = self._known[operation_type] = _Known(operation_type, state)
        return known

    async def _refresh(self, known: _Known) -> None:
        extra = {"operation": known.operation_type}
        try:
            await known.state.read()
            known.whole = None
        except StoreError as error:
            logger.debug("cannot read a history: %s", error.message, extra=extra)
        except Exception:  # a bug in the histories must not end what they are about
            logger.exception("a history was not read", extra=extra)
        finally:
            known.refreshing = None

    async def _write(self, known: _Known) -> None:
        taken, known.fresh = known.fresh, None
        assert taken is not None
        written = False
        try:
            written = await known.state.update(lambda stored: stored.merged(taken, self._clock()), _KEPT)
        except StoreError as error:
            logger.info("durations are stored later: %s", error.message, extra={"operation": known.operation_type})
        finally:
            if not written:
                # Not written: what came in the meantime is newer.
                known.fresh = taken if known.fresh is None else taken.merged(known.fresh, self._clock())
                known.fresh.at = None
            known.whole = None


async def stored_histories(store: RecordStore) -> AsyncGenerator[History]:
    """Every history in the store, in the order of their keys; what is not readable is passed over."""
    after = ""
    while True:
        page = await store.records(RecordQuery(KIND, after=after, limit=_PAGE))
        for record in page:
            try:
                yield History.from_json(record.value)
            except (ValueError, TypeError) as error:
                logger.warning("the history %s is not readable: %s", record.key, error)
        if len(page) < _PAGE:
            return
        after = page[-1].key
