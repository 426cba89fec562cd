"""The patience store: hang-ups of all processes, in a record per client.

A hang-up counts here at once. A second later it is merged into its scope's record by compare-and-set. A scope's record
is read when it is first asked for, which waits for the store briefly, and again in the background.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

from raincheck.errors import StoreError
from raincheck.polling.known_clients import Client
from raincheck.polling.patience_rules import HangUp, HangUps, ScopeHangUps
from raincheck.ports.records import RecordStore
from raincheck.ports.shared_state import SharedState, StateKind
from raincheck.timing.background import BackgroundLoop
from raincheck.timing.clock import monotonic

logger = logging.getLogger(__name__)

KIND = "patience"
"""The kind of the records, one for each scope."""

LEAST_SECONDS = 0.5
"""A sooner hang-up teaches nothing: a key press, or a connection that never was."""

_FLUSH_SECONDS = 1.0
_AFTER_TROUBLE_SECONDS = 10.0
_FRESH_SECONDS = 10.0
_FIRST_READ_SECONDS = 0.5
_STOP_SECONDS = 2.0
_KEPT = timedelta(days=30)
_MOST_SCOPES = 512
_MOST_PENDING = 64


class _Scope:
    """What this process knows of one scope: its record as it was last seen with what is new, and what is new."""

    __slots__ = ("asked", "hang_ups", "pending", "reading", "state")

    def __init__(self, state: SharedState[ScopeHangUps]) -> None:
        self.state = state
        self.hang_ups = ScopeHangUps()
        self.pending: deque[tuple[str, str, HangUp]] = deque(maxlen=_MOST_PENDING)
        self.asked = False
        self.reading: asyncio.Task[None] | None = None


class PatienceStore:
    """What was learned of clients' patience, as one process reads and writes it.

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
        first_read_seconds: float = _FIRST_READ_SECONDS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._fresh_seconds = fresh_seconds
        self._first_read_seconds = first_read_seconds
        self._kind = StateKind(
            kind=KIND,
            what="what is known of clients' patience",
            empty=lambda _: ScopeHangUps(),
            decode=ScopeHangUps.from_json,
            encode=lambda hang_ups: hang_ups.to_json(clock().timestamp()),
        )
        self._scopes: OrderedDict[str, _Scope] = OrderedDict()
        # A flood of made-up names pushes a client out of its scope's record, not out of its own session.
        self._sessions: WeakKeyDictionary[object, HangUps] = WeakKeyDictionary()
        self._loop = BackgroundLoop(
            "patience-flush", self._flush_or_wait, purpose="store hang-ups", seconds=flush_seconds, at_once=False
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = True

    def start(self) -> None:
        """Begin; the store is open."""
        self._stopped = False
        self._loop.start()

    async def stop(self) -> None:
        """Write what is new, for a moment at most, and end."""
        if self._stopped:
            return
        self._stopped = True
        for each in self._scopes.values():
            if each.reading is not None:
                each.reading.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        drained = await self._loop.drain(_STOP_SECONDS)
        await self._loop.stop()
        if not drained:
            logger.warning("the last hang-ups were not stored: the store did not take them in time")

    async def seconds(self, client: Client, scope: str) -> float | None:
        """How long the client was seen to wait; None where it never hung up.

        Waits for the store at most half a second, and only for a scope that was not asked for before.
        """
        known = self._of(scope)
        if not self._stopped:
            if known.reading is None and monotonic() - known.state.asked_at >= self._fresh_seconds:
                known.reading = self._spawn(self._refresh(known))
            if not known.asked and known.reading is not None:
                await asyncio.wait({known.reading}, timeout=self._first_read_seconds)
                known.asked = True
        now = self._clock().timestamp()
        bound = known.hang_ups.bound(client.name, client.version, now)
        of_session = None if client.session is None else self._sessions.get(client.session)
        own = None if of_session is None else of_session.bound(now)
        return bound if own is None else own if bound is None else min(bound, own)

    def hung_up(self, client: Client, scope: str, *, after_seconds: float) -> None:
        """The client gave up on a held answer so long after it had asked. Never waits."""
        if after_seconds < LEAST_SECONDS or self._stopped:
            return
        seen = HangUp(after_seconds, self._clock().timestamp())
        if client.session is not None:
            self._sessions.setdefault(client.session, HangUps()).add(seen)
        if self._add(client, scope, seen):
            logger.info("the client %r hung up after %.1f s; its calls are held for less", client.name, after_seconds)

    def waited(self, client: Client, scope: str) -> float:
        """How long the client is known to have waited for an answer that it took; 0 where that is not known."""
        return self._of(scope).hang_ups.longest(client.name, client.version, self._clock().timestamp())

    def answered(self, client: Client, scope: str, *, after_seconds: float) -> None:
        """The client took an answer so long after it had asked. Never waits."""
        if not self._stopped:
            self._add(client, scope, HangUp(after_seconds, self._clock().timestamp(), answered=True))

    def _add(self, client: Client, scope: str, seen: HangUp) -> bool:
        known = self._of(scope)
        if not known.hang_ups.add(client.name, client.version, seen):
            return False
        known.pending.append((client.name, client.version, seen))
        return True

    async def flush(self) -> bool:
        """Merge what is new into the store; what it does not take stays here for the next time. Whether it took all."""
        return all([await self._write(known) for known in tuple(self._scopes.values()) if known.pending])

    def _of(self, scope: str) -> _Scope:
        known = self._scopes.get(scope)
        if known is None:
            known = self._scopes[scope] = _Scope(SharedState(self._store, self._clock, self._kind, scope))
            if len(self._scopes) > _MOST_SCOPES:
                self._scopes.popitem(last=False)
        else:
            self._scopes.move_to_end(scope)
        return known

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # It outlives the request that asked, and must not run with its caller's identity.
        task = asyncio.get_running_loop().create_task(work, name="raincheck-patience", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _flush_or_wait(self) -> float | None:
        return None if await self.flush() else _AFTER_TROUBLE_SECONDS

    async def _refresh(self, known: _Scope) -> None:
        try:
            known.hang_ups = _with(await known.state.read(), known.pending)
        except StoreError as error:
            logger.debug("cannot read what is known of clients' patience: %s", error.message)
        except Exception:  # a bug in what is learned must not end what it is about
            logger.exception("what is known of clients' patience was not read")
        finally:
            known.reading = None

    async def _write(self, known: _Scope) -> bool:
        taken = tuple(known.pending)
        try:
            if not await known.state.update(lambda stored: _with(stored, taken), _KEPT):
                return False
        except StoreError as error:
            logger.info("hang-ups are stored later: %s", error.message)
            return False
        rest = [each for each in known.pending if not any(each is one for one in taken)]
        known.pending.clear()
        known.pending.extend(rest)
        known.hang_ups = _with(known.state.value, rest)
        return True


def _with(stored: ScopeHangUps, seen: Iterable[tuple[str, str, HangUp]]) -> ScopeHangUps:
    known = deepcopy(stored)
    for name, version, hang_up in seen:
        known.add(name, version, hang_up)
    return known
