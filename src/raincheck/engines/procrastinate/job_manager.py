"""The job manager of procrastinate: deletes ended jobs in batches, also after outages of the server."""

from __future__ import annotations

import asyncio

from procrastinate.connector import BaseConnector
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager

from raincheck.engines.procrastinate.schema import mapped
from raincheck.engines.queue.publisher import QueueUnavailable
from raincheck.timing.background import BackgroundLoop

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
        self._loop = BackgroundLoop("job-ends", self._delete_all, purpose="delete jobs that ended")

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """See `JobManager.finish_job`. The job may be gone already; that is no error."""
        assert job.id is not None
        self._ended.add(job.id)
        self._loop.start()
        self._loop.wake()

    async def stop(self, seconds: float) -> None:
        """Delete what is left, for up to so many seconds, and end. Idempotent."""
        await self._loop.drain(seconds)
        await self._loop.stop()

    async def _delete_all(self) -> None:
        while self._ended:
            ids = tuple(self._ended)
            try:
                with mapped():
                    await self.connector.execute_query_async(_DELETE, ids=list(ids))
            except QueueUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._ended.difference_update(ids)
