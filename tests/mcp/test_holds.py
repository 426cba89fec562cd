"""Answers that are held: until the end, a question or their bound, and for nobody who is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from raincheck.config.settings import Settings
from raincheck.domain.task import TaskStatus
from raincheck.mcp.server.serve import make_server
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Policy
from raincheck.operations.python.executor import python_operation
from raincheck.tasks.registry import Registry
from support.in_process import port_of
from support.lab import Lab
from support.serving import HttpCaller
from support.waiting import PATIENCE


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "tasks.db")


class Stage:
    """An operation that does what the test says."""

    def __init__(self, lab: Lab) -> None:
        self.steps: asyncio.Queue[Any] = asyncio.Queue()

        @lab.operation("play")
        async def _(arguments: Mapping[str, Any], context: TaskContext) -> str:
            while (step := await self.steps.get()) != "end":
                await step(context)
            return "over"


async def _begun(registry: Registry) -> str:
    ref = (await registry.submit("play", {}, scope="a")).task.task_ref
    async with asyncio.timeout(PATIENCE):
        while (await registry.get(ref, scope="a")).status is not TaskStatus.PROCESSING:
            await asyncio.sleep(0.01)
    return ref


async def test_a_hold_ends_with_the_task(lab: Lab) -> None:
    stage = Stage(lab)
    async with lab.service() as service, asyncio.timeout(PATIENCE):
        ref = await _begun(service.registry)
        holding = asyncio.create_task(service.registry.wait(ref, scope="a", seconds=60))
        await stage.steps.put("end")
        assert (await holding).status is TaskStatus.COMPLETED


async def test_a_hold_ends_with_a_question(lab: Lab) -> None:
    stage = Stage(lab)
    async with lab.service() as service, asyncio.timeout(PATIENCE):
        ref = await _begun(service.registry)
        holding = asyncio.create_task(service.registry.wait(ref, scope="a", seconds=60))

        async def ask(context: TaskContext) -> None:
            await context.elicit("Go on?", {"type": "object"})

        await stage.steps.put(ask)
        assert (await holding).status is TaskStatus.INPUT_REQUIRED
        await service.registry.cancel(ref, scope="a")


async def test_a_hold_does_not_end_with_progress(lab: Lab) -> None:
    stage = Stage(lab)
    async with lab.service() as service, asyncio.timeout(PATIENCE):
        ref = await _begun(service.registry)
        holding = asyncio.create_task(service.registry.wait(ref, scope="a", seconds=60))
        for fraction in (0.1, 0.2):

            async def report(context: TaskContext, fraction: float = fraction) -> None:
                await context.progress(fraction)

            await stage.steps.put(report)
            while (progress := (await service.registry.get(ref, scope="a")).progress) is None or (
                progress.fraction != fraction
            ):
                await asyncio.sleep(0.01)
        done, _ = await asyncio.wait([holding], timeout=0.5)
        assert not done
        await stage.steps.put("end")
        assert (await holding).status is TaskStatus.COMPLETED


async def test_a_hold_ends_when_its_time_is_over(lab: Lab) -> None:
    stage = Stage(lab)
    async with lab.service() as service, asyncio.timeout(PATIENCE):
        ref = await _begun(service.registry)
        began = asyncio.get_running_loop().time()
        assert (await service.registry.wait(ref, scope="a", seconds=0.3)).status is TaskStatus.PROCESSING
        assert asyncio.get_running_loop().time() - began >= 0.3
        await stage.steps.put("end")


# Over HTTP.


def _watchers() -> int:
    return sum(task.get_name() == "raincheck-hang-up" for task in asyncio.all_tasks())


@asynccontextmanager
async def _served(
    tmp_path: Path, kind: type[HttpCaller] = HttpCaller, **polling: Any
) -> AsyncGenerator[tuple[HttpCaller, Any, asyncio.Event]]:
    """A caller of a server in this process, the server's raincheck, and what lets its operation end."""
    release = asyncio.Event()

    async def play() -> str:
        await release.wait()
        return "over"

    settings = Settings.model_validate({"state": {"url": str(tmp_path / "tasks.db")}, "polling": polling})
    operation = python_operation(play, operation_type="play", description="Play.", policy=Policy(mode="task"))
    server, rc = make_server(settings, {"play": operation})
    async with port_of(server, rc) as port:
        caller = kind(port)
        try:
            yield caller, rc, release
        finally:
            release.set()
            await caller.close()


async def test_a_caller_in_a_tight_loop_makes_one_call_per_hold(tmp_path: Path) -> None:
    async with _served(tmp_path, hold_seconds=0.5) as (caller, _, release):
        ref = (await caller.submit("play"))["task_ref"]
        loop = asyncio.get_running_loop()
        began, calls = loop.time(), 0
        while loop.time() - began < 2.0:
            answer = await caller.call("resolve_task_status", {"task_ref": ref})
            assert answer["status"] in ("pending", "processing")
            calls += 1
        assert calls <= 2.0 / 0.5 + 1
        release.set()
        assert (await caller.call("resolve_task_status", {"task_ref": ref}))["status"] == "completed"


async def test_who_asks_for_no_wait_is_answered_at_once_and_so_is_everybody_where_holds_are_off(
    tmp_path: Path,
) -> None:
    async with _served(tmp_path, hold_seconds=25) as (caller, _, _release), asyncio.timeout(10):
        ref = (await caller.submit("play"))["task_ref"]
        answer = await caller.call("resolve_task_status", {"task_ref": ref, "wait_seconds": 0})
        assert answer["status"] != "completed"
        assert "poll_after_seconds" not in answer
    async with _served(tmp_path, hold_seconds=0) as (caller, _, _release), asyncio.timeout(10):
        ref = (await caller.submit("play"))["task_ref"]
        answer = await caller.call("resolve_task_status", {"task_ref": ref})
        assert answer["status"] != "completed"
        # The next call does not wait either: it is told when to come.
        assert re.fullmatch(r"Call again with this after in \d+(\.\d+)? s\.", answer["next_step"])


async def test_a_longer_hold_than_the_longest_is_that_one(tmp_path: Path) -> None:
    async with _served(tmp_path, max_hold_seconds=0.5) as (caller, _, _release), asyncio.timeout(10):
        ref = (await caller.submit("play"))["task_ref"]
        answer = await caller.call("resolve_task_status", {"task_ref": ref, "wait_seconds": 10_000})
        assert answer["status"] == "processing"
        assert answer["next_step"].endswith("wait_seconds 0.5.")


async def test_a_client_that_is_known_to_be_patient_is_held_for_longer_without_asking(tmp_path: Path) -> None:
    polling: dict[str, Any] = {"hold_seconds": 0.1, "max_hold_seconds": 1, "patience": {"proofs": 60}}
    async with _served(tmp_path, **polling) as (caller, _, _release), asyncio.timeout(10):
        ref = (await caller.submit("play"))["task_ref"]
        began = asyncio.get_running_loop().time()
        answer = await caller.call("resolve_task_status", {"task_ref": ref})
        assert asyncio.get_running_loop().time() - began >= 0.9
        assert (answer["status"], answer["next_step"]) == ("processing", "Call again with this after: it waits.")


async def test_a_client_of_little_patience_is_answered_before_it_is_over(tmp_path: Path) -> None:
    async with _served(tmp_path, hold_seconds=20, patience={"proofs": 1}) as (caller, _, _release), asyncio.timeout(10):
        ref = (await caller.submit("play"))["task_ref"]
        for asked in ({}, {"wait_seconds": 20}):
            answer = await caller.call("resolve_task_status", {"task_ref": ref, **asked})
            assert answer["status"] == "processing"


async def test_a_hold_ends_when_its_caller_hangs_up(tmp_path: Path) -> None:
    async with _served(tmp_path) as (caller, rc, _release):
        ref = (await caller.submit("play"))["task_ref"]
        registry: Registry = (await rc.started()).registry
        changes = registry._changes  # pyright: ignore[reportPrivateUsage]
        assert changes is not None
        observers = changes._watches  # pyright: ignore[reportPrivateUsage]
        async with asyncio.timeout(PATIENCE):
            while not observers.get(ref):
                await asyncio.sleep(0.01)
        # The run itself observes its task.
        watching = len(observers[ref])
        holding = asyncio.create_task(caller.status(ref, wait_seconds=25))
        async with asyncio.timeout(PATIENCE):
            while not (len(observers.get(ref, ())) > watching and _watchers()):
                await asyncio.sleep(0.01)
        holding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await holding
        async with asyncio.timeout(PATIENCE):
            while len(observers.get(ref, ())) > watching or _watchers():
                await asyncio.sleep(0.01)
        # The server goes on as if nothing were.
        assert not (await caller.status(ref))["terminal"]


# tasks/get.


class Declaring(HttpCaller):
    """A caller that declares the tasks extension on every request."""

    @staticmethod
    def envelope(request_id: int, method: str, params: Mapping[str, Any]) -> bytes:
        message = json.loads(HttpCaller.envelope(request_id, method, params))
        capabilities: dict[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
        message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities
        return json.dumps(message).encode()


async def test_tasks_get_is_held_for_who_asks_too_early_and_answered_at_once_for_who_does_not(tmp_path: Path) -> None:
    async with _served(tmp_path, Declaring, hold_seconds=1, initial_interval_ms=600) as (caller, _, release):
        loop = asyncio.get_running_loop()
        created = await caller.request("tools/call", {"name": "play", "arguments": {}}, "play")
        ref = created["taskId"]

        async def asked() -> tuple[float, str]:
            began = loop.time()
            answer = await caller.request("tasks/get", {"taskId": ref}, ref)
            return loop.time() - began, answer["status"]

        took, status = await asked()
        assert (took > 0.4, status) == (True, "working")
        early = asyncio.create_task(asked())
        await asyncio.sleep(0)
        release.set()
        assert (await early)[1] == "completed"
        again = await asked()
        assert again[1] == "completed"


async def test_a_caller_that_keeps_to_the_interval_is_not_held(tmp_path: Path) -> None:
    async with _served(tmp_path, Declaring, hold_seconds=25, initial_interval_ms=50, max_interval_ms=50) as (
        caller,
        _,
        _release,
    ):
        created = await caller.request("tools/call", {"name": "play", "arguments": {}}, "play")
        async with asyncio.timeout(PATIENCE):
            for _ in range(3):
                await asyncio.sleep(created["pollIntervalMs"] / 1000)
                await caller.request("tasks/get", {"taskId": created["taskId"]}, created["taskId"])
