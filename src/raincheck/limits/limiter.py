"""The limiter: a process's one check before it accepts a call, starts a task or runs an inline call."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from raincheck.domain.task import Outcome, Task
from raincheck.errors import CallError, QueueFull, RateLimited, StoreError
from raincheck.limits.breaker_rules import error_counts, failed
from raincheck.limits.circuit_breakers import OUTSIDE, CircuitBreakers
from raincheck.limits.permit_allocator import OF_OPERATION, OF_SCOPE, PermitAllocator, limit_of
from raincheck.limits.permit_rules import UNCLAIMED_SECONDS, Limit, Refusal
from raincheck.operations.catalog import OperationCatalog
from raincheck.operations.operation import Operation, Policy
from raincheck.ports.engine import Slot
from raincheck.ports.task_store import TaskStore
from raincheck.timing.clock import monotonic

logger = logging.getLogger(__name__)

_STOP_SECONDS = 3.0
_RETRY_SECONDS = 0.5
# The end of a call may take longer than its timeout.
_GRACE_SECONDS = 15.0
_MOST_SCOPES = 1000


class Permit:
    """The right to run one task; around the engine's place for it, which is suspended and taken again together with it.

    It is a `raincheck.ports.engine.Slot`.

    Args:
        allocators: Where it was taken: the task needs a permit of each. All take them in one order, so none deadlocks.
        task: The task, pending.
        slot: The place.
    """

    def __init__(self, allocators: Sequence[PermitAllocator], task: Task, slot: Slot) -> None:
        self._allocators = allocators
        self._task_ref = task.task_ref
        self._scope = task.scope
        self._fence = task.fence + 1
        self._slot = slot
        self._held = True
        self._since = monotonic()

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
            for allocator in self._allocators:
                allocator.give(self._task_ref, started=started)

    async def verified_until(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Return when it is certain that no other holder has this permit: the claim may have taken its time.

        Args:
            sleep: Waits between tries; may raise.
        """
        while monotonic() - self._since > UNCLAIMED_SECONDS / 2:
            asked = monotonic()
            if all([await self._try(allocator) for allocator in self._allocators]):
                self._since = asked
                return
            await sleep(_RETRY_SECONDS)

    async def _take_again(self) -> None:
        if self._held:
            return
        try:
            for allocator in self._allocators:
                while not await self._try(allocator):
                    await allocator.given(_RETRY_SECONDS)
        except asyncio.CancelledError:
            for allocator in self._allocators:
                allocator.give(self._task_ref, started=True)
            raise
        self._since = monotonic()
        self._held = True

    async def _try(self, allocator: PermitAllocator) -> bool:
        try:
            refused = await allocator.take(self._task_ref, self._fence, scope=self._scope, start=False)
        except StoreError as error:
            logger.warning("cannot take a permit: %s", error.message, extra={"task_ref": self._task_ref})
            await asyncio.sleep(_RETRY_SECONDS)
            return False
        return refused is None


class InRequest:
    """A call that runs in its request, for `Limiter.inline_slot`.

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
        operations: The operations of this process.
        clock: The clock that all processes share.
        max_running_per_scope: How many tasks and calls of one scope run at once, in all processes; 0: any number.

    Attributes:
        freed: Called with an operation whose tasks may start again; the engine sets it.
    """

    def __init__(
        self,
        store: TaskStore,
        operations: OperationCatalog,
        *,
        clock: Callable[[], datetime],
        max_running_per_scope: int = 0,
    ) -> None:
        self._max_running_per_scope = max_running_per_scope
        self._store = store
        self._operations = operations
        self._clock = clock
        self.freed: Callable[[str], None] = lambda operation_type: None
        self._owner = secrets.token_hex(6)
        self._breakers = CircuitBreakers(store, clock)
        self._allocators: dict[str, PermitAllocator] = {}
        self._allocators_of_scopes: OrderedDict[str, PermitAllocator] = OrderedDict()
        # Which operations' tasks a scope was refused, to be looked for again.
        self._refused: dict[str, set[str]] = {}

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
        return await self._breakers.admit(name, breaker, task.task_ref, scope=task.scope, lapses_at=task.deadline_at)

    def withdraw(self, operation: Operation, task: Task) -> None:
        """No task came of a call that was let through."""
        if operation.policy.breaker is not None:
            self._breakers.ended(
                operation.operation_type, operation.policy.breaker, task.task_ref, None, scope=task.scope
            )

    def settled(self, task: Task) -> None:
        """A task was settled by this process."""
        operation = self._operations.get(task.operation_type)
        breaker = operation.policy.breaker if operation is not None else None
        if breaker is not None:
            told = failed(task, breaker)
            self._breakers.ended(task.operation_type, breaker, task.task_ref, told, scope=task.scope)

    @asynccontextmanager
    async def inline_slot(self, operation: Operation, *, scope: str) -> AsyncGenerator[InRequest]:
        """Run a call without a task, as the limits allow; a permit is waited for as an answer would be.

        Raises:
            CircuitOpen, QueueFull, RateLimited: It is refused.
            StoreError: The limits cannot be asked.
        """
        policy, name = operation.policy, operation.operation_type
        call = InRequest(policy)
        allocators = self._allocators_for(operation, scope)
        if policy.breaker is None and not allocators:
            yield call
            return
        ref = OUTSIDE + secrets.token_hex(12)
        seconds = policy.attempt_seconds + _GRACE_SECONDS
        if policy.breaker is not None:
            lapses_at = self._clock() + timedelta(seconds=seconds + policy.permit_wait_seconds)
            await self._breakers.admit(name, policy.breaker, ref, scope=scope, lapses_at=lapses_at)
        try:
            taken: list[PermitAllocator] = []
            until = monotonic() + policy.permit_wait_seconds
            try:
                for allocator in allocators:
                    await _taken_in_time(allocator, ref, scope, seconds, until)
                    taken.append(allocator)
                yield call
            finally:
                for allocator in taken:
                    allocator.give(ref, started=len(taken) == len(allocators))
        finally:
            if policy.breaker is not None:
                self._breakers.ended(name, policy.breaker, ref, call.failed, scope=scope)

    # Starts.

    def startable(self, names: Collection[str]) -> Collection[str]:
        """Those of these operations that are not known to have no permit."""
        if not self._allocators:
            return names
        blocked = {name for name, allocator in self._allocators.items() if allocator.blocked}
        return [name for name in names if name not in blocked] if blocked else names

    def held_back(self) -> Collection[str]:
        """The scopes that are not known to have a permit."""
        return {scope for scope, allocator in self._allocators_of_scopes.items() if allocator.blocked}

    def limits(self, operation: Operation) -> bool:
        """Whether a start of the operation needs a permit."""
        return operation.policy.limited or self._max_running_per_scope > 0

    async def take(self, operation: Operation, task: Task, slot: Slot) -> Permit | None:
        """A permit to start the task that was found pending, None where there is none now. Only where `limits` says so.

        Raises:
            StoreError: The ledger of permits cannot be read or written.
        """
        allocators = self._allocators_for(operation, task.scope)
        refused = next((allocator for allocator in allocators if allocator.blocked), None)
        taken: list[PermitAllocator] = []
        try:
            for allocator in allocators if refused is None else ():
                if await allocator.take(task.task_ref, task.fence + 1, scope=task.scope, start=True) is not None:
                    refused = allocator
                    break
                taken.append(allocator)
        finally:
            if len(taken) < len(allocators):
                for allocator in taken:
                    allocator.give(task.task_ref, started=False)
        if refused is None:
            return Permit(allocators, task, slot)
        if refused.kind == OF_SCOPE:
            self._refused.setdefault(task.scope, set()).add(operation.operation_type)
        return None

    async def stop(self) -> None:
        """Give back and write what is left. Idempotent."""
        allocators = (*self._allocators.values(), *self._allocators_of_scopes.values())
        await asyncio.gather(
            self._breakers.stop(_STOP_SECONDS), *(allocator.stop(_STOP_SECONDS) for allocator in allocators)
        )

    def _allocators_for(self, operation: Operation, scope: str) -> Sequence[PermitAllocator]:
        """Where a start needs a permit: of its scope first, so that one that may not start takes no other's."""
        allocators = [self._allocator_of_scope(scope)] if self._max_running_per_scope else []
        if operation.policy.limited:
            allocators.append(self._allocator(operation))
        for allocator in allocators:
            allocator.lasts = max(allocator.lasts, operation.policy.longest_wait_seconds)
        return allocators

    def _allocator(self, operation: Operation) -> PermitAllocator:
        name, limit = operation.operation_type, limit_of(operation.policy)
        allocator = self._allocators.get(name)
        if allocator is None:
            freed = lambda: self.freed(name)  # noqa: E731
            allocator = self._allocators[name] = self._new_allocator(OF_OPERATION, name, limit, freed)
        allocator.limit = limit
        return allocator

    def _allocator_of_scope(self, scope: str) -> PermitAllocator:
        allocator = self._allocators_of_scopes.get(scope)
        if allocator is None:
            limit = Limit(self._max_running_per_scope, 0.0, 1)
            if len(self._allocators_of_scopes) >= _MOST_SCOPES:
                idle = next((name for name, each in self._allocators_of_scopes.items() if each.idle), "")
                self._allocators_of_scopes.pop(idle, None)
            freed = lambda: self._scope_freed(scope)  # noqa: E731
            allocator = self._allocators_of_scopes[scope] = self._new_allocator(OF_SCOPE, scope, limit, freed)
        self._allocators_of_scopes.move_to_end(scope)
        return allocator

    def _new_allocator(self, kind: str, name: str, limit: Limit, freed: Callable[[], None]) -> PermitAllocator:
        return PermitAllocator(
            self._store, self._clock, kind=kind, name=name, owner=self._owner, limit=limit, freed=freed
        )

    def _scope_freed(self, scope: str) -> None:
        for operation_type in self._refused.pop(scope, ()):
            self.freed(operation_type)


async def _taken_in_time(allocator: PermitAllocator, ref: str, scope: str, seconds: float, until: float) -> None:
    while (refused := await allocator.take(ref, 0, scope=scope, start=True, seconds=seconds)) is not None:
        left = until - monotonic()
        if left <= 0 or (refused.limit == "starts_per_minute" and refused.seconds > left):
            raise _refusal(allocator, refused)
        if refused.limit == "starts_per_minute":
            await asyncio.sleep(refused.seconds)
        else:
            await allocator.given(min(left, refused.seconds))


def _refusal(allocator: PermitAllocator, refused: Refusal) -> CallError:
    limit = allocator.limit
    if refused.limit == "starts_per_minute":
        wait = max(0.1, round(refused.seconds, 1))
        return RateLimited(
            f"No more than {60 / limit.interval:g} of these calls start in a minute (starts_per_minute). "
            f"Try again in {wait:g} s.",
            details={"limit": refused.limit, "retry_after_seconds": wait},
        )
    details = {"limit": refused.limit, "setting": limit.max_running}
    if allocator.kind == OF_SCOPE:
        return QueueFull(
            f"{limit.max_running} calls of this caller run already (max_running_per_scope). Try again later.",
            details={**details, "limit": "max_running_per_scope"},
        )
    return QueueFull(f"{limit.max_running} of these calls run already (max_running). Try again later.", details=details)
