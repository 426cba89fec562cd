"""Tasks as their callers see them: one, the next change of one, many that are followed, a page of a list.

Every caller comes with its scope, and a task of another scope does not exist for it. `OPERATOR` sees all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum
from typing import Final, Protocol

from raincheck.domain.task import Task, TaskStatus
from raincheck.domain.transitions import shown_when_lost
from raincheck.errors import StoreError, StoreUnavailable, TaskNotFound
from raincheck.ports.task_store import Cursor, TaskQuery, TaskStore, TaskSummary
from raincheck.tasks.watch import ChangeNotifier


class Operator(Enum):
    """Who runs the store (`raincheck tasks`), and sees every task. A type of its own: no caller's scope can be it."""

    OPERATOR = "operator"


OPERATOR: Final = Operator.OPERATOR

_LONGEST_REF = 128


class ProgressListener(Protocol):
    """Hears of a task's progress while a call waits for its end."""

    async def progressed(self, task: Task) -> float:
        """Take the task as it is now.

        Returns:
            After how many seconds to call again, changed or not; `inf`: once it has changed.
        """
        ...


class TaskViews:
    """Reads of tasks, each for a caller.

    Args:
        store: The open store.
        changes: Where waits hear of changes; None: they end at once.
        clock: The wall clock.
        worker_gone: Whether the process of the worker of that name is known to be dead.
    """

    def __init__(
        self,
        store: TaskStore,
        changes: ChangeNotifier | None,
        *,
        clock: Callable[[], datetime],
        worker_gone: Callable[[str | None], bool] = lambda worker_id: False,
    ) -> None:
        self._store = store
        self._changes = changes
        self._clock = clock
        self._worker_gone = worker_gone

    async def get(self, task_ref: str, *, scope: str | Operator) -> Task:
        """The task as it is now; of an attempt that is lost no progress is shown (`shown_when_lost`).

        Raises:
            TaskNotFound: Unknown, expired, or of another scope.
        """
        task = await self.stored(task_ref, scope)
        # The person who runs the store sees what is stored: the worker and its lease are there beside it.
        return task if scope is OPERATOR else self.shown(task)

    async def stored(self, task_ref: str, scope: str | Operator) -> Task:
        """The task as it is stored. Raises as `get` does."""
        task = await self._store.get(task_ref) if len(task_ref) <= _LONGEST_REF else None
        if task is None or scope not in (task.scope, OPERATOR):
            raise _not_found()
        if task.expires_at is not None and task.expires_at <= self._clock():
            raise _not_found()
        return task

    async def wait(
        self, task_ref: str, *, scope: str | Operator, seconds: float, listener: ProgressListener | None = None
    ) -> Task:
        """The task once it is terminal or waits for input, or as it is when `seconds` are over.

        Args:
            task_ref, scope: Which task, and whose.
            seconds: The bound.
            listener: Told of progress meanwhile, and no more once this returns.

        Raises:
            TaskNotFound: As in `get`.
            StoreUnavailable: The service has stopped: nothing more will be heard here.
        """
        if self._changes is None or seconds <= 0:
            return await self.get(task_ref, scope=scope)
        with self._changes.watch(task_ref) as watch:
            stopped = watch.ended
            task = await self.get(task_ref, scope=scope)
            if stopped and not task.terminal:
                raise _stopped()
            watch.seen(task)
            now = asyncio.get_running_loop().time
            until = now() + seconds
            while not (task.terminal or task.status is TaskStatus.INPUT_REQUIRED or watch.ended):
                pause = until - now()
                if pause <= 0:
                    break
                if listener is not None:
                    pause = min(pause, await listener.progressed(task))
                task = await watch.next_change(pause) or task
        return await self._as_it_is(task, scope)

    async def wait_for_change(self, seen: Task, *, scope: str | Operator, seconds: float) -> Task:
        """The task once it is another version than `seen`, or as it is when `seconds` are over.

        Raises:
            TaskNotFound: As in `get`.
            StoreUnavailable: The service has stopped: nothing more will be heard here.
        """
        if self._changes is None:
            return await self.get(seen.task_ref, scope=scope)
        with self._changes.watch(seen.task_ref) as watch:
            stopped = watch.ended
            task = await self.get(seen.task_ref, scope=scope)
            if task.version != seen.version:
                return task
            if stopped:
                raise _stopped()
            watch.seen(task)
            task = await watch.next_change(seconds) or task
        return await self._as_it_is(task, scope)

    async def follow(self, task_refs: Collection[str], *, scope: str | Operator) -> AsyncGenerator[Task]:
        """Each of these tasks as it is now, then after every change, until all are terminal.

        Changes that come faster than they are taken are merged: the last one wins. Unknown tasks, and those of other
        scopes, are passed over.
        """
        assert self._changes is not None, "nobody follows a registry that hears of no changes"
        with self._changes.feed(task_refs) as feed:
            open_refs = set(task_refs)
            for task_ref in task_refs:
                feed.name(task_ref)
            while open_refs:
                task = await feed.next()
                if isinstance(task, str):
                    try:
                        task = await self.get(task, scope=scope)
                    except TaskNotFound:
                        open_refs.discard(task)
                        continue
                if task.task_ref in open_refs:
                    if task.terminal:
                        open_refs.discard(task.task_ref)
                    yield self.shown(task)

    async def list(
        self,
        *,
        scope: str | Operator,
        statuses: Collection[TaskStatus] = (),
        operation_type: str | None = None,
        after: Cursor | None = None,
        limit: int = 50,
    ) -> Sequence[TaskSummary]:
        """A page of the scope's tasks, newest first."""
        page = await self._store.list(
            TaskQuery(
                scope=None if scope is OPERATOR else scope,
                statuses=statuses,
                operation_type=operation_type,
                after=after,
                limit=limit,
            )
        )
        if scope is OPERATOR:
            return page
        return [replace(each, progress=None) if self._worker_gone(each.worker_id) else each for each in page]

    def shown(self, task: Task) -> Task:
        """The task as its caller is told of it."""
        return shown_when_lost(task) if self._is_lost(task) else task

    def _is_lost(self, task: Task) -> bool:
        if task.lease_until is None:
            return False
        return task.lease_until <= self._clock() or self._worker_gone(task.worker_id)

    async def _as_it_is(self, task: Task, scope: str | Operator) -> Task:
        """The task for its caller, from a record that may be old: a watch does not tell of renewed leases."""
        if not self._is_lost(task):
            return task
        try:
            return await self.get(task.task_ref, scope=scope)
        except StoreError:
            return self.shown(task)


def _stopped() -> StoreUnavailable:
    return StoreUnavailable("The server is stopping. Call again.")


def _not_found() -> TaskNotFound:
    return TaskNotFound(
        "There is no such task: the task_ref is wrong, the task has expired, or it belongs to somebody else."
    )
