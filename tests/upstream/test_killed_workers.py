"""`kill -9` of a real worker at any point of an upstream job's life, on a store that others took over."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from operations.http_server import Received
from upstream.upstream_api import JobApi, job_api

from raincheck.composition.adapters import make_engine, make_store, service_settings
from raincheck.composition.operations import make_operations
from raincheck.config.loading import load_settings
from raincheck.domain.task import Task, TaskStatus
from raincheck.runtime.service import Service, ServiceSettings
from support.serving import Process, Workplace
from support.waiting import PATIENCE

POLL = """
status_url = "{{$.links.self}}"
state = "$.state"
done = ["done"]
failed = ["broken"]
result_url = "{{$.links.result}}"
interval_seconds = 0.05
max_interval_seconds = 0.1
"""
TOML = f"""
[state]
provider = "{{provider}}"

[execution]
lease_seconds = 1
drain_seconds = 0
max_attempts = 100

[operations.once]
kind = "http"
method = "POST"
url = "{{url}}/jobs"
description = "Build a report."
idempotency_header = "Idempotency-Key"

[operations.once.poll]
{POLL}

[operations.plain]
kind = "http"
method = "POST"
url = "{{url}}/jobs"
description = "Build a report."

[operations.plain.poll]
{POLL}
"""
POINTS = [
    ("before", "POST", "/jobs"),
    ("after", "POST", "/jobs"),
    ("before", "GET", "/jobs/"),
    ("before", "GET", "/results/"),
    ("after", "GET", "/results/"),
]
"""Where the worker is killed: when such a request arrives, or while it does something with the answer."""
TASKS = 5


class Site:
    """A store, one worker at a time, and the API."""

    def __init__(self, folder: Path, api: JobApi, toml: str, url: str) -> None:
        self.workplace = Workplace(folder, toml)
        self.environment = {"RAINCHECK_STATE__URL": url or str(self.workplace.database)}
        settings = load_settings(folder / "raincheck.toml", environ=self.environment)
        operations = make_operations(settings)
        values = {**{name: getattr(service_settings(settings), name) for name in ("lease_seconds", "drain_seconds")}}
        self.service = Service(
            make_store(settings),
            operations,
            ServiceSettings(max_concurrency=0, **values),
            engine=make_engine(settings),
        )
        self.api = api
        self.kills = 0
        self._worker: Process | None = None
        self._stack = contextlib.AsyncExitStack()

    async def start_worker(self) -> None:
        self._worker = await self._stack.enter_async_context(self.workplace.command("worker", env=self.environment))

    async def kill(self) -> None:
        assert self._worker is not None
        self.kills += 1
        await self._worker.kill()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Site]:
        async with self._stack:
            await self.service.start()
            try:
                yield self
            finally:
                await self.service.stop()

    def kill_at(self, when: str, method: str, path: str) -> asyncio.Event:
        """Kill the worker before, or right after, such a request is answered."""
        killed = asyncio.Event()

        async def look(request: Received) -> bytes | None:
            if request.method == method and request.target.startswith(path) and not killed.is_set():
                killed.set()
                if when == "after":
                    # Somewhere in what it does with the answer.
                    await asyncio.sleep(random.uniform(0, 0.004))
                await self.kill()
            return None

        self.api.before = self.api.after = None
        setattr(self.api, when, look)
        return killed


async def test_a_job_is_begun_once_by_its_header_and_else_never_twice(tmp_path: Path) -> None:
    await follow_through_kills(tmp_path, "sqlite", "")


async def follow_through_kills(folder: Path, provider: str, url: str) -> None:
    async with job_api() as api, Site(folder, api, TOML.format(provider=provider, url=api.url), url).open() as here:
        refs: dict[str, str] = {}
        for when, method, path in POINTS:
            for operation in ("once", "plain"):
                for _ in range(TASKS):
                    refs[(await here.service.registry.submit(operation, {}, scope="a")).task.task_ref] = operation
            killed = here.kill_at(when, method, path)
            await here.start_worker()
            async with asyncio.timeout(PATIENCE):
                await killed.wait()
        here.api.before = here.api.after = None
        await here.start_worker()
        for ref, operation in refs.items():
            task = await here.service.registry.wait(ref, scope="a", seconds=PATIENCE)
            assert task.terminal
            check(here.api, task, operation)
        assert here.kills == len(POINTS)


def check(api: JobApi, task: Task, operation: str) -> None:
    submits = api.submits.count(task.task_ref)
    assert task.outcome is not None
    if operation == "once":
        assert api.began.count(task.task_ref) == 1
        assert task.status is TaskStatus.COMPLETED, task.outcome
    elif task.status is TaskStatus.COMPLETED:
        assert submits == 1
    else:
        # Only where its id was not durable when the worker was killed; and then it is not begun again.
        assert task.outcome.error is not None
        assert (task.outcome.error.code, task.checkpoint) == ("worker_lost", None)
        assert submits <= 1
    if task.status is TaskStatus.COMPLETED:
        assert task.outcome.value == {"report": api.job_of(task.task_ref)}
