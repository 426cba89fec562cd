"""The fair queue: pending tasks in the order in which their scopes take turns (docs/limits.md).

Among tasks of one priority the scope has the next start that had its last one here longest ago. A store's `claimable`
shows the oldest tasks; where it shows no more than it was asked for, those of other scopes may stand behind them, and
`waiting` is asked as well. So nothing more is read as long as there is no backlog.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence

from raincheck.domain.task import Task
from raincheck.limits.round_robin import RoundRobin
from raincheck.ports.task_store import TaskStore
from raincheck.timing.clock import monotonic

_ALONE_SECONDS = 0.25
"""How long a scope that was found to be the only one that waits is taken to be it still."""

_FEWEST = 8
_REMEMBERED = 10_000


class FairQueue:
    """Lets the scopes take turns at the starts of one process.

    Args:
        store: Where tasks wait.
        held_back: The scopes whose tasks may not start now.
    """

    def __init__(self, store: TaskStore, held_back: Callable[[], Collection[str]] = tuple) -> None:
        self._store = store
        self._held_back = held_back
        self._rota = RoundRobin()
        self._shown: OrderedDict[str, None] = OrderedDict()
        self._alone_at = float("-inf")

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """Pending tasks of these operations: the highest priority first; of one priority the scopes in turn, of each
        scope the oldest. Fewer than `limit` only where there are no more that may start."""
        page = await self._store.claimable(operation_types, limit)
        held_back = self._held_back()
        scopes = {task.scope for task in page}
        if len(page) >= limit > 0:
            if len(scopes) > 1 or held_back or monotonic() - self._alone_at > _ALONE_SECONDS:
                page = [*page, *await self._waiting(operation_types, limit, held_back)]
                if {task.scope for task in page} == scopes and len(scopes) == 1:
                    self._alone_at = monotonic()
        elif len(scopes) <= 1 and not held_back:
            return page
        known = {task.task_ref: task for task in page if task.scope not in held_back}
        ordered = sorted(known.values(), key=lambda task: (task.created_at, task.task_ref))
        found = self._rota.in_turn(ordered, lambda task: task.scope, lambda task: -task.priority)[:limit]
        self._remember(found)
        return found

    def claimed(self, task: Task) -> None:
        """This process changed a task that runs: where it was found here, that was its start."""
        if task.task_ref in self._shown:
            del self._shown[task.task_ref]
            self._rota.served(task.scope)

    async def _waiting(
        self, operation_types: Collection[str], limit: int, held_back: Collection[str]
    ) -> Sequence[Task]:
        """Tasks of other scopes; more of each where some scopes have fewer than their share."""
        found: Sequence[Task] = ()
        wanted, before = max(limit, _FEWEST), -1
        while before < len(found) < limit or before < 0:
            before = len(found)
            found = await self._store.waiting(operation_types, wanted, after=self._rota.last, leave_out=held_back)
            wanted *= 2
            if not held_back:
                # What is short here, the oldest tasks make up for.
                break
        return found

    def _remember(self, found: Iterable[Task]) -> None:
        for task in found:
            self._shown[task.task_ref] = None
            self._shown.move_to_end(task.task_ref)
        while len(self._shown) > _REMEMBERED:
            self._shown.popitem(last=False)
