"""Waiting tasks of the memory store: a queue for each scope of an operation and a priority."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from raincheck.domain.task import Task
from raincheck.stores.memory.timer_heap import TimerHeap
from raincheck.stores.shared.waiting import behind, share


class Lines:
    """Pending tasks by scope."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, str], dict[str, TimerHeap[str, datetime]]] = {}

    def add(self, task: Task) -> None:
        """It is pending."""
        lines = self._lines.setdefault((-task.priority, task.operation_type), {})
        lines.setdefault(task.scope, TimerHeap()).put(task.task_ref, task.created_at)

    def remove(self, task: Task) -> None:
        """It is not pending, whether it was or not."""
        name = (-task.priority, task.operation_type)
        line = self._lines.get(name, {}).get(task.scope)
        if line is None:
            return
        line.discard(task.task_ref)
        if not len(line):
            del self._lines[name][task.scope]
            if not self._lines[name]:
                del self._lines[name]

    def first(
        self, operation_types: Collection[str], limit: int, *, after: str, leave_out: Collection[str]
    ) -> list[str]:
        """See `TaskStore.waiting`: the refs."""
        found: list[str] = []
        last = 0
        for priority, operation_type in sorted(name for name in self._lines if name[1] in operation_types):
            if len(found) >= limit and priority != last:
                break
            last, lines = priority, self._lines[priority, operation_type]
            scopes = behind(sorted(lines.keys() - set(leave_out)), after, limit)
            for scope in scopes:
                found += [task_ref for _, task_ref in lines[scope].first(share(limit, scopes))]
        return found
