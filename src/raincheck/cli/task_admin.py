"""Task administration: an operator's actions on the tasks of all scopes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from dataclasses import replace
from datetime import datetime, timedelta

from raincheck.domain.redaction import redact_outcome
from raincheck.domain.result_body import plain_value, to_text
from raincheck.domain.task import TERMINAL, Outcome, Task, TaskStatus, new_task_ref
from raincheck.domain.unicode_text import well_formed
from raincheck.errors import CallError, InvalidParameters, TaskNotFound
from raincheck.ports.task_store import Cursor, TaskQuery, TaskStore, TaskSummary
from raincheck.tasks.registry import Registry
from raincheck.tasks.results import Results
from raincheck.tasks.views import OPERATOR
from raincheck.tasks.writer import TaskWriter
from raincheck.timing.clock import utc_now
from raincheck.webhooks.delivery import first_record

_PAGE = 500
_LENGTH_OF_REF = len(new_task_ref())


class TaskAdmin:
    """The operator's view of an open store.

    Every method that takes a `task_ref` also takes the first characters of one.
    """

    def __init__(self, store: TaskStore, results: Results) -> None:
        self._store = store
        # A task that an operator ends is told of as any other.
        self._registry = Registry(store, {}, TaskWriter(store, utc_now, delivery_of=first_record))
        self._results = results

    async def newest(
        self, *, statuses: Collection[str] = (), operation_type: str | None, scope: str | None, limit: int
    ) -> list[TaskSummary]:
        """The newest tasks that fit."""
        wanted = [TaskStatus(status) for status in statuses]
        found: list[TaskSummary] = []
        pages = self._pages(statuses=wanted, operation_type=operation_type, scope=scope, size=min(limit, _PAGE))
        async for summary in pages:
            found.append(summary)
            if len(found) == limit:
                break
        return found

    async def find(self, task_ref: str) -> Task:
        """The task.

        Raises:
            TaskNotFound: No task begins with `task_ref`.
            InvalidParameters: Several do.
        """
        try:
            return await self._registry.get(task_ref, scope=OPERATOR)
        except TaskNotFound:
            full = await self._completed(task_ref)
            return await self._registry.get(full, scope=OPERATOR)

    async def result(self, task_ref: str) -> bytes:
        """Its whole result without secret members: a text in UTF-8, an image as it is, anything else as JSON.

        Raises:
            CallError: As in `find`; or it has none.
        """
        try:
            task = await self.find(task_ref)
        except TaskNotFound as error:
            try:
                return await (await self._results.of_request(task_ref, None)).read()
            except TaskNotFound:
                raise error from None
        stored = self._results.of(task)
        data = await stored.read()
        if task.outcome is None or not task.outcome.secret:
            return data
        value = plain_value(stored.form, stored.shape, stored.media_type, data)
        return well_formed(to_text(redact_outcome(Outcome(value=value, secret=task.outcome.secret)).value)).encode()

    async def cancel(self, task_ref: str) -> tuple[Task, bool]:
        """The task after its cancellation, and whether that changed it.

        Raises:
            CallError: As in `find`.
        """
        found = await self.find(task_ref)
        task = await self._registry.cancel(found.task_ref, scope=OPERATOR)
        return task, task.status is TaskStatus.CANCELLED and not found.terminal

    async def retry(self, task_ref: str) -> Task:
        """A new pending task with the same operation, arguments, scope and limits.

        Raises:
            CallError: As in `find`; or the task has not ended, and its work would run twice.
        """
        task = await self.find(task_ref)
        if not task.terminal:
            raise CallError(f"task {task.task_ref} is still {task.status}: cancel it first, or wait for its end")
        now = await self._now()
        again = Task(
            task_ref=new_task_ref(),
            scope=task.scope,
            operation_type=task.operation_type,
            arguments=task.arguments,
            created_at=now,
            updated_at=now,
            deadline_at=now + (task.deadline_at - task.created_at),
            ttl_seconds=task.ttl_seconds,
            max_attempts=task.max_attempts,
            retry_when_lost=task.retry_when_lost,
            priority=task.priority,
            callback_url=task.callback_url,
            own_webhook=task.own_webhook,
            caller=task.caller,
        )
        return (await self._store.insert(again)).task

    async def purge_expired(self) -> int:
        """Remove the ended tasks whose retention is over; how many."""
        removed = 0
        while count := await self._store.purge(await self._now(), _PAGE):
            removed += count
        return removed

    async def count_settled_before(self, age: timedelta) -> int:
        """How many tasks ended longer ago than `age`."""
        return len(await self._settled_before(await self._now() - age))

    async def purge_settled_before(self, age: timedelta) -> int:
        """Remove the tasks that ended longer ago than `age`, and those whose retention is over; how many."""
        now = await self._now()
        for task_ref in await self._settled_before(now - age):
            task = await self._store.get(task_ref)
            if task is None or not task.terminal:
                continue
            # The store removes what has expired, so their retention ends now.
            if await self._store.replace(replace(task, version=task.version + 1, expires_at=now)):
                await self._results.drop(task.outcome)
        return await self.purge_expired()

    async def _now(self) -> datetime:
        return await self._store.time() or utc_now()

    async def _settled_before(self, moment: datetime) -> list[str]:
        pages = self._pages(statuses=TERMINAL)
        return [found.task_ref async for found in pages if found.settled_at is not None and found.settled_at <= moment]

    async def _completed(self, prefix: str) -> str:
        found: set[str] = set()
        if 0 < len(prefix) < _LENGTH_OF_REF:
            found = {summary.task_ref async for summary in self._pages() if summary.task_ref.startswith(prefix)}
        if not found:
            raise TaskNotFound(f"there is no task {prefix[:40]!r} in this store")
        if len(found) > 1:
            raise InvalidParameters(f"{len(found)} tasks begin with {prefix!r}; give more of the task_ref")
        return found.pop()

    async def _pages(
        self,
        *,
        statuses: Collection[TaskStatus] = (),
        operation_type: str | None = None,
        scope: str | None = None,
        size: int = _PAGE,
    ) -> AsyncGenerator[TaskSummary]:
        after: Cursor | None = None
        while True:
            page = await self._store.list(
                TaskQuery(scope=scope, statuses=statuses, operation_type=operation_type, after=after, limit=size)
            )
            for summary in page:
                yield summary
            if len(page) < size:
                return
            after = Cursor(page[-1].created_at, page[-1].task_ref)
