"""The permit allocator: hands out the permits of one operation, or of one scope, in this process.

Its ledger is a record in the store, shared with the other processes. Requests and returned permits wait in one queue,
which is served as a whole with one compare-and-set: the store sees a few writes however many tasks start and end at
once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime, timedelta

from raincheck.errors import StoreError
from raincheck.limits.permit_rules import (
    Limit,
    PermitHolder,
    PermitLedger,
    Refusal,
    from_json,
    gone,
    released,
    taken,
    to_json,
    without,
)
from raincheck.limits.round_robin import RoundRobin
from raincheck.operations.operation import Policy
from raincheck.ports.shared_state import SharedState, StateKind
from raincheck.ports.task_store import TaskStore
from raincheck.timing.clock import monotonic

logger = logging.getLogger(__name__)

OF_OPERATION = "permits"
OF_SCOPE = "scope-permits"
"""The kinds of the records that hold the ledgers."""

_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 1.0
_MOST_LOOKED_AT = 50
_RATE_ONLY_SECONDS = 5.0
_RATE_ONLY_HOLDERS = 200


def limit_of(policy: Policy) -> Limit:
    """The limits of a policy as the ledger has them."""
    interval = 60.0 / policy.starts_per_minute if policy.starts_per_minute else 0.0
    return Limit(policy.max_running, interval, policy.start_burst)


@dataclass(kw_only=True, slots=True)
class _Taking:
    """A request for a permit in the queue; `answer` is None for a permit, and the refusal else."""

    ref: str
    scope: str
    fence: int
    start: bool
    until: float | None
    answer: asyncio.Future[Refusal | None]


@dataclass(kw_only=True, slots=True)
class _Giving:
    """A return of a permit in the queue."""

    ref: str
    started: bool


class PermitAllocator:
    """Hands out the permits of one operation or scope.

    Args:
        kind: `OF_OPERATION` or `OF_SCOPE`.
        name: The operation, or the scope.
        owner: This process.
        freed: Called when a start that was refused may be tried again.

    Attributes:
        kind: As it was given.
        limit: How many permits there are, and how fast they go.
        lasts: For how many seconds a permit may be held.
    """

    def __init__(
        self,
        store: TaskStore,
        clock: Callable[[], datetime],
        *,
        kind: str,
        name: str,
        owner: str,
        limit: Limit,
        freed: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self.kind = kind
        self._told = {"operation" if kind == OF_OPERATION else "scope": name}
        self._owner = owner
        self._freed = freed
        self.limit = limit
        self.lasts = 0.0
        self._rota = RoundRobin()
        self._line: list[_Taking | _Giving] = []
        self._server: asyncio.Task[None] | None = None
        ledger = StateKind(
            kind=kind, what="a permit ledger", empty=lambda _: PermitLedger(), decode=from_json, encode=to_json
        )
        self._shared = SharedState(store, clock, ledger, name)
        self._known = False
        self._looked_at = float("-inf")
        self._blocked: asyncio.TimerHandle | None = None
        self._gave = asyncio.Event()

    @property
    def blocked(self) -> bool:
        """Whether a start would be refused, as far as is known here."""
        return self._blocked is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is lost with this allocator: what it knows stands in the store."""
        return self._server is None and self._blocked is None

    async def take(
        self, ref: str, fence: int, *, scope: str, start: bool, seconds: float | None = None
    ) -> Refusal | None:
        """Take a permit; None, or why there is none. `seconds`: it ends by itself after that.

        Who stands in the line at the same time is served as the scopes take turns.

        Raises:
            StoreError: The ledger cannot be read or written; no permit was taken.
        """
        until = None if seconds is None else self._now() + seconds
        answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self._join(_Taking(ref=ref, scope=scope, fence=fence, start=start, until=until, answer=answer))
        try:
            return await answer
        except asyncio.CancelledError:
            # It may have been taken for a request that has ended.
            self.give(ref, started=not start)
            raise

    def give(self, ref: str, *, started: bool) -> None:
        """Give a permit back, or leave the line for one."""
        self._join(_Giving(ref=ref, started=started))

    async def given(self, seconds: float) -> None:
        """Wait until a permit was given back here, at most so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._gave.wait()
        except TimeoutError:
            return

    async def stop(self, seconds: float) -> None:
        """Serve who is in the line, for up to so many seconds. Idempotent."""
        self._unblock(tell=False)
        server = self._server
        if server is not None:
            await asyncio.wait({server}, timeout=seconds)
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)

    def _now(self) -> float:
        return self._clock().timestamp()

    def _join(self, one: _Taking | _Giving) -> None:
        self._line.append(one)
        if self._server is None:
            # Not with the variables of the request that happened to be the first.
            self._server = asyncio.create_task(self._serve(), name="raincheck-permits", context=Context())

    async def _serve(self) -> None:
        try:
            while self._line:
                line, self._line = self._line, []
                try:
                    await self._serve_these(line)
                except StoreError as error:
                    logger.warning("cannot serve permits: %s", error.message, extra=self._told)
                    await self._turned_away(line, error)
                except Exception:  # every queued request must be answered, whatever a bug does here
                    logger.exception("cannot serve permits", extra=self._told)
                    await self._turned_away(line, StoreError("There are no permits now.", retryable=True))
        finally:
            self._server = None

    async def _serve_these(self, line: Sequence[_Taking | _Giving]) -> None:
        fresh = not self._known
        if fresh:
            await self._read()
        while True:
            before = self._shared.value
            ledger, answers = self._served(line, before)
            refused = [refusal for refusal in answers.values() if refusal is not None]
            if refused and not fresh:
                # Others may have given permits back since.
                await self._read()
                fresh = True
                continue
            if any(refusal.limit == "max_running" for refusal in refused) and await self._reclaim_dead_permits(ledger):
                continue
            if ledger is before or ledger == before or await self._written(ledger):
                break
            fresh = True
        for one in line:
            if isinstance(one, _Taking) and not one.answer.done():
                one.answer.set_result(answers[id(one)])
                if one.start and answers[id(one)] is None:
                    self._rota.served(one.scope)
        self._after(line, refused)

    def _served(
        self, line: Sequence[_Taking | _Giving], ledger: PermitLedger
    ) -> tuple[PermitLedger, dict[int, Refusal | None]]:
        """Process the queue as far as the ledger allows: releases first, then resumed tasks, then new starts."""
        limit, now = self.limit, self._now()
        answers: dict[int, Refusal | None] = {}
        for one in line:
            if isinstance(one, _Giving):
                ledger = released(ledger, one.ref, self._owner, limit, started=one.started)
        takings = [one for one in line if isinstance(one, _Taking) and not one.answer.done()]
        for one in self._rota.in_turn(takings, lambda each: each.scope, lambda each: each.start):
            holder = PermitHolder(self._owner, one.fence, now, self._end_of(one, limit, now))
            ledger, answers[id(one)] = taken(ledger, limit, one.ref, holder, now, start=one.start)
        return ledger, answers

    def _end_of(self, one: _Taking, limit: Limit, now: float) -> float | None:
        if limit.max_running:
            return one.until
        # Only so that no other process starts the same task: nothing has to be given back.
        return now + min(_RATE_ONLY_SECONDS, _RATE_ONLY_HOLDERS * limit.interval)

    def _after(self, line: Sequence[_Taking | _Giving], refused: Sequence[Refusal]) -> None:
        if any(isinstance(one, _Giving) for one in line):
            self._gave.set()
            self._gave.clear()
            self._unblock(tell=True)
        waits = [refusal.seconds for refusal in refused if refusal.limit != "taken"]
        if waits:
            self._unblock(tell=False)
            loop = asyncio.get_running_loop()
            self._blocked = loop.call_later(max(0.005, min(*waits, _RETRY_SECONDS * 60)), self._unblock)

    def _unblock(self, *, tell: bool = True) -> None:
        if self._blocked is not None:
            self._blocked.cancel()
            self._blocked = None
            if tell:
                self._freed()

    async def _turned_away(self, line: Sequence[_Taking | _Giving], error: StoreError) -> None:
        """Refuse every request; returns are tried again."""
        self._known = False
        for one in line:
            if isinstance(one, _Taking) and not one.answer.done():
                one.answer.set_exception(error)
        # The ledger may have a start whose answer was lost.
        givings = [
            one if isinstance(one, _Giving) else _Giving(ref=one.ref, started=False)
            for one in line
            if isinstance(one, _Giving) or one.start
        ]
        if givings:
            self._line = [*givings, *self._line]
            await asyncio.sleep(_RETRY_SECONDS)

    async def _read(self) -> None:
        await self._shared.read()
        self._known = True

    async def _written(self, ledger: PermitLedger) -> bool:
        # Longer than any task under it can last: the ledger of a busy operation is never lost.
        return await self._shared.write(ledger, timedelta(seconds=self.lasts) + timedelta(hours=1))

    async def _reclaim_dead_permits(self, ledger: PermitLedger) -> bool:
        """Take the permits of the dead away, where some are; looked for once a second at most."""
        if monotonic() - self._looked_at < _LOOK_SECONDS:
            return False
        self._looked_at = monotonic()
        known = self._shared.value
        others = sorted(
            (holder.since, ref)
            for ref, holder in known.holders.items()
            if holder.owner != self._owner and holder.until is None
        )
        dead: set[str] = set()
        for _, ref in others[:_MOST_LOOKED_AT]:
            if gone(known.holders[ref], await self._store.get(ref), self._now()):
                dead.add(ref)
        if not dead:
            return False
        logger.info("%d permits of lost workers are free again", len(dead), extra=self._told)
        await self._written(without(known, dead))
        return True
