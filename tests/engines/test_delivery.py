"""What every engine does: tasks that one process accepts run in another, once, in turn, and not too many at a time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Any

from engines.kinds import Place
from engines.submitting import accepting, settled, submit, until

from raincheck.domain.task import Task, TaskStatus
from raincheck.operations.context import TaskContext
from raincheck.stores.sqlite.store import SqliteStore
from raincheck.timing.clock import utc_now
from support.history import figures
from support.lab import Lab
from support.waiting import PATIENCE


async def test_tasks_that_one_process_accepts_run_once_each_in_others(lab: Lab, place: Place) -> None:
    runs: Counter[str] = Counter()

    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        runs[context.task_ref] += 1
        await asyncio.sleep(0)

    engine = place.engine()
    async with accepting(lab, place) as server:
        refs = await submit(server, "work", 100)
        async with lab.service(engine=engine) as worker, lab.service(engine=engine):
            refs += await submit(server, "work", 200)
            tasks = await settled(worker, refs)
            assert {task.status for task in tasks} == {TaskStatus.COMPLETED}
            await until(lambda: not place.left())
    assert runs == Counter(refs)
    assert list(place.left()) == []


async def test_a_process_that_only_accepts_runs_nothing(lab: Lab, place: Place) -> None:
    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any: ...

    async with accepting(lab, place) as server:
        refs = await submit(server, "work")
        waited = await server.registry.wait(refs[0], scope="a", seconds=1.5)
    assert waited.status is TaskStatus.PENDING


async def test_tasks_start_in_about_the_order_of_their_acceptance(lab: Lab, place: Place) -> None:
    order: list[int] = []

    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        order.append(arguments["number"])

    async with accepting(lab, place) as server:
        refs = [(await submit(server, "work", number=number))[0] for number in range(40)]
        async with lab.service(engine=place.engine(), max_concurrency=1) as worker:
            await settled(worker, refs)
    assert sorted(order) == list(range(40))
    assert all(abs(number - turn) <= 5 for turn, number in enumerate(order)), order


async def test_no_more_tasks_run_than_there_are_places(lab: Lab, place: Place) -> None:
    now = most = 0

    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.05)
        now -= 1

    # The queue and the scan of the store compete for the places.
    async with accepting(lab, place) as server:
        refs = await submit(server, "work", 150)
        async with lab.service(engine=place.engine(0.2), max_concurrency=5) as worker:
            await settled(worker, refs)
    assert most == 5


async def test_a_parked_task_gives_its_place_to_another_and_takes_one_again(lab: Lab, place: Place) -> None:
    order: list[str] = []
    running = most = 0
    suspended, first, last = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hold(name: str, go: asyncio.Event) -> None:
        nonlocal running, most
        order.append(name)
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1

    @lab.operation("ask")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        suspended.set()
        await context.elicit("Well?", {"type": "object"})
        await hold("asked", last)

    @lab.operation("wait")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        await hold(arguments["name"], first)

    async with accepting(lab, place) as server, lab.service(engine=place.engine(), max_concurrency=1) as worker:
        refs = await submit(server, "ask")
        await asyncio.wait_for(suspended.wait(), PATIENCE)
        refs += await submit(server, "wait", name="one")
        await until(lambda: order == ["one"])
        refs += await submit(server, "wait", name="two")
        task = await worker.registry.wait(refs[0], scope="a", seconds=PATIENCE)
        answer: dict[str, Any] = {"action": "accept", "content": {}}
        await server.registry.provide_input(refs[0], {task.outstanding[0].key: answer}, scope="a")
        # Answered while its place is taken, it goes on when one is free; what is pending waits for it then.
        assert (await worker.registry.wait(refs[0], scope="a", seconds=0.3)).status is TaskStatus.PROCESSING
        first.set()
        await until(lambda: order == ["one", "asked"])
        assert (await worker.registry.wait(refs[2], scope="a", seconds=1.5)).status is TaskStatus.PENDING
        last.set()
        done = await settled(worker, refs)
    assert {task.status for task in done} == {TaskStatus.COMPLETED}
    assert order == ["one", "asked", "two"]
    assert most == 1


async def test_a_busy_worker_leaves_tasks_to_an_idle_one(lab: Lab, place: Place) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    @lab.operation("long")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.set()
        await go.wait()

    @lab.operation("short")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any: ...

    engine = place.engine()
    async with accepting(lab, place) as server, lab.service(engine=engine, max_concurrency=1) as busy:
        long = await submit(server, "long")
        await asyncio.wait_for(started.wait(), PATIENCE)
        async with lab.service(engine=engine, max_concurrency=1) as idle:
            done = await settled(idle, await submit(server, "short", 10), 10)
            assert {task.status for task in done} == {TaskStatus.COMPLETED}
            assert busy.running == 1
            go.set()
            await settled(busy, long)


async def test_a_task_that_is_delivered_many_times_starts_once(lab: Lab, place: Place) -> None:
    runs: list[str] = []
    go = asyncio.Event()

    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        runs.append(context.task_ref)
        await go.wait()

    async with accepting(lab, place) as server, lab.service(engine=place.engine(), max_concurrency=3) as worker:
        task = (await server.registry.submit("work", {}, scope="a")).task
        again = place.engine()(lab_store(server), lab.operations.keys, max_concurrency=0, clock=utc_now)
        await again.start(_run_nothing)
        for _time in range(10):
            await again.deliver(task)
        await again.stop(0)
        await again.join()
        # What is delivered later finds the others done.
        await until(lambda: bool(runs))
        after = await submit(server, "work")
        await until(lambda: len(runs) == 2)
        go.set()
        await settled(worker, [task.task_ref, *after])
        await until(lambda: not place.left())
    assert runs == [task.task_ref, *after]


async def _run_nothing(task: Any, slot: Any) -> None:
    raise AssertionError("this engine has no places")


def lab_store(service: Any) -> Any:
    return service._store


async def test_a_cancel_by_another_process_reaches_the_worker_within_a_second(lab: Lab, place: Place) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    @lab.operation("slow")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async with accepting(lab, place) as server, lab.service(engine=place.engine()) as worker:
        refs = await submit(server, "slow")
        await asyncio.wait_for(started.wait(), PATIENCE)
        began = time.monotonic()
        await server.registry.cancel(refs[0], scope="a")
        await asyncio.wait_for(stopped.wait(), PATIENCE)
        assert time.monotonic() - began < 1.0
        await until(lambda: worker.running == 0)
        await until(lambda: not place.left())


async def test_a_worker_that_stops_ends_what_it_runs_and_leaves_the_rest(lab: Lab, place: Place) -> None:
    started, go = asyncio.Semaphore(0), asyncio.Event()
    ran: list[str] = []

    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.release()
        await go.wait()
        ran.append(context.task_ref)

    engine = place.engine(0.5)
    async with accepting(lab, place) as server:
        refs = await submit(server, "work", 6)
        async with lab.service(engine=engine, max_concurrency=2, drain_seconds=5.0) as first:
            for _place in range(2):
                await asyncio.wait_for(started.acquire(), PATIENCE)
            stopping = asyncio.create_task(first.stop())
            async with asyncio.timeout(PATIENCE):
                while await first.unready(1) is None:
                    await asyncio.sleep(0)
            go.set()
            await asyncio.wait_for(stopping, PATIENCE)
        assert len(ran) == 2
        async with lab.service(engine=engine) as second:
            done = await settled(second, refs)
            await until(lambda: not place.left())
    assert {task.status for task in done} == {TaskStatus.COMPLETED}
    assert sorted(ran) == sorted(refs)


async def test_what_a_stopping_worker_gives_back_is_brought_to_another_one(lab: Lab, place: Place) -> None:
    """Over the queue: what it has lost would not be found within this test."""
    started = asyncio.Event()

    @lab.operation("work", on_worker_lost="retry")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.set()
        if context.attempt == 1:
            await asyncio.sleep(60)
        return "again"

    async with accepting(lab, place) as server:
        async with lab.service(engine=place.engine()):
            refs = await submit(server, "work")
            await asyncio.wait_for(started.wait(), PATIENCE)
        async with lab.service(engine=place.engine()) as second:
            (done,) = await settled(second, refs)
    assert done.outcome is not None
    assert (done.outcome.value, done.attempt) == ("again", 2)


class Counting(SqliteStore):
    """A store that counts how often a task was looked up that no longer waited for a worker."""

    stale = 0

    async def get(self, task_ref: str) -> Task | None:
        task = await super().get(task_ref)
        self.stale += task is None or task.status is not TaskStatus.PENDING
        return task


async def test_a_long_backlog_is_worked_off_by_the_queue_alone(lab: Lab, queue: Place) -> None:
    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        await asyncio.sleep(0.01)

    store = Counting(lab.path)
    async with accepting(lab, queue) as server:
        refs = await submit(server, "work", 200)
        # Every one of them has been pending for longer than that, and is lost for all the store knows.
        async with lab.service(store=store, engine=queue.engine(0.2), max_concurrency=4) as worker:
            await settled(server, refs)
            await until(lambda: worker.running == 0 and not queue.left())
    figures(f"A backlog of 200, {queue.kind.name}", {"brought by the queue after the scanner had them": store.stale})
    assert store.stale < 50


async def test_an_idle_worker_hears_of_a_task_at_once(lab: Lab, place: Place) -> None:
    at: list[float] = []

    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        at.append(time.monotonic())

    taken: list[float] = []
    async with accepting(lab, place) as server, lab.service(engine=place.engine()) as worker:
        await settled(worker, await submit(server, "work"))
        for _time in range(3 if place.kind.server is None else 30):
            ref = (await submit(server, "work"))[0]
            accepted = time.monotonic()
            await settled(worker, [ref])
            taken.append(1000 * (at[-1] - accepted))
    figures(
        f"From a ticket to the start in an idle worker of another process, {place.kind.name}",
        {"median, ms": median(taken), "longest, ms": max(taken)},
    )
