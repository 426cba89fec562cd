"""Detection of lost workers: tasks whose process on this machine is gone do not wait for their leases.

For stores that only processes of one machine share. Over a network a clone of a running virtual machine may use the
same store: it has the same boot, the same namespaces and other processes, so that a process id proves nothing there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import StoreError
from raincheck.ports.task_store import Cursor, TaskQuery, TaskStore
from raincheck.runtime.process_identity import Kernel, ProcessIdentity, identity_in, is_gone
from raincheck.timing.clock import monotonic

logger = logging.getLogger(__name__)

_LEASED = (TaskStatus.PROCESSING, TaskStatus.INPUT_REQUIRED)
_PAGE = 200
# An orphan reaper ends the children of a dead process within about a second: the wait for one that is not seen.
_UNSEEN_REAPER_SECONDS = 3.0


class WorkerProcesses:
    """The processes of workers, as this one sees them.

    Args:
        own: This process, None where the platform does not tell: then nothing is ever concluded.
        kernel: The operating system.
    """

    def __init__(self, own: ProcessIdentity | None, kernel: Kernel) -> None:
        self._own = own
        self._kernel = kernel

    def gone(self, worker_id: str | None) -> bool:
        """Whether the worker's process certainly does not run any more. Cheap; does not block."""
        process = self.process_of(worker_id)
        return process is not None and self._own is not None and is_gone(process, self._own, self._kernel)

    def process_of(self, worker_id: str | None) -> ProcessIdentity | None:
        """The process that the worker's name carries, or None."""
        return None if worker_id is None or self._own is None else identity_in(worker_id)


class LostWorkers:
    """Finds what is to be taken over on one store.

    The first search reads a summary of every leased task; later ones a page at a time, the next one where the last
    ended, so that a search costs little however many tasks wait for their callers under a lease. Where a page has a
    task of a lost worker, all are read again until there is none left.

    Args:
        store: The open store.
        processes: Tells which workers are gone.
        guarded: Whether the orphan reaper of a process still ends its children; None where nothing tells. Blocks.
    """

    def __init__(self, store: TaskStore, processes: WorkerProcesses, *, guarded: Callable[[int], bool | None]) -> None:
        self._store = store
        self._processes = processes
        self._guarded = guarded
        self._after: Cursor | None = None
        self._search_all = True
        self._gone_since: dict[str, float] = {}

    async def search(self) -> AsyncGenerator[Sequence[Task]]:
        """The tasks to take over now, in batches.

        Raises:
            StoreError: They cannot be listed; the next search begins anew.
        """
        if not self._search_all:
            page = await self._next_page()
            if not any(self._processes.gone(worker) for worker in page.values()):
                return
        self._search_all, self._after = True, None
        found = set[str]()
        free = dict[str, bool]()
        while True:
            page = await self._next_page()
            for worker in set(page.values()) - free.keys():
                free[worker] = self._processes.gone(worker) and await self._children_ended(worker)
                if worker in self._gone_since:
                    found.add(worker)
            if batch := await self._tasks([ref for ref, worker in page.items() if free[worker]]):
                yield batch
            if self._after is None:
                break
        self._gone_since = {worker: since for worker, since in self._gone_since.items() if worker in found}
        self._search_all = bool(found)

    async def _next_page(self) -> dict[str, str]:
        """The next leased tasks, and the worker of each."""
        page = await self._store.list(TaskQuery(statuses=_LEASED, after=self._after, limit=_PAGE))
        self._after = Cursor(page[-1].created_at, page[-1].task_ref) if len(page) == _PAGE else None
        return {each.task_ref: each.worker_id for each in page if each.worker_id is not None}

    async def _children_ended(self, worker: str) -> bool:
        """Whether nothing that the dead worker started runs on: a second start must not overlap with the first."""
        process = self._processes.process_of(worker)
        assert process is not None, "it is known to be gone"
        since = self._gone_since.setdefault(worker, monotonic())
        guarded = await asyncio.to_thread(self._guarded, process.pid)
        return not guarded if guarded is not None else monotonic() - since >= _UNSEEN_REAPER_SECONDS

    async def _tasks(self, task_refs: Sequence[str]) -> Sequence[Task]:
        found = await asyncio.gather(*(self._task(task_ref) for task_ref in task_refs))
        return [task for task in found if task is not None and self._processes.gone(task.worker_id)]

    async def _task(self, task_ref: str) -> Task | None:
        try:
            return await self._store.get(task_ref)
        except StoreError as error:
            # One that cannot be opened here (encrypted with another key) must not keep the others waiting.
            logger.debug("cannot take over a task: %s", error.message, extra={"task_ref": task_ref})
            return None
