"""What becomes of tasks when a service ends, cleanly or not, and another one takes over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from raincheck.domain.caller import Caller, Credentials
from raincheck.domain.task import Task, TaskStatus
from raincheck.domain.transitions import Claim, transition
from raincheck.encryption.cipher import KEY_BYTES, PayloadCipher
from raincheck.encryption.task_store import EncryptedTaskStore
from raincheck.operations.context import TaskContext
from raincheck.stores.sqlite.store import SqliteStore
from support.lab import Lab
from support.waiting import PATIENCE


async def orphan(lab: Lab, name: str) -> Task:
    """A task whose worker claimed it and was never heard of again."""
    async with lab.service(max_concurrency=0) as accepting:
        task = (await accepting.registry.submit(name, {}, scope="a")).task
    store = SqliteStore(lab.path)
    await store.open()
    now = datetime.now(UTC)
    claimed = transition(task, Claim(worker_id="dead", lease_until=now + timedelta(seconds=0.3)), now)
    assert await store.replace(claimed)
    await store.close()
    return claimed


async def test_what_was_pending_is_taken_up_by_the_next_service(lab: Lab) -> None:
    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return "done"

    async with lab.service(max_concurrency=0) as accepting:
        task = (await accepting.registry.submit("work", {}, scope="a")).task
    async with lab.service() as service:
        task = await service.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)
    assert task.status is TaskStatus.COMPLETED


async def test_a_task_of_a_lost_worker_fails_where_it_may_not_run_again(lab: Lab) -> None:
    starts: list[int] = []

    @lab.operation("once", on_worker_lost="fail")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        starts.append(1)

    task = await orphan(lab, "once")
    async with lab.service() as service:
        task = await service.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)
    assert task.status is TaskStatus.FAILED
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert task.outcome.error.code == "worker_lost"
    assert starts == []


async def test_a_task_of_a_lost_worker_runs_again_where_it_may(lab: Lab) -> None:
    @lab.operation("again", on_worker_lost="retry")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return context.attempt

    task = await orphan(lab, "again")
    async with lab.service() as service:
        task = await service.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)
    assert task.outcome is not None
    assert task.outcome.value == 2


async def test_a_clean_stop_gives_back_what_may_run_again_and_settles_the_rest(lab: Lab) -> None:
    started = asyncio.Semaphore(0)
    stops: list[str] = []

    async def body(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.release()
        if context.attempt > 1:
            return "again"
        try:
            await asyncio.sleep(60)
        finally:
            stops.append(context.operation_type)

    lab.operation("again", on_worker_lost="retry")(body)
    lab.operation("once", on_worker_lost="fail")(body)
    async with lab.service() as service:
        again = (await service.registry.submit("again", {}, scope="a")).task
        once = (await service.registry.submit("once", {}, scope="a")).task
        for _ in range(2):
            await asyncio.wait_for(started.acquire(), PATIENCE)
    assert sorted(stops) == ["again", "once"]
    async with lab.service() as service:
        again = await service.registry.wait(again.task_ref, scope="a", seconds=PATIENCE)
        once = await service.registry.get(once.task_ref, scope="a")
    assert again.outcome is not None
    assert again.outcome.value == "again"
    assert once.outcome is not None
    assert once.outcome.error is not None
    assert once.outcome.error.code == "worker_lost"


async def test_a_clean_stop_drains_what_ends_in_time(lab: Lab) -> None:
    started = asyncio.Event()

    @lab.operation("brief")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.set()
        await asyncio.sleep(0.3)
        return "finished"

    async with lab.service(drain_seconds=5.0) as service:
        task = (await service.registry.submit("brief", {}, scope="a")).task
        await asyncio.wait_for(started.wait(), PATIENCE)
    async with lab.service() as service:
        task = await service.registry.get(task.task_ref, scope="a")
    assert task.status is TaskStatus.COMPLETED


async def test_answers_survive_a_lost_worker_and_are_given_back_in_order(lab: Lab) -> None:
    @lab.operation("ask", on_worker_lost="retry")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        first = await context.elicit("First?", {"type": "object"})
        second = await context.elicit("Second?", {"type": "object"})
        return [first["content"], second["content"], context.attempt]

    async with lab.service() as service:
        task = (await service.registry.submit("ask", {}, scope="a")).task
        task = await service.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)
        first_key = task.outstanding[0].key
        answer = {"action": "accept", "content": {"n": 1}}
        await service.registry.provide_input(task.task_ref, {first_key: answer}, scope="a")
        async with asyncio.timeout(PATIENCE):
            while not task.outstanding or task.outstanding[0].key == first_key:
                await asyncio.sleep(0.01)
                task = await service.registry.get(task.task_ref, scope="a")
        withdrawn = task.outstanding[0].key
    async with lab.service() as service:
        async with asyncio.timeout(PATIENCE):
            while not task.outstanding or task.outstanding[0].key == withdrawn:
                await asyncio.sleep(0.01)
                task = await service.registry.get(task.task_ref, scope="a")
        answer = {"action": "accept", "content": {"n": 2}}
        await service.registry.provide_input(task.task_ref, {task.outstanding[0].key: answer}, scope="a")
        task = await service.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)
    assert task.outcome is not None
    assert task.outcome.value == [{"n": 1}, {"n": 2}, 2]


async def test_a_cancel_by_another_process_reaches_the_worker(lab: Lab) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    @lab.operation("slow")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async with lab.service() as worker, lab.service(max_concurrency=0) as other:
        task = (await worker.registry.submit("slow", {}, scope="a")).task
        await asyncio.wait_for(started.wait(), PATIENCE)
        await other.registry.cancel(task.task_ref, scope="a")
        await asyncio.wait_for(stopped.wait(), PATIENCE)


async def test_who_waits_is_answered_when_the_service_stops(lab: Lab) -> None:
    started = asyncio.Event()

    @lab.operation("again", on_worker_lost="retry")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.set()
        await asyncio.sleep(60)

    async with lab.service() as service:
        task = (await service.registry.submit("again", {}, scope="a")).task
        waiting = asyncio.create_task(service.registry.wait(task.task_ref, scope="a", seconds=60))
        await asyncio.wait_for(started.wait(), PATIENCE)
    assert (await asyncio.wait_for(waiting, PATIENCE)).status is TaskStatus.PENDING


def ada(seconds: float) -> Caller:
    """A caller whose token is good for so long."""
    bearer = "Bearer a-token-of-ada"
    held = Credentials(token=bearer[7:], expires_at=time.time() + seconds, headers={"authorization": bearer})
    return Caller(scope="a", credentials=held)


def sealed(lab: Lab) -> EncryptedTaskStore:
    return EncryptedTaskStore(SqliteStore(lab.path), PayloadCipher([b"k" * KEY_BYTES]))


async def test_what_goes_on_from_a_checkpoint_goes_on_after_its_callers_token(lab: Lab) -> None:
    begun = asyncio.Event()

    @lab.operation("export", caller_token=True)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        if context.checkpoint is not None:
            return [context.checkpoint, context.caller.token]
        await context.save("job 7")
        begun.set()
        return await asyncio.Event().wait()

    caller = ada(1.0)
    async with lab.service(store=sealed(lab)) as service:
        ref = (await service.registry.submit("export", {}, scope="a", caller=caller)).task.task_ref
        await asyncio.wait_for(begun.wait(), PATIENCE)
    while caller.token is not None:
        await asyncio.sleep(0.05)
    async with lab.service(store=sealed(lab)) as service:
        task = await service.registry.wait(ref, scope="a", seconds=PATIENCE)
    assert task.outcome is not None
    assert (task.outcome.error, task.outcome.value) == (None, ["job 7", None])


@pytest.mark.parametrize("asks", [{"caller_token": True}, {"forward_headers": ("Authorization",)}])
async def test_a_token_that_expired_meanwhile_is_not_used_nor_waited_for(
    lab: Lab, asks: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    @lab.operation("export", retry_attempts=1, **asks)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return "exported"

    async with lab.service(store=sealed(lab)) as service:
        ref = (await service.registry.submit("export", {}, scope="a", caller=ada(-1.0))).task.task_ref
        task = await service.registry.wait(ref, scope="a", seconds=PATIENCE)
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert task.outcome.error.message.startswith("The caller's token expired before the operation ran")
    # One attempt: no later one has a fresher token.
    assert caplog.text.count("operation failed") == 1
