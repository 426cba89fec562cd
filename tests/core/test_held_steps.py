"""No step of an operation is taken under a lease that is over: the wrapper alone, and a worker around it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from raincheck.domain.task import Task, TaskStatus
from raincheck.operations.context import TaskContext
from raincheck.operations.lease import Lease, current_lease, driven, hold_child_tasks, let_child_tasks_go
from raincheck.runtime.service import Service
from raincheck.stores.sqlite.store import SqliteStore
from raincheck.timing.clock import monotonic
from support.lab import Lab
from support.waiting import PATIENCE

HOUR = 3600.0
Steps = list[str]


def lease(seconds: float = HOUR, *, exclusive: bool = True) -> Lease:
    return Lease(monotonic() + seconds, seconds=HOUR, exclusive=exclusive, lost=lambda: None)


def lapse(held: Lease) -> None:
    """As if the process had stood still until now."""
    held.until = monotonic() - 1


@asynccontextmanager
async def running(
    body: Callable[[Steps], Coroutine[Any, Any, Any]], held: Lease
) -> AsyncGenerator[tuple[asyncio.Task[Any], Steps]]:
    """The body at its first rest, on a loop whose child tasks are held."""
    steps: Steps = []
    hold_child_tasks()
    task = asyncio.create_task(driven(lambda: body(steps), held))
    try:
        await rounds()
        yield task, steps
    finally:
        held.end()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        let_child_tasks_go()


async def rounds(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def busy(steps: Steps, name: str = "step") -> None:
    """Always due."""
    while True:
        steps.append(name)
        await asyncio.sleep(0)


async def in_gather(steps: Steps) -> None:
    await asyncio.gather(busy(steps), busy(steps))


async def in_task_group(steps: Steps) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(busy(steps))
        group.create_task(in_gather(steps))


async def beside_it(steps: Steps) -> None:
    child = asyncio.create_task(busy(steps))
    try:
        await asyncio.Event().wait()
    finally:
        child.cancel()


BODIES = [busy, in_gather, in_task_group, beside_it]


@pytest.mark.parametrize("body", BODIES)
async def test_steps_wait_while_the_lease_is_over_and_go_on_when_it_is_renewed(body: Any) -> None:
    held = lease()
    async with running(body, held) as (_, steps):
        assert len(steps) > 2
        lapse(held)
        steps.clear()
        await rounds()
        assert steps == []
        held.renew(monotonic() + HOUR)
        await rounds()
        assert len(steps) > 2


@pytest.mark.parametrize("body", BODIES)
async def test_a_lost_lease_ends_the_code_without_another_step(body: Any) -> None:
    held = lease()
    async with running(body, held) as (task, steps):
        lapse(held)
        steps.clear()
        await rounds(3)
        held.revoke()
        held.stop()
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()
        await rounds()
        assert steps == []


async def test_code_that_ends_itself_in_order_may_make_tasks_for_it() -> None:
    async def body(steps: Steps) -> None:
        child = asyncio.create_task(busy(steps))
        try:
            await asyncio.Event().wait()
        finally:
            steps.clear()
            child.cancel()
            await asyncio.gather(child, rounds(3), return_exceptions=True)
            steps.append("closed")

    held = lease()
    async with running(body, held) as (task, steps):
        lapse(held)
        await rounds()
        held.revoke()
        held.stop()
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert (task.cancelled(), steps) == (True, ["closed"])


async def test_a_timeout_of_the_code_s_own_is_no_step_either() -> None:
    async def body(steps: Steps) -> None:
        try:
            async with asyncio.timeout(0.02):
                await asyncio.Event().wait()
        except TimeoutError:
            steps.append("late")
        await asyncio.Event().wait()

    held = lease()
    async with running(body, held) as (_, steps):
        lapse(held)
        await asyncio.sleep(0.05)
        assert steps == []
        held.renew(monotonic() + HOUR)
        await rounds()
        assert steps == ["late"]


async def test_what_nobody_else_will_run_goes_on_where_the_process_is_only_cut_off() -> None:
    held = lease(exclusive=False)
    async with running(busy, held) as (_, steps):
        lapse(held)
        steps.clear()
        await rounds()
        assert steps == [], "the process may have stood still"
        held.tolerate()
        await rounds()
        assert len(steps) > 2
        held.exclusive = True
        steps.clear()
        await rounds()
        assert steps == []
    held = lease(-1.0, exclusive=False)
    held.tolerate()
    async with running(busy, held) as (_, steps):
        assert steps == [], "it begins under no lease that is over"


async def test_errors_values_and_context_pass_through() -> None:
    async def body(steps: Steps) -> str:
        assert current_lease() is held
        with pytest.raises(ValueError, match="from a child"):
            await asyncio.create_task(fails())
        return await asyncio.create_task(answers(), name="a name")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("from a child")

    async def answers() -> str:
        task = asyncio.current_task()
        assert task is not None
        code: Any = task.get_coro()
        return f"{task.get_name()}, {code.__name__}"

    held = lease()
    async with running(body, held) as (task, _):
        assert await task == "a name, answers"
    assert current_lease() is None


@pytest.mark.filterwarnings("error")
async def test_a_child_that_is_cancelled_before_its_first_step_never_begins() -> None:
    async def body(steps: Steps) -> None:
        child = asyncio.create_task(busy(steps))
        child.cancel()
        await asyncio.wait({child})
        assert child.cancelled()

    async with running(body, lease()) as (task, steps):
        await task
        assert steps == []
    gc.collect()


async def test_tasks_of_anyio_are_held_and_cancelled_as_any() -> None:
    async def body(steps: Steps) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(busy, steps)
            with anyio.move_on_after(0.05):
                await anyio.sleep_forever()
            steps.append("late")
            group.cancel_scope.cancel()

    held = lease()
    async with running(body, held) as (task, steps):
        lapse(held)
        steps.clear()
        await asyncio.sleep(0.1)
        assert steps == []
        held.renew(monotonic() + HOUR)
        await asyncio.wait_for(task, PATIENCE)
        assert "late" in steps


async def test_no_renewal_from_another_thread_is_missed() -> None:
    held = lease()
    async with running(busy, held) as (_, steps), asyncio.timeout(PATIENCE):
        for _ in range(200):
            lapse(held)
            renewing = threading.Thread(target=held.renew, args=(monotonic() + HOUR,))
            renewing.start()
            seen = len(steps)
            while len(steps) == seen:
                await asyncio.sleep(0)
            renewing.join()


async def test_a_loop_has_its_own_task_factory_again_when_nobody_needs_ours() -> None:
    loop = asyncio.get_running_loop()
    made: list[Any] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    hold_child_tasks()
    hold_child_tasks()
    let_child_tasks_go()
    assert loop.get_task_factory() is not factory
    await asyncio.create_task(rounds())
    assert len(made) == 1
    let_child_tasks_go()
    assert loop.get_task_factory() is factory
    loop.set_task_factory(None)


class SlowToAnswer(SqliteStore):
    """The claim is made at once, and told of when `told` says so."""

    told: asyncio.Event
    claimed: asyncio.Event

    async def replace(self, task: Task, **others: Any) -> bool:
        written = await super().replace(task, **others)
        if written and task.status is TaskStatus.PROCESSING and task.attempt == 1 and not self.claimed.is_set():
            self.claimed.set()
            await self.told.wait()
        return written


Meanwhile = Callable[[Service, str], Coroutine[Any, Any, None]]


async def claimed_late(lab: Lab, meanwhile: Meanwhile, **policy: Any) -> Steps:
    """What the operation did whose claim took so long that something happened meanwhile."""
    steps: Steps = []

    @lab.operation("work", **policy)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> None:
        steps.append(f"attempt {context.attempt}")

    store = SlowToAnswer(lab.path)
    store.told, store.claimed = asyncio.Event(), asyncio.Event()
    async with lab.service(max_concurrency=0) as front, lab.service(store=store) as worker, asyncio.timeout(PATIENCE):
        ref = (await front.registry.submit("work", {}, scope="a")).task.task_ref
        await store.claimed.wait()
        await meanwhile(front, ref)
        store.told.set()
        await nothing_runs(worker)
        assert (await front.registry.wait(ref, scope="a", seconds=PATIENCE)).terminal
        await nothing_runs(worker)
    return steps


async def nothing_runs(worker: Service) -> None:
    while worker.running:
        await asyncio.sleep(0.01)


async def test_a_task_that_was_cancelled_while_it_was_claimed_does_not_begin(lab: Lab) -> None:
    async def cancel(front: Service, ref: str) -> None:
        assert (await front.registry.cancel(ref, scope="a")).status is TaskStatus.CANCELLED
        await asyncio.sleep(0.1)

    assert await claimed_late(lab, cancel) == []


async def test_a_task_that_was_lost_while_it_was_claimed_does_not_begin(lab: Lab) -> None:
    async def lose(front: Service, ref: str) -> None:
        assert (await front.registry.wait(ref, scope="a", seconds=PATIENCE)).status is TaskStatus.FAILED

    assert await claimed_late(lab, lose, on_worker_lost="fail") == []


async def test_a_task_that_was_claimed_while_its_worker_was_told_to_stop_does_not_begin(lab: Lab) -> None:
    begun: Steps = []

    @lab.operation("work", on_worker_lost="retry")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> None:
        begun.append("begun")
        await asyncio.sleep(10)

    store = SlowToAnswer(lab.path)
    store.told, store.claimed = asyncio.Event(), asyncio.Event()
    async with lab.service(max_concurrency=0) as front, asyncio.timeout(PATIENCE):
        async with lab.service(store=store) as worker:
            ref = (await front.registry.submit("work", {}, scope="a")).task.task_ref
            await store.claimed.wait()
            stopping = asyncio.create_task(worker.stop())
            await asyncio.sleep(0.2)
            store.told.set()
            await asyncio.wait_for(stopping, PATIENCE)
        assert (await front.registry.get(ref, scope="a")).status is TaskStatus.PENDING
    assert begun == []
