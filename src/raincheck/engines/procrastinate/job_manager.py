"""How procrastinate's jobs end: deleted, many at once, however often the server is away in between."""

from __future__ import annotations

import asyncio
import logging

from procrastinate.connector import BaseConnector
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager

from raincheck.engines.procrastinate.schema import mapped
from raincheck.engines.queue.publisher import QueueUnavailable

logger = logging.getLogger(__name__)

_DELETE = "DELETE FROM procrastinate_jobs WHERE id = ANY(%(ids)s)"
_RETRY_SECONDS = 1.0


class JobEnds(JobManager):
    """procrastinate's job manager, but for the end of a job: it is deleted in the background.

    A worker that waits for each deletion has its places empty meanwhile, and one that fails to delete leaves a job that
    counts as running for as long as the worker lives.
    """

    def __init__(self, connector: BaseConnector) -> None:
        super().__init__(connector)
        self._ended: set[int] = set()
        self._arrived = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """See `JobManager.finish_job`. The job may be gone already; that is no error."""
        assert job.id is not None
        self._ended.add(job.id)
        self._arrived.set()
        if self._loop_task is None:
            self._loop_task = asyncio.create_task(self._delete_loop(), name="raincheck-job-ends")

    async def stop(self, seconds: float) -> None:
        """Delete what is left, for up to so many seconds, and end. Idempotent."""
        loop_task, self._loop_task = self._loop_task, None
        if loop_task is None:
            return
        self._arrived.set()
        await asyncio.wait({loop_task}, timeout=seconds)
        loop_task.cancel()
        await asyncio.gather(loop_task, return_exceptions=True)

    async def _delete_loop(self) -> None:
        while self._ended or self._loop_task is not None:
            await self._arrived.wait()
            self._arrived.clear()
            while self._ended:
                ids = tuple(self._ended)
                try:
                    with mapped():
                        await self.connector.execute_query_async(_DELETE, ids=list(ids))
                except QueueUnavailable:
                    await asyncio.sleep(_RETRY_SECONDS)
                else:
                    self._ended.difference_update(ids)
