"""One task's life in a service: run, fail, time out, be cancelled, ask, be retried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest

from raincheck.domain.task import Task, TaskError, TaskStatus
from raincheck.errors import (
    IdempotencyConflict,
    InvalidParameters,
    PayloadTooLarge,
    TaskNotFound,
    UnknownOperation,
    UpstreamError,
)
from raincheck.operations.context import TaskContext
from raincheck.runtime.service import Service
from support.lab import Lab
from support.waiting import PATIENCE


async def run(service: Service, name: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> Task:
    submission = await service.registry.submit(name, arguments or {}, scope="a", **options)
    return await service.registry.wait(submission.task.task_ref, scope="a", seconds=PATIENCE)


def error_of(task: Task) -> TaskError:
    assert task.outcome is not None
    assert task.outcome.error is not None
    return task.outcome.error


async def test_a_task_runs_and_keeps_its_value(lab: Lab) -> None:
    @lab.operation("double")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return {"doubled": arguments["n"] * 2, "attempt": context.attempt}

    async with lab.service() as service:
        task = await run(service, "double", {"n": 21})
    assert task.status is TaskStatus.COMPLETED
    assert task.outcome is not None
    assert task.outcome.value == {"doubled": 42, "attempt": 1}
    assert task.expires_at is not None
    assert task.settled_at is not None
    assert (task.expires_at - task.settled_at).total_seconds() == task.ttl_seconds


async def test_an_exception_becomes_operation_failed(lab: Lab) -> None:
    @lab.operation("broken")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise LookupError("no such quarter")

    async with lab.service() as service:
        error = error_of(await run(service, "broken"))
    assert (error.code, error.message, error.details) == (
        "operation_failed",
        "no such quarter",
        {"type": "LookupError"},
    )


@pytest.mark.parametrize("value", [object(), float("nan"), {1: {2, 3}}, b"bytes"])
async def test_a_value_that_json_cannot_hold_is_an_error_of_the_operation(lab: Lab, value: Any) -> None:
    @lab.operation("odd")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return value

    async with lab.service() as service:
        assert error_of(await run(service, "odd")).code == "operation_failed"


async def test_a_result_above_the_limit_is_result_too_large(lab: Lab) -> None:
    @lab.operation("big", max_result_bytes=1000)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return "x" * 2000

    async with lab.service() as service:
        assert error_of(await run(service, "big")).code == "result_too_large"


@pytest.mark.parametrize("exit_", [SystemExit(3), KeyboardInterrupt()])
async def test_an_operation_that_exits_does_not_end_the_server(lab: Lab, exit_: BaseException) -> None:
    @lab.operation("leave")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise exit_

    @lab.operation("stay")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return "here"

    async with lab.service() as service:
        assert error_of(await run(service, "leave")).code == "operation_failed"
        assert (await run(service, "stay")).status is TaskStatus.COMPLETED


async def test_the_timeout_bounds_one_run(lab: Lab) -> None:
    stopped = asyncio.Event()

    @lab.operation("slow", timeout_seconds=0.1)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async with lab.service() as service:
        error = error_of(await run(service, "slow"))
        await asyncio.wait_for(stopped.wait(), PATIENCE)
    assert error.code == "timeout"
    assert not error.retryable
    assert error.details == {"limit": "timeout", "phase": "processing", "seconds": 0.1}


async def test_the_deadline_counts_the_queueing(lab: Lab) -> None:
    @lab.operation("blocker")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        await asyncio.sleep(60)

    async with lab.service(max_concurrency=1) as service:
        await service.registry.submit("blocker", {}, scope="a")
        error = error_of(await run(service, "blocker", max_wait_seconds=0.2))
    assert error.code == "timeout"
    assert error.details["limit"] == "deadline"
    assert error.details["phase"] == "pending"


async def test_the_deadline_stops_a_running_task(lab: Lab) -> None:
    @lab.operation("slow")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        await asyncio.sleep(60)

    async with lab.service() as service:
        error = error_of(await run(service, "slow", max_wait_seconds=0.2))
    assert error.details == {"limit": "deadline", "phase": "processing", "seconds": 0.2}


async def test_code_that_swallows_its_cancellation_cannot_keep_a_task_open(lab: Lab) -> None:
    release = asyncio.Event()

    @lab.operation("stubborn", timeout_seconds=0.1)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with lab.service() as service:
        assert error_of(await run(service, "stubborn")).code == "timeout"
        release.set()


async def test_a_body_that_blocks_the_loop_past_its_timeout_times_out(lab: Lab) -> None:
    @lab.operation("blocker", timeout_seconds=0.1)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        time.sleep(0.4)
        return "late"

    async with lab.service() as service:
        assert error_of(await run(service, "blocker")).code == "timeout"


async def test_a_blocked_loop_does_not_lose_the_lease_of_a_healthy_task(lab: Lab) -> None:
    started = asyncio.Event()
    release = asyncio.Event()

    @lab.operation("healthy")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.set()
        await release.wait()
        return "fine"

    @lab.operation("other")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        time.sleep(2.5)

    async with lab.service(lease_seconds=1.0) as service:
        healthy = (await service.registry.submit("healthy", {}, scope="a")).task
        await asyncio.wait_for(started.wait(), PATIENCE)
        await run(service, "other")
        release.set()
        task = await service.registry.wait(healthy.task_ref, scope="a", seconds=PATIENCE)
    assert task.status is TaskStatus.COMPLETED


async def test_cancelling_stops_the_operation_and_the_late_result_is_discarded(lab: Lab) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    @lab.operation("slow")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            assert context.cancelled
            stopped.set()
            return "too late"

    async with lab.service() as service:
        task = (await service.registry.submit("slow", {}, scope="a")).task
        await asyncio.wait_for(started.wait(), PATIENCE)
        cancelled = await service.registry.cancel(task.task_ref, scope="a")
        assert cancelled.status is TaskStatus.CANCELLED
        await asyncio.wait_for(stopped.wait(), PATIENCE)
        again = await service.registry.cancel(task.task_ref, scope="a")
        assert again.version == cancelled.version
        assert (await service.registry.get(task.task_ref, scope="a")).status is TaskStatus.CANCELLED


async def test_progress_is_stored_and_merged(lab: Lab) -> None:
    seen = asyncio.Event()

    @lab.operation("pages")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        for page in range(1000):
            await context.progress(page / 1000, f"page {page}")
        await seen.wait()

    async with lab.service() as service:
        task = (await service.registry.submit("pages", {}, scope="a")).task
        async with asyncio.timeout(PATIENCE):
            while task.progress is None or task.progress.message != "page 999":
                await asyncio.sleep(0.01)
                task = await service.registry.get(task.task_ref, scope="a")
        assert task.version < 20
        seen.set()
        await service.registry.wait(task.task_ref, scope="a", seconds=PATIENCE)


async def test_a_parked_task_holds_no_slot_and_goes_on_with_the_answer(lab: Lab) -> None:
    @lab.operation("ask", timeout_seconds=0.5)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return await context.elicit("Really?", {"type": "object", "properties": {"sure": {"type": "boolean"}}})

    @lab.operation("quick")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return "done"

    async with lab.service(max_concurrency=1) as service:
        suspended = await run(service, "ask")
        assert suspended.status is TaskStatus.INPUT_REQUIRED
        assert (await run(service, "quick")).status is TaskStatus.COMPLETED
        await asyncio.sleep(0.6)  # longer than the timeout, which must stand still while the task is suspended
        (request,) = suspended.outstanding
        answer = {"action": "accept", "content": {"sure": True}}
        await service.registry.provide_input(suspended.task_ref, {"nonsense": {}, request.key: answer}, scope="a")
        task = await service.registry.wait(suspended.task_ref, scope="a", seconds=PATIENCE)
        assert task.outcome is not None
        assert task.outcome.value == answer


async def test_a_failed_attempt_is_run_again_as_often_as_the_policy_says(lab: Lab) -> None:
    attempts: list[int] = []

    @lab.operation("flaky", retry_attempts=2)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        attempts.append(1)
        if len(attempts) < 3:
            raise UpstreamError("503", retryable=True)
        return "third time lucky"

    async with lab.service() as service:
        task = await run(service, "flaky")
    assert task.status is TaskStatus.COMPLETED
    assert len(attempts) == 3


async def test_an_error_that_a_retry_cannot_mend_is_not_retried(lab: Lab) -> None:
    attempts: list[int] = []

    @lab.operation("gone", retry_attempts=5)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        attempts.append(1)
        raise UpstreamError("404", retryable=False)

    async with lab.service() as service:
        assert error_of(await run(service, "gone")).code == "upstream_error"
    assert len(attempts) == 1


async def test_the_deadline_ends_the_pause_between_attempts(lab: Lab) -> None:
    @lab.operation("flaky", retry_attempts=50)
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise UpstreamError("503", retryable=True)

    async with lab.service() as service:
        error = error_of(await run(service, "flaky", max_wait_seconds=0.3))
    assert error.details["limit"] == "deadline"


async def test_one_idempotency_key_makes_one_task_however_many_race(lab: Lab) -> None:
    runs: list[int] = []

    @lab.operation("once")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        runs.append(1)

    async with lab.service() as service, lab.service() as other:
        submissions = await asyncio.gather(
            *(each.registry.submit("once", {"n": 1}, scope="a", idempotency_key="k") for each in [service, other] * 10)
        )
        assert len({submission.task.task_ref for submission in submissions}) == 1
        assert [submission.deduplicated for submission in submissions].count(False) == 1
        await service.registry.wait(submissions[0].task.task_ref, scope="a", seconds=PATIENCE)
        assert len(runs) == 1
        with pytest.raises(IdempotencyConflict):
            await service.registry.submit("once", {"n": 2}, scope="a", idempotency_key="k")
        elsewhere = await service.registry.submit("once", {"n": 2}, scope="b", idempotency_key="k")
        assert not elsewhere.deduplicated


async def test_a_task_of_another_scope_does_not_exist(lab: Lab) -> None:
    @lab.operation("mine")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return "secret"

    async with lab.service() as service:
        task = await run(service, "mine")
        messages: set[str] = set()
        # A caller whose scope is called as the operator's is no operator.
        others = ((task.task_ref, "b"), (task.task_ref, "*"), (task.task_ref, "operator"))
        for ref, scope in (*others, ("nonsense", "a"), ("x" * 10_000, "a"), ("", "a")):
            for call in (service.registry.get, service.registry.cancel):
                with pytest.raises(TaskNotFound) as caught:
                    await call(ref, scope=scope)
                messages.add(caught.value.message)
            with pytest.raises(TaskNotFound):
                await service.registry.provide_input(ref, {}, scope=scope)
            with pytest.raises(TaskNotFound):
                await service.registry.wait(ref, scope=scope, seconds=1)
        assert len(messages) == 1
        assert await service.registry.list(scope="b") == []


@pytest.mark.parametrize("wait", [0, -1, 1e12, float("inf"), float("nan")])
async def test_an_absurd_deadline_is_refused_and_leaves_no_trace(lab: Lab, wait: float) -> None:
    @lab.operation("quick")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any: ...

    async with lab.service() as service:
        with pytest.raises(InvalidParameters, match="max_wait_seconds"):
            await service.registry.submit("quick", {}, scope="a", max_wait_seconds=wait)
        assert await service.registry.list(scope="a") == []


async def test_what_cannot_be_accepted_leaves_no_trace(lab: Lab) -> None:
    @lab.operation("quick")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any: ...

    async with lab.service() as service:
        with pytest.raises(UnknownOperation, match="quick"):
            await service.registry.submit("quack", {}, scope="a")
        with pytest.raises(PayloadTooLarge):
            await service.registry.submit("quick", {"blob": "x" * 2 * 1024 * 1024}, scope="a")
        for key in ("", "x" * 300, "a\nb"):
            with pytest.raises(InvalidParameters, match="idempotency_key"):
                await service.registry.submit("quick", {}, scope="a", idempotency_key=key)
        assert await service.registry.list(scope="a") == []


async def test_a_thousand_tasks_wait_their_turn_in_the_store(lab: Lab) -> None:
    most = 0
    now = 0

    @lab.operation("short")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    async with lab.service(max_concurrency=7) as service:
        submissions = await asyncio.gather(*(service.registry.submit("short", {}, scope="a") for _ in range(1000)))
        tasks = await asyncio.gather(
            *(service.registry.wait(each.task.task_ref, scope="a", seconds=30) for each in submissions)
        )
    assert {task.status for task in tasks} == {TaskStatus.COMPLETED}
    assert most <= 7
