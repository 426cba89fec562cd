"""What becomes of tasks when their queue is emptied, ends, does not answer or was never there: late, and not lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from engines.kinds import DOCKET, Place, server_of
from engines.submitting import accepting, settled, submit, until

from raincheck.domain.task import TaskStatus
from raincheck.engines.docket.redis import probe_of, remove_idle_consumers
from raincheck.errors import ConfigurationError
from raincheck.operations.context import TaskContext
from raincheck.runtime.service import Service
from support.history import figures
from support.lab import Lab
from support.servers.redis import RedisServer
from support.servers.server import needed
from support.waiting import PATIENCE


@pytest.fixture
async def spare(queue: Place) -> AsyncIterator[Place]:
    """A queue on a server of its own, which is ended at the end."""
    assert queue.kind.server is not None
    server = queue.kind.server()
    server.start()
    yield Place(kind=queue.kind, server=server, name=queue.name)
    await asyncio.to_thread(server.close)


@pytest.fixture
def runs(lab: Lab) -> Counter[str]:
    """How often each task of the operation `work` was started."""
    counted: Counter[str] = Counter()

    @lab.operation("work", on_worker_lost="fail")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        counted[context.task_ref] += 1
        await asyncio.sleep(arguments.get("seconds", 0))

    return counted


async def delivered(server: Service, worker: Service) -> bool:
    """Whether a new task is brought by the queue, the store being looked at only much later."""
    ref = (await submit(server, "work"))[0]
    return (await worker.registry.wait(ref, scope="a", seconds=2)).terminal


async def until_delivered(server: Service, worker: Service, seconds: float = 30.0) -> float:
    """Submit until the queue works; how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not await delivered(server, worker):
            pass
    return time.monotonic() - began


def times_told(caplog: pytest.LogCaptureFixture) -> int:
    """How often the log says that a queue is away."""
    return sum("is away" in record.getMessage() for record in caplog.records)


async def test_tasks_that_a_queue_lost_are_found_in_the_store(lab: Lab, queue: Place, runs: Counter[str]) -> None:
    reconcile = 1.0
    async with accepting(lab, queue) as server, lab.service(engine=queue.engine(reconcile), max_concurrency=4) as one:
        refs = await submit(server, "work", 60, seconds=0.05)
        await until(lambda: len(runs) >= 8)
        queue.flush()
        began = time.monotonic()
        done = await settled(one, refs)
        took = time.monotonic() - began
        assert {task.status for task in done} == {TaskStatus.COMPLETED}
        again = await until_delivered(server, one)
    assert runs.most_common(1)[0][1] == 1
    figures(
        f"A flushed queue, {queue.kind.name}, reconcile_seconds {reconcile:g}, 60 tasks of 50 ms on 4 places",
        {"until all were done, s": took, "until it delivered again, s": again},
    )


async def test_a_worker_goes_on_with_its_queue_after_it_was_flushed(lab: Lab, queue: Place, runs: Counter[str]) -> None:
    async with accepting(lab, queue) as server, lab.service(engine=queue.engine()) as worker:
        await until_delivered(server, worker)
        for _ in range(3):
            queue.flush()
            await until_delivered(server, worker)


async def test_a_queue_that_dies_in_mid_load_loses_nothing(
    lab: Lab, spare: Place, runs: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    engine = spare.engine(1.0)
    async with accepting(lab, spare) as server, lab.service(engine=engine, max_concurrency=4) as worker:
        refs = await submit(server, "work", 40, seconds=0.05)
        await until(lambda: len(runs) >= 8)
        await asyncio.to_thread(spare.server.kill)
        refs += await submit(server, "work", 40, seconds=0.05)
        done = await settled(worker, refs)
        assert {task.status for task in done} == {TaskStatus.COMPLETED}
        await until(lambda: times_told(caplog) == 2, 10)
        # Long enough for each part of each process to have failed several times.
        await settled(worker, await submit(server, "work", 5, seconds=1))
        assert times_told(caplog) == 2, "each process says it once"
        await asyncio.to_thread(spare.server.start)
    # A worker whose scanner would not come for a minute is served by the queue, with what it has come to.
    async with accepting(lab, spare) as server, lab.service(engine=spare.engine()) as worker:
        await until_delivered(server, worker)
    assert runs.most_common(1)[0][1] == 1


async def test_a_worker_comes_back_to_its_queue_by_itself(lab: Lab, spare: Place, runs: Counter[str]) -> None:
    took: list[float] = []
    async with accepting(lab, spare) as server, lab.service(engine=spare.engine()) as worker:
        await until_delivered(server, worker)
        for _ in range(2):
            await asyncio.to_thread(getattr(spare.server, "stop_at_once", spare.server.kill))
            await submit(server, "work", 5)
            await asyncio.to_thread(spare.server.start)
            took.append(await until_delivered(server, worker))
    figures(f"Until a restarted queue delivered again, {spare.kind.name}", {"longest, s": max(took)})


async def test_a_running_task_does_not_mind_that_its_queue_restarts(lab: Lab, spare: Place, runs: Counter[str]) -> None:
    go, started = asyncio.Event(), asyncio.Event()

    @lab.operation("long")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        runs[context.task_ref] += 1
        started.set()
        await go.wait()

    async with accepting(lab, spare) as server, lab.service(engine=spare.engine(), max_concurrency=2) as worker:
        long = await submit(server, "long")
        await asyncio.wait_for(started.wait(), PATIENCE)
        await asyncio.to_thread(spare.server.kill)
        await asyncio.to_thread(spare.server.start)
        # The place that it does not hold is of use again, though it has not ended.
        await until_delivered(server, worker)
        go.set()
        done = await settled(worker, long)
        assert done[0].status is TaskStatus.COMPLETED
        await until(lambda: worker.running == 0)
    assert runs[long[0]] == 1


async def test_nobody_waits_for_a_queue_that_does_not_answer(lab: Lab, spare: Place, runs: Counter[str]) -> None:
    async with accepting(lab, spare) as server, lab.service(engine=spare.engine(1.0)) as worker:
        await until_delivered(server, worker)
        spare.server.freeze()
        try:
            longest = 0.0
            refs: list[str] = []
            for _ in range(20):
                began = time.monotonic()
                refs += await submit(server, "work")
                longest = max(longest, time.monotonic() - began)
            done = await settled(worker, refs)
            assert {task.status for task in done} == {TaskStatus.COMPLETED}
            began = time.monotonic()
            await worker.stop()
            stopped = time.monotonic() - began
            assert stopped < 12
        finally:
            spare.server.thaw()
    figures(f"A queue that does not answer, {spare.kind.name}", {"longest submission, s": longest, "stop, s": stopped})
    assert longest < 1.0
    assert runs.most_common(1)[0][1] == 1


async def test_a_service_starts_without_its_queue_and_finds_it_later(
    lab: Lab, spare: Place, runs: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(spare.server.kill)
    async with accepting(lab, spare) as server, lab.service(engine=spare.engine(0.5)) as worker:
        refs = await submit(server, "work", 10)
        done = await settled(worker, refs)
        assert {task.status for task in done} == {TaskStatus.COMPLETED}
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert [line for line in told if "is away" in line and f":{spare.server.port}" in line]
    async with accepting(lab, spare) as server, lab.service(engine=spare.engine()) as worker:
        await asyncio.to_thread(spare.server.start)
        await until_delivered(server, worker)


async def test_an_address_that_is_none_is_refused_in_one_line(queue: Place) -> None:
    form = "redis://:s3cret@127.0.0.1:port/0" if queue.kind.name == "docket" else "postgresql://u:s3cret@h:5432/d?no=1"

    class Wrong:
        url = form

        def database(self, number: int) -> str:
            return form

    with pytest.raises(ConfigurationError, match="address") as caught:
        queue.kind.make(Wrong(), queue.name, 5.0)
    assert "s3cret" not in caught.value.message
    assert "\n" not in caught.value.message


async def test_a_wrong_password_stops_the_start_with_one_line(lab: Lab, spare: Place) -> None:
    _ask_for_a_password(spare)
    url = spare.server.url.replace("://", "://someone:wr0ng@" if spare.kind.name == "docket" else "://")
    url = url.replace("postgres@", "someone:wr0ng@")

    class Wrong:
        def __init__(self) -> None:
            self.url = url

        def database(self, number: int) -> str:
            return url

    engine = spare.kind.make(Wrong(), spare.name, 5.0)
    for max_concurrency in (0, 1):
        with pytest.raises(ConfigurationError) as caught:
            async with lab.service(engine=engine, max_concurrency=max_concurrency):
                pass
        assert "wr0ng" not in caught.value.message
        assert str(spare.server.port) in caught.value.message
        assert "\n" not in caught.value.message


def _ask_for_a_password(place: Place) -> None:
    if place.kind.name == "docket":
        with contextlib.closing(place.server.client()) as client:
            client.config_set("requirepass", "the right one")
        return
    access = place.server.folder / "data" / "pg_hba.conf"
    access.write_text("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    place.server.stop()
    place.server.start()


async def test_the_consumers_that_dead_workers_left_are_removed(lab: Lab, runs: Counter[str]) -> None:
    needed(DOCKET.missing())
    server = server_of(RedisServer)
    place = Place(kind=DOCKET, server=server, name="consumers")
    async with accepting(lab, place) as accepts, lab.service(engine=place.engine()) as worker:
        await until_delivered(accepts, worker)
    probe = probe_of(server.url.replace("/0", "/1"))
    try:
        await remove_idle_consumers(probe, "consumers:stream", idle_ms=60_000)
        assert len(await probe.xinfo_consumers("consumers:stream", "docket-workers")) == 1
        await remove_idle_consumers(probe, "consumers:stream", idle_ms=0)
        assert await probe.xinfo_consumers("consumers:stream", "docket-workers") == []
        await remove_idle_consumers(probe, "no such stream", idle_ms=0)
    finally:
        await probe.aclose()
        await probe.connection_pool.disconnect()
