"""The circuit breakers of all operations, as one process sees them: their states are records in the task store.

The process that settles a task counts it; the one that accepts a call asks. Results are gathered, and written a few
times a second at most; what was read is good for half a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from raincheck.domain.task import scope_key
from raincheck.errors import CircuitOpen, StoreError
from raincheck.limits.breaker_rules import BreakerState, Phase, Result, admit, count, failed, from_json, to_json
from raincheck.operations.limit_policy import BreakerPolicy
from raincheck.ports.shared_state import SharedState, StateKind
from raincheck.ports.task_store import TaskStore
from raincheck.timing.clock import monotonic

logger = logging.getLogger(__name__)

OUTSIDE = "inline:"
"""Begins the ref of a call that runs in its request: no task is to be found under it."""

_KNOWN_SECONDS = 0.5
_FAILURES_SECONDS = 0.2
_SUCCESSES_SECONDS = 1.0
_RESOLVE_SECONDS = 1.0
_UNWRITTEN_SECONDS = 10.0
_MOST_RESULTS = 5000
_KEPT = timedelta(days=1)
_BREAKER = StateKind(
    kind="breaker",
    what="the state of a circuit breaker",
    empty=lambda _: BreakerState(),
    decode=from_json,
    encode=to_json,
)


@dataclass(slots=True)
class _Breaker:
    """One operation's in this process: what was read last, and what is still to be written."""

    name: str
    policy: BreakerPolicy
    shared: SharedState[BreakerState]
    resolved_at: float = float("-inf")
    results: list[Result] = field(default_factory=list[Result])
    written_at: float = float("-inf")
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    writer: asyncio.Task[None] | None = None

    @property
    def state(self) -> BreakerState:
        return self.shared.value


class CircuitBreakers:
    """Asks and tells the breakers.

    Args:
        store: Where their records are.
        clock: The clock that all processes share.
    """

    def __init__(self, store: TaskStore, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._breakers: dict[str, _Breaker] = {}

    async def admit(self, name: str, policy: BreakerPolicy, ref: str, *, scope: str, lapses_at: datetime) -> bool:
        """Let a scope's call of the operation through; whether it is a probe, whose end has to be told.

        Raises:
            CircuitOpen: It is refused. `details`: `retry_after_seconds`.
            StoreError: The breaker cannot be asked.
        """
        breaker = self._breaker(name, policy)
        await breaker.shared.read(known_seconds=_KNOWN_SECONDS)
        while breaker.state.phase is not Phase.CLOSED:
            state, wait = admit(breaker.state, policy, ref, lapses_at.timestamp(), self._now(), scope_key(scope))
            if wait is None:
                if await self._write(breaker, state):
                    return True
            elif not breaker.state.probes or not await self._resolved(breaker):
                seconds = max(0.1, round(wait, 1))
                raise CircuitOpen(
                    f"Too many calls of {name} failed lately, and it is not called for now: nothing was queued. "
                    f"Try again in {seconds:g} s.",
                    details={"retry_after_seconds": seconds},
                )
        return False

    def ended(self, name: str, policy: BreakerPolicy, ref: str, failed: bool | None, *, scope: str) -> None:
        """A scope's call of the operation ended; None: that says nothing, and for a probe there may be another."""
        breaker = self._breaker(name, policy)
        if failed is None and breaker.state.phase is Phase.CLOSED:
            return
        if len(breaker.results) < _MOST_RESULTS:
            breaker.results.append(Result(ref, failed, scope_key(scope)))
        if failed or breaker.state.phase is not Phase.CLOSED:
            breaker.hurry.set()
        if breaker.writer is None:
            # Not with the variables of the request that happened to be the first.
            writing = self._write_results(breaker)
            breaker.writer = asyncio.create_task(writing, name="raincheck-breaker", context=Context())

    async def stop(self, seconds: float) -> None:
        """Write what is still to be written, for up to so many seconds. Idempotent."""
        writers = {breaker.writer for breaker in self._breakers.values() if breaker.writer is not None}
        for breaker in self._breakers.values():
            breaker.written_at = float("-inf")
            breaker.hurry.set()
        if writers:
            _, late = await asyncio.wait(writers, timeout=seconds)
            for writer in late:
                writer.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _breaker(self, name: str, policy: BreakerPolicy) -> _Breaker:
        breaker = self._breakers.get(name)
        if breaker is None:
            shared = SharedState(self._store, self._clock, _BREAKER, name)
            breaker = self._breakers[name] = _Breaker(name, policy, shared)
        breaker.policy = policy
        return breaker

    def _now(self) -> float:
        return self._clock().timestamp()

    async def _write(self, breaker: _Breaker, state: BreakerState) -> bool:
        """Write the next state, unless another process wrote in between; its state is known then."""
        before = breaker.state
        lasts = timedelta(seconds=breaker.policy.window_seconds + breaker.policy.cool_down_seconds) + _KEPT
        if not await breaker.shared.write(state, lasts):
            return False
        if state.phase is not before.phase:
            _tell(breaker, before.phase, state.phase)
        return True

    async def _resolved(self, breaker: _Breaker) -> bool:
        """Whether the breaker changed, now that its probes were looked for: who was to tell may be dead."""
        if monotonic() - breaker.resolved_at < _RESOLVE_SECONDS:
            return False
        breaker.resolved_at = monotonic()
        await breaker.shared.read()
        results: list[Result] = []
        for probe in breaker.state.probes:
            if probe.ref.startswith(OUTSIDE):
                continue
            task = await self._store.get(probe.ref)
            if task is not None and task.terminal:
                results.append(Result(probe.ref, failed(task, breaker.policy)))
            elif task is None and self._now() - probe.since > _UNWRITTEN_SECONDS:
                results.append(Result(probe.ref, None))
        state = count(breaker.state, breaker.policy, results, self._now())
        if state is breaker.state:
            return False
        await self._write(breaker, state)
        return True

    async def _write_results(self, breaker: _Breaker) -> None:
        try:
            while breaker.results:
                await _until(breaker.hurry, breaker.written_at + _SUCCESSES_SECONDS)
                await asyncio.sleep(max(0.0, breaker.written_at + _FAILURES_SECONDS - monotonic()))
                breaker.hurry.clear()
                results, breaker.results = breaker.results, []
                try:
                    await self._count(breaker, results)
                except StoreError as error:
                    logger.warning("cannot count calls: %s", error.message, extra={"operation": breaker.name})
                    breaker.results = [*results, *breaker.results][-_MOST_RESULTS:]
                breaker.written_at = monotonic()
        finally:
            breaker.writer = None

    async def _count(self, breaker: _Breaker, results: list[Result]) -> None:
        before = await breaker.shared.read()
        while (state := count(before, breaker.policy, results, self._now())) is not before:
            if await self._write(breaker, state):
                return
            before = breaker.state


async def _until(event: asyncio.Event, at: float) -> None:
    """Wait for the event, at most until then."""
    try:
        async with asyncio.timeout(max(0.0, at - monotonic())):
            await event.wait()
    except TimeoutError:
        return


def _tell(breaker: _Breaker, before: Phase, after: Phase) -> None:
    extra = {"operation": breaker.name}
    if after is Phase.OPEN:
        rest = "a call that tried it failed" if before is Phase.HALF_OPEN else "too many calls failed"
        seconds = breaker.policy.cool_down_seconds
        logger.warning("circuit breaker of %s opened for %g s: %s", breaker.name, seconds, rest, extra=extra)
    elif after is Phase.HALF_OPEN:
        logger.info("circuit breaker of %s lets calls try", breaker.name, extra=extra)
    else:
        logger.warning("circuit breaker of %s closed: calls succeed again", breaker.name, extra=extra)
