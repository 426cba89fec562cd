"""What an operation saves, goes on from, and waits for outside."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from raincheck.domain.task import Outcome, Progress, Task, TaskStatus
from raincheck.domain.transitions import LeaseExpired, transition
from raincheck.errors import OperationFailed
from raincheck.operations.context import LARGEST_CHECKPOINT, TaskContext
from raincheck.operations.python.executor import python_operation
from raincheck.runtime.service import Service
from raincheck.stores.sqlite.store import SqliteStore
from support.lab import Lab
from support.waiting import PATIENCE

PUBLIC = "https://tools.example.com/here"


async def settled(service: Service, task_ref: str) -> Task:
    task = await service.registry.wait(task_ref, scope="a", seconds=PATIENCE)
    assert task.terminal
    return task


async def lose_the_worker_of(lab: Lab, task_ref: str) -> None:
    """What the sweeper does once a worker was killed."""
    store = SqliteStore(lab.path)
    await store.open()
    task = await store.get(task_ref)
    assert task is not None
    assert task.lease_until is not None
    assert await store.replace(transition(task, LeaseExpired(), task.lease_until + timedelta(seconds=1)))
    await store.close()


async def test_a_start_after_a_lost_worker_goes_on_from_the_checkpoint(lab: Lab) -> None:
    starts: list[Any] = []
    saved = asyncio.Event()

    @lab.operation("job", on_worker_lost="fail")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        starts.append(context.checkpoint)
        if context.checkpoint is None:
            await context.save({"page": 7})
            saved.set()
            await asyncio.sleep(60)
        return context.checkpoint

    async with lab.service() as first:
        task = (await first.registry.submit("job", {}, scope="a")).task
        await saved.wait()
        await lose_the_worker_of(lab, task.task_ref)
        task = await settled(first, task.task_ref)
    assert task.outcome == Outcome(value={"page": 7})
    assert starts == [None, {"page": 7}]


async def test_a_synchronous_operation_and_one_in_a_process_of_its_own_save_too(lab: Lab) -> None:
    from upstream import saving_functions

    function = saving_functions.save_and_tell
    lab.operations = {
        "thread": python_operation(function, operation_type="thread"),
        "process": python_operation(function, operation_type="process", isolation="process"),
    }
    async with lab.service(public_url=PUBLIC) as service:
        for name in ("thread", "process"):
            task = (await service.registry.submit(name, {}, scope="a")).task
            task = await settled(service, task.task_ref)
            assert task.checkpoint == {"step": 1}
            assert task.outcome is not None
            assert task.outcome.value["checkpoint"] == {"step": 1}
            assert task.outcome.value["url"].startswith(f"{PUBLIC}/callbacks/")
            assert "at most 65536" in task.outcome.value["refused"]


@pytest.mark.parametrize(
    ("checkpoint", "why"),
    [(None, "null"), ("x" * LARGEST_CHECKPOINT, "65536"), (float("nan"), "NaN"), (object(), "object")],
)
async def test_a_checkpoint_that_cannot_be_kept_is_refused(lab: Lab, checkpoint: Any, why: str) -> None:
    @lab.operation("job")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        with pytest.raises(OperationFailed, match=why):
            await context.save(checkpoint)
        return context.checkpoint

    async with lab.service() as service:
        task = (await service.registry.submit("job", {}, scope="a")).task
        task = await settled(service, task.task_ref)
    assert task.outcome == Outcome(value=None)
    assert task.checkpoint is None


async def test_a_task_that_waits_outside_gives_its_place_and_its_time_to_others(lab: Lab) -> None:
    tokens: list[str] = []
    waiting = asyncio.Event()

    @lab.operation("approval", timeout_seconds=0.3)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        tokens.append(await context.callback_token())
        assert await context.callback_url() == f"{PUBLIC}/callbacks/{tokens[0]}"
        waiting.set()
        await context.await_external()

    @lab.operation("quick")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        await asyncio.sleep(0.4)
        return "quick"

    async with lab.service(max_concurrency=1, public_url=PUBLIC) as service:
        task = (await service.registry.submit("approval", {}, scope="a")).task
        await waiting.wait()
        quick = (await service.registry.submit("quick", {}, scope="a")).task
        assert (await settled(service, quick.task_ref)).status is TaskStatus.COMPLETED
        assert (await service.registry.get(task.task_ref, scope="a")).status is TaskStatus.PROCESSING
        assert await service.callbacks.report(tokens[0], Progress(fraction=0.5)) == "accepted"
        assert (await service.registry.get(task.task_ref, scope="a")).progress == Progress(fraction=0.5)
        assert await service.callbacks.settle(tokens[0], Outcome(value={"approved": True})) == "accepted"
        assert (await settled(service, task.task_ref)).outcome == Outcome(value={"approved": True})
        assert await service.callbacks.settle(tokens[0], Outcome(value={"approved": False})) == "settled"
        assert await service.callbacks.report(tokens[0], Progress(fraction=0.6)) == "settled"
        assert await service.callbacks.settle(tokens[0][:-1], Outcome(value=1)) == "unknown"
        async with asyncio.timeout(PATIENCE):
            while service.running:
                await asyncio.sleep(0)
    assert (tokens[0],) == tuple(tokens)
    assert len(tokens[0]) >= 43
    assert tokens[0].encode() not in lab.path.read_bytes()


async def test_what_waits_outside_is_not_started_again_after_a_lost_worker_or_a_new_one(lab: Lab) -> None:
    tokens: list[str] = []
    waiting = asyncio.Event()

    @lab.operation("approval", on_worker_lost="retry")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        tokens.append(await context.callback_token())
        waiting.set()
        await context.await_external()

    async with lab.service() as service:
        task = (await service.registry.submit("approval", {}, scope="a")).task
        await waiting.wait()
        async with asyncio.timeout(PATIENCE):
            while not (await service.registry.get(task.task_ref, scope="a")).awaiting_external:
                await asyncio.sleep(0.01)
        await lose_the_worker_of(lab, task.task_ref)
    async with lab.service() as service:
        async with asyncio.timeout(PATIENCE):
            while (await service.registry.get(task.task_ref, scope="a")).status is TaskStatus.PENDING:
                await asyncio.sleep(0.01)
        assert len(tokens) == 1
        assert await service.callbacks.settle(tokens[0], Outcome(value="late")) == "accepted"
        assert (await settled(service, task.task_ref)).outcome == Outcome(value="late")


async def test_a_callback_settles_a_task_that_no_worker_has(lab: Lab) -> None:
    tokens: list[str] = []

    @lab.operation("approval")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        tokens.append(await context.callback_token())
        await context.await_external()

    async with lab.service() as service:
        task = (await service.registry.submit("approval", {}, scope="a")).task
        async with asyncio.timeout(PATIENCE):
            while not (await service.registry.get(task.task_ref, scope="a")).awaiting_external:
                await asyncio.sleep(0.01)
    async with lab.service(max_concurrency=0) as replica:
        assert (await replica.registry.get(task.task_ref, scope="a")).status is TaskStatus.PENDING
        assert await replica.callbacks.settle(tokens[0], Outcome(value=1)) == "accepted"
        assert (await replica.registry.get(task.task_ref, scope="a")).status is TaskStatus.COMPLETED


async def test_with_a_secret_a_task_has_the_same_token_after_a_lost_worker(lab: Lab) -> None:
    tokens: list[str] = []

    @lab.operation("approval", on_worker_lost="retry")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        tokens.append(await context.callback_token())
        if context.attempt == 1:
            await asyncio.sleep(60)
        return None

    for secret, same in (("s" * 32, True), (None, False)):
        tokens.clear()
        async with lab.service(callback_secret=secret) as service:
            task = (await service.registry.submit("approval", {}, scope="a")).task
            async with asyncio.timeout(PATIENCE):
                while not tokens:
                    await asyncio.sleep(0.01)
            await lose_the_worker_of(lab, task.task_ref)
            await settled(service, task.task_ref)
        assert (tokens[0] == tokens[1]) is same


async def test_a_wait_ends_with_the_deadline(lab: Lab) -> None:
    @lab.operation("approval")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        await context.await_external()

    async with lab.service() as service:
        task = (await service.registry.submit("approval", {}, scope="a", max_wait_seconds=0.5)).task
        task = await settled(service, task.task_ref)
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert task.outcome.error.details["limit"] == "deadline"


async def test_an_address_needs_to_know_where_the_server_is_reached(lab: Lab) -> None:
    @lab.operation("approval")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return await context.callback_url()

    async with lab.service() as service:
        task = (await service.registry.submit("approval", {}, scope="a")).task
        task = await settled(service, task.task_ref)
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert "'public_url' in [server]" in task.outcome.error.message
