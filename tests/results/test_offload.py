"""From the worker's side: the whole is durable before the task is settled, and goes when nobody can ask for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from raincheck.blob_stores.files import FileBlobs
from raincheck.blob_stores.records import RecordBlobStore
from raincheck.domain.task import Task
from raincheck.errors import StoreUnavailable
from raincheck.operations.context import TaskContext
from raincheck.stores.memory.store import MemoryStore
from raincheck.stores.sqlite.store import SqliteStore
from raincheck.tasks.results import Results
from raincheck.timing.clock import utc_now
from support.lab import Body, Lab
from support.waiting import PATIENCE

BIG = "zeile ä€𝄞\n" * 20_000


class Broken(FileBlobs):
    """Takes nothing."""

    tries = 0

    async def put(self, key: str, body: bytes) -> None:
        self.tries += 1
        raise StoreUnavailable("The disk is full.")


def big(lab: Lab, name: str = "big", **policy: Any) -> Body:
    @lab.operation(name, **policy)
    async def run(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return arguments.get("value", BIG)

    return run


async def finished(service: Any, name: str, arguments: Mapping[str, Any] | None = None) -> Task:
    ticket = await service.registry.submit(name, arguments or {}, scope="me")
    return await service.registry.wait(ticket.task.task_ref, scope="me", seconds=PATIENCE)


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


async def test_the_task_holds_a_preview_and_the_blob_the_whole(tmp_path: Path) -> None:
    lab, blobs = Lab(tmp_path / "tasks.db"), FileBlobs(tmp_path / "blobs")
    big(lab)
    async with lab.service(blobs=blobs) as service:
        task = await finished(service, "big")
        assert task.outcome is not None
        assert task.outcome.value is None
        assert task.outcome.large is not None
        assert task.outcome.large.size == len(BIG.encode())
        stored = await SqliteReader(lab.path).read(task.task_ref)
        assert stored == task.outcome
        assert (await service.results.of(task).read()).decode() == BIG
        small = await finished(service, "big", {"value": "x" * 65_536})
        assert small.outcome is not None
        assert small.outcome.value == "x" * 65_536
        assert (await service.results.of(small).read(3, 5)) == b"xxxxx"
        assert len(files(tmp_path / "blobs")) == 1


class SqliteReader:
    def __init__(self, path: Path) -> None:
        self._store = SqliteStore(path)

    async def read(self, task_ref: str) -> Any:
        await self._store.open()
        try:
            task = await self._store.get(task_ref)
            return task and task.outcome
        finally:
            await self._store.close()


async def test_what_cannot_be_put_away_stays_in_its_task_and_is_shown_as_a_preview(tmp_path: Path) -> None:
    lab, blobs = Lab(tmp_path / "tasks.db"), Broken(tmp_path / "blobs")
    big(lab)
    async with lab.service(blobs=blobs) as service:
        task = await finished(service, "big")
        assert blobs.tries == 5
        assert task.outcome is not None
        assert task.outcome.value == BIG
        assert task.outcome.large is not None
        assert task.outcome.large.blob is None
        assert (await service.results.of(task).read()).decode() == BIG


async def test_a_task_that_was_cancelled_in_the_meantime_leaves_no_blob(tmp_path: Path) -> None:
    putting, cancelled = asyncio.Event(), asyncio.Event()

    class Slow(FileBlobs):
        async def put(self, key: str, body: bytes) -> None:
            await super().put(key, body)
            putting.set()
            await cancelled.wait()

    lab = Lab(tmp_path / "tasks.db")
    big(lab)
    async with lab.service(blobs=Slow(tmp_path / "blobs")) as service:
        ticket = await service.registry.submit("big", {}, scope="me")
        await asyncio.wait_for(putting.wait(), PATIENCE)
        await service.registry.cancel(ticket.task.task_ref, scope="me")
        cancelled.set()
        async with asyncio.timeout(PATIENCE):
            while files(tmp_path / "blobs"):
                await asyncio.sleep(0.01)


async def test_a_blob_outlives_its_task_and_then_goes(tmp_path: Path) -> None:
    lab, blobs = Lab(tmp_path / "tasks.db"), FileBlobs(tmp_path / "blobs")
    big(lab, ttl_seconds=3600, default_max_wait_seconds=60)
    async with lab.service(blobs=blobs) as service:
        task = await finished(service, "big")
        assert task.expires_at is not None
        assert await blobs.purge(task.expires_at + timedelta(minutes=59), 10) == 0
        assert await blobs.purge(task.expires_at + timedelta(hours=2, minutes=1), 10) == 1


async def test_the_sweeper_purges_blobs(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    lab, blobs = Lab(tmp_path / "tasks.db"), FileBlobs(tmp_path / "blobs")
    big(lab, ttl_seconds=60)
    results = Results(MemoryStore(), blobs, clock=lambda: now)
    task = Task(
        task_ref="old", scope="me", operation_type="big", arguments={}, created_at=now, updated_at=now,
        deadline_at=now, ttl_seconds=60,
    )  # fmt: skip
    from raincheck.domain.task import Outcome

    await results.offload(Outcome(value=BIG), task, lab.operations["big"].policy)
    assert len(files(tmp_path / "blobs")) == 1
    async with lab.service(blobs=blobs):
        async with asyncio.timeout(PATIENCE):
            while files(tmp_path / "blobs"):
                await asyncio.sleep(0.01)


async def test_result_too_large_holds_for_whole_tool_results_too(tmp_path: Path) -> None:
    from raincheck.domain.task import Outcome

    lab = Lab(tmp_path / "tasks.db")

    @lab.operation("blocks", max_result_bytes=10_000)
    async def blocks(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return Outcome(mcp_result={"content": [{"type": "text", "text": "x" * 100}] * arguments["blocks"]})

    async with lab.service() as service:
        many = await finished(service, "blocks", {"blocks": 100})
        assert many.outcome is not None
        assert many.outcome.error is not None
        assert many.outcome.error.code == "result_too_large"
        few = await finished(service, "blocks", {"blocks": 10})
        assert few.status == "completed"


async def test_the_text_of_a_large_error_is_cut_and_its_whole_is_readable(tmp_path: Path) -> None:
    from raincheck.domain.task import Outcome, TaskError

    lab = Lab(tmp_path / "tasks.db")

    @lab.operation("fails")
    async def fails(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        result = {"content": [{"type": "text", "text": "e" * 100_000}], "isError": True}
        return Outcome(mcp_result=result, error=TaskError(code="operation_failed", message="e" * 100_000))

    store = MemoryStore()
    async with lab.service(store=store, blobs=RecordBlobStore(store)) as service:
        task = await finished(service, "fails")
        assert task.outcome is not None
        assert task.outcome.error is not None
        assert len(task.outcome.error.message) == 2001
        assert b"e" * 100_000 in await service.results.of(task).read()


_CHILD = """
import asyncio, sys
from pathlib import Path
from raincheck.blob_stores.files import FileBlobs
from raincheck.stores.sqlite.store import SqliteStore
from support.lab import Lab
folder = Path(sys.argv[1])
class Stuck(SqliteStore):
    async def replace(self, task, **more):
        if task.terminal:
            print(task.task_ref, flush=True)
            await asyncio.Event().wait()
        return await super().replace(task, **more)
async def main():
    lab = Lab(folder / "tasks.db")
    @lab.operation("big")
    async def big(arguments, context):
        return "x" * 200_000
    async with lab.service(store=Stuck(folder / "tasks.db"), blobs=FileBlobs(folder / "blobs")) as service:
        await service.registry.submit("big", {}, scope="me")
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_kill_between_blob_and_settling_leaves_nothing_readable_and_an_orphan_that_goes(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdout is not None
        task_ref = child.stdout.readline().decode().strip()
        child.kill()
    assert len(files(tmp_path / "blobs")) == 1
    lab, blobs = Lab(tmp_path / "tasks.db"), FileBlobs(tmp_path / "blobs")
    big(lab)
    async with lab.service(blobs=blobs) as service:
        task = await service.registry.wait(task_ref, scope="me", seconds=PATIENCE)
        assert task.outcome is not None
        assert task.outcome.error is not None
        assert task.outcome.error.code == "worker_lost"
        assert task.outcome.large is None
    assert await blobs.purge(utc_now() + timedelta(days=4), 10) == 1
    assert files(tmp_path / "blobs") == []


async def test_secret_members_are_in_no_preview(tmp_path: Path) -> None:
    lab, blobs = Lab(tmp_path / "tasks.db"), FileBlobs(tmp_path / "blobs")
    big(lab)
    schema = {"type": "object", "properties": {"token": {"type": "string", "writeOnly": True}}}
    lab.operations["big"] = replace(lab.operations["big"], output_schema=schema)
    async with lab.service(blobs=blobs) as service:
        task = await finished(service, "big", {"value": {"token": "hush-hush", "rows": ["x" * 70_000]}})
        assert task.outcome is not None
        assert task.outcome.large is not None
        assert "hush-hush" not in str(task.outcome.large.preview)
        assert b"hush-hush" in await service.results.of(task).read()
