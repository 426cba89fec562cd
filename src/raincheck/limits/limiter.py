"""What a process asks before it accepts a call, starts a task or runs a call in its request."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from raincheck.elapsed import elapsed
from raincheck.engine import Slot
from raincheck.errors import QueueFull, RateLimited, StoreError
from raincheck.limits.book import UNCLAIMED_SECONDS
from raincheck.limits.breaker import error_counts, failed
from raincheck.limits.breakers import OUTSIDE, Breakers
from raincheck.limits.desk import Desk
from raincheck.operations.operation import Operation, Policy
from raincheck.store import TaskStore
from raincheck.task import Outcome, Task

__all__ = ["InRequest", "Limiter", "Permit"]

logger = logging.getLogger(__name__)

_STOP_SECONDS = 3.0
_RETRY_SECONDS = 0.5
# The end of a call may take longer than its timeout.
_GRACE_SECONDS = 15.0


class Permit:
    """The right to run one task; around the engine's place for it, which is parked and taken again together with it.

    It is a `raincheck.engine.Slot`.
    """

    def __init__(self, desk: Desk, task_ref: str, fence: int, slot: Slot) -> None:
        self._desk = desk
        self._task_ref = task_ref
        self._fence = fence
        self._slot = slot
        self._held = True
        self._since = elapsed()

    def release(self) -> None:
        """See `Slot.release`."""
        self.give_back()
        self._slot.release()

    async def acquire(self) -> None:
        """See `Slot.acquire`."""
        # The place is waited for last: one that is held while a permit is waited for is lost to other operations.
        await self._take_again()
        await self._slot.acquire()

    def give_back(self, *, started: bool = True) -> None:
        """Give back the permit alone. Idempotent."""
        if self._held:
            self._held = False
            self._desk.give(self._task_ref, started=started)

    async def surely_held(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Return when it is certain that nobody else was given this permit: the claim may have taken its time.

        Args:
            sleep: Waits between tries; may raise.
        """
        while elapsed() - self._since > UNCLAIMED_SECONDS / 2 and not await self._try():
            await sleep(_RETRY_SECONDS)

    async def _take_again(self) -> None:
        if self._held:
            return
        try:
            while not await self._try():
                await self._desk.given(_RETRY_SECONDS)
        except asyncio.CancelledError:
            self._desk.give(self._task_ref, started=True)
            raise
        self._held = True

    async def _try(self) -> bool:
        asked = elapsed()
        try:
            refused = await self._desk.take(self._task_ref, self._fence, start=False)
        except StoreError as error:
            logger.warning("cannot take a permit: %s", error.message, extra={"task_ref": self._task_ref})
            await asyncio.sleep(_RETRY_SECONDS)
            return False
        if refused is None:
            self._since = asked
        return refused is None


class InRequest:
    """A call that runs in its request, for `Limiter.in_request`.

    Attributes:
        failed: How it ended, for its operation's breaker; None: that says nothing.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.failed: bool | None = None

    def ended(self, outcome: Outcome) -> None:
        """It ended so; a call that is cancelled does not."""
        breaker = self._policy.breaker
        if breaker is not None:
            self.failed = False if outcome.error is None else error_counts(outcome.error, breaker)


class Limiter:
    """The limits of all operations in this process.

    Args:
        store: Where breakers and permits are kept.
        operations: Looks up an operation by name.
        clock: The clock that all processes share.
        freed: Told of an operation whose tasks may start again.
    """

    def __init__(
        self,
        store: TaskStore,
        operations: Callable[[str], Operation | None],
        *,
        clock: Callable[[], datetime],
        freed: Callable[[str], None],
    ) -> None:
        self._store = store
        self._operations = operations
        self._clock = clock
        self._freed = freed
        self._owner = secrets.token_hex(6)
        self._breakers = Breakers(store, clock)
        self._desks: dict[str, Desk] = {}

    # Calls.

    async def admit(self, operation: Operation, task: Task) -> bool:
        """Let a call through its operation's breaker; whether `withdraw` has to be told if no task comes of it.

        Raises:
            CircuitOpen: The operation fails.
            StoreError: The breaker cannot be asked.
        """
        breaker, name = operation.policy.breaker, operation.operation_type
        if breaker is None:
            return False
        return await self._breakers.admit(name, breaker, task.task_ref, lapses_at=task.deadline_at)

    def withdraw(self, operation: Operation, task: Task) -> None:
        """No task came of a call that was let through."""
        if operation.policy.breaker is not None:
            self._breakers.ended(operation.operation_type, operation.policy.breaker, task.task_ref, None)

    def settled(self, task: Task) -> None:
        """A task was settled by this process."""
        operation = self._operations(task.operation_type)
        breaker = operation.policy.breaker if operation is not None else None
        if breaker is not None:
            self._breakers.ended(task.operation_type, breaker, task.task_ref, failed(task, breaker))

    @asynccontextmanager
    async def in_request(self, operation: Operation) -> AsyncGenerator[InRequest]:
        """Run a call without a task, as its operation's limits allow; a permit is waited for as an answer would be.

        Raises:
            CircuitOpen, QueueFull, RateLimited: It is refused.
            StoreError: The limits cannot be asked.
        """
        policy, name = operation.policy, operation.operation_type
        call = InRequest(policy)
        if policy.breaker is None and not policy.limited:
            yield call
            return
        ref = OUTSIDE + secrets.token_hex(12)
        seconds = policy.timeout_seconds + _GRACE_SECONDS
        if policy.breaker is not None:
            lapses_at = self._clock() + timedelta(seconds=seconds + policy.permit_wait_seconds)
            await self._breakers.admit(name, policy.breaker, ref, lapses_at=lapses_at)
        try:
            if not policy.limited:
                yield call
                return
            desk = self._desk(operation)
            await _taken_in_time(desk, ref, seconds, policy)
            try:
                yield call
            finally:
                desk.give(ref, started=True)
        finally:
            if policy.breaker is not None:
                self._breakers.ended(name, policy.breaker, ref, call.failed)

    # Starts.

    def startable(self, names: Collection[str]) -> Collection[str]:
        """Those of these operations that are not known to have no permit."""
        if not self._desks:
            return names
        blocked = {name for name, desk in self._desks.items() if desk.blocked}
        return [name for name in names if name not in blocked] if blocked else names

    async def take(self, operation: Operation, task: Task, slot: Slot) -> Permit | None:
        """A permit to start the task that was found pending, None where there is none now. Only for limited operations.

        Raises:
            StoreError: The book of permits cannot be read or written.
        """
        desk = self._desk(operation)
        if desk.blocked:
            return None
        fence = task.fence + 1
        if await desk.take(task.task_ref, fence, start=True) is not None:
            return None
        return Permit(desk, task.task_ref, fence, slot)

    async def stop(self) -> None:
        """Give back and write what is left. Idempotent."""
        await asyncio.gather(
            self._breakers.stop(_STOP_SECONDS), *(desk.stop(_STOP_SECONDS) for desk in self._desks.values())
        )

    def _desk(self, operation: Operation) -> Desk:
        name = operation.operation_type
        desk = self._desks.get(name)
        if desk is None:
            desk = self._desks[name] = Desk(
                self._store,
                self._clock,
                name=name,
                owner=self._owner,
                policy=operation.policy,
                freed=lambda: self._freed(name),
            )
        desk.policy = operation.policy
        return desk


async def _taken_in_time(desk: Desk, ref: str, seconds: float, policy: Policy) -> None:
    until = elapsed() + policy.permit_wait_seconds
    while (refused := await desk.take(ref, 0, start=True, seconds=seconds)) is not None:
        left = until - elapsed()
        if refused.limit == "starts_per_minute" and refused.seconds > left:
            wait = max(0.1, round(refused.seconds, 1))
            raise RateLimited(
                f"No more than {policy.starts_per_minute:g} of these calls start in a minute (starts_per_minute). "
                f"Try again in {wait:g} s.",
                details={"limit": refused.limit, "retry_after_seconds": wait},
            )
        if left <= 0:
            raise QueueFull(
                f"{policy.max_running} of these calls run already (max_running). Try again later.",
                details={"limit": refused.limit, "setting": policy.max_running},
            )
        if refused.limit == "starts_per_minute":
            await asyncio.sleep(refused.seconds)
        else:
            await desk.given(min(left, refused.seconds))
