"""Pending tasks as their scopes take turns, for whatever starts them: docs/limits.md says what that promises.

Among tasks of one priority the scope has the next start that had its last one here longest ago. A store's `claimable`
shows the oldest tasks; where it shows no more than it was asked for, those of other scopes may stand behind them, and
`waiting` is asked as well. So nothing more is read as long as there is no backlog.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime

from raincheck.elapsed import elapsed
from raincheck.limits.rota import Rota
from raincheck.notes import Note
from raincheck.store import TaskStore
from raincheck.stores.wrapper import StoreWrapper
from raincheck.task import Task, TaskStatus

__all__ = ["Turns"]

_ALONE_SECONDS = 0.25
"""How long a scope that was found to be the only one that waits is taken to be it still."""

_FEWEST = 8
_REMEMBERED = 10_000


class Turns(StoreWrapper):
    """A store whose `claimable` lets the scopes take turns.

    Args:
        inner: The store.
        held_back: The scopes whose tasks may not start now.
    """

    def __init__(self, inner: TaskStore, held_back: Callable[[], Collection[str]] = tuple) -> None:
        super().__init__(inner)
        self._held_back = held_back
        self._rota = Rota()
        self._shown: OrderedDict[str, None] = OrderedDict()
        self._alone_at = float("-inf")

    async def claimable(self, operation_types: Collection[str], limit: int) -> Sequence[Task]:
        """Pending tasks of these operations: the highest priority first; of one priority the scopes in turn, of each
        scope the oldest. Fewer than `limit` only where there are no more that may start."""
        page = await self.inner.claimable(operation_types, limit)
        held_back = self._held_back()
        scopes = {task.scope for task in page}
        if len(page) >= limit > 0:
            if len(scopes) > 1 or held_back or elapsed() - self._alone_at > _ALONE_SECONDS:
                page = [*page, *await self._waiting(operation_types, limit, held_back)]
                if {task.scope for task in page} == scopes and len(scopes) == 1:
                    self._alone_at = elapsed()
        elif len(scopes) <= 1 and not held_back:
            return page
        known = {task.task_ref: task for task in page if task.scope not in held_back}
        ordered = sorted(known.values(), key=lambda task: (task.created_at, task.task_ref))
        found = self._rota.in_turn(ordered, lambda task: task.scope, lambda task: -task.priority)[:limit]
        self._remember(found)
        return found

    async def replace(self, task: Task, *, seen_lease: datetime | None = None, note: Note | None = None) -> bool:
        """See `TaskStore.replace`."""
        written = await self.inner.replace(task, seen_lease=seen_lease, note=note)
        if written and task.status is TaskStatus.PROCESSING and task.task_ref in self._shown:
            del self._shown[task.task_ref]
            self._rota.served(task.scope)
        return written

    async def _waiting(
        self, operation_types: Collection[str], limit: int, held_back: Collection[str]
    ) -> Sequence[Task]:
        """Tasks of other scopes; more of each where some scopes have fewer than their share."""
        found: Sequence[Task] = ()
        wanted, before = max(limit, _FEWEST), -1
        while before < len(found) < limit or before < 0:
            before = len(found)
            found = await self.inner.waiting(operation_types, wanted, after=self._rota.last, leave_out=held_back)
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
