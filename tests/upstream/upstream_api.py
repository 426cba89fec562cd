"""An HTTP API that does long work as jobs of its own: counts what it is asked, and fails as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from operations.http_server import Received, answer, serving

from support.waiting import PATIENCE

Hook = Callable[[Received], Awaitable[bytes | None]]


class JobApi:
    """The API's jobs: `POST /jobs`, `GET /jobs/ID`, `GET /results/ID`, `DELETE /jobs/ID`.

    Attributes:
        polls: How many questions a job answers before it is done.
        submits: The idempotency key of every request that began a job; None where it had none.
        began: As `submits`, without those that the API deduplicated.
        cancelled: The jobs that were cancelled.
        before: Called with each request first: may answer it, hang, or kill somebody.
        after: Called with each request once it is answered.
    """

    def __init__(self) -> None:
        self.polls = 2
        self.submits: list[str | None] = []
        self.began: list[str | None] = []
        self.cancelled: list[str] = []
        self.jobs: dict[str, int] = {}
        self.before: Hook | None = None
        self.after: Hook | None = None
        self.received: list[Received] = []
        self.url = ""
        self.outcome = "done"
        self._ids: dict[str, str] = {}
        self._asked = asyncio.Condition()

    async def handle(self, request: Received, writer: asyncio.StreamWriter) -> None:
        async with self._asked:
            self.received.append(request)
            self._asked.notify_all()
        given = None if self.before is None else await self.before(request)
        writer.write(self._answer(request) if given is None else given)
        await writer.drain()
        if self.after is not None:
            await self.after(request)

    async def asked(self, method: str, path: str, times: int = 1, seconds: float = PATIENCE) -> None:
        """Wait until such requests have come."""

        def enough() -> bool:
            return sum(each.method == method and each.target.startswith(path) for each in self.received) >= times

        async with asyncio.timeout(seconds), self._asked:
            await self._asked.wait_for(enough)

    def job_of(self, key: str) -> str:
        """The job that was begun with that key."""
        return self._ids[key]

    def _answer(self, request: Received) -> bytes:
        _, kind, *rest = request.target.partition("?")[0].split("/")
        if (request.method, kind) == ("POST", "jobs"):
            return self._begin(request.headers.get("idempotency-key"))
        job = rest[0]
        if job not in self.jobs:
            return answer(404, {"error": "no such job"})
        if request.method == "DELETE":
            self.cancelled.append(job)
            return answer(204)
        if kind == "results":
            return answer(200, {"report": job})
        self.jobs[job] += 1
        if self.jobs[job] <= self.polls:
            return answer(200, {"state": "busy", "percent": 10 * self.jobs[job], "id": job})
        told = {"state": self.outcome, "id": job, "why": "no paper", "links": {"result": f"/results/{job}"}}
        return answer(200, {**told, "value": {"report": job}})

    def _begin(self, key: str | None) -> bytes:
        self.submits.append(key)
        if key is None or key not in self._ids:
            job = f"j{len(self.jobs) + 1}"
            self.jobs[job] = 0
            self.began.append(key)
            self._ids[key or job] = job
        job = self._ids[key] if key is not None else job  # pyright: ignore[reportPossiblyUnboundVariable]
        return answer(201, {"id": job, "links": {"self": f"/jobs/{job}"}})


@asynccontextmanager
async def job_api() -> AsyncGenerator[JobApi]:
    api = JobApi()
    async with serving(api.handle) as server:
        api.url = server.url
        yield api
