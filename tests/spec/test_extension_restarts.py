"""The server is killed (-9) between any two messages of a flow: it goes on, or says that the worker was lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from spec.channels import http, http_process
from spec.peers import Modern, answer

Release = Callable[[str], None]
Step = Callable[[Modern, dict[str, Any]], Awaitable[None]]


async def _create(modern: Modern, seen: dict[str, Any]) -> None:
    seen["task_id"] = await modern.start("ask_in_turn")


async def _answer(modern: Modern, seen: dict[str, Any]) -> None:
    """Answer what was seen before, then what there is: a question that was withdrawn has come back by another key."""
    if "asked" in seen:
        await modern.update(seen["task_id"], {key: answer(seen["answering"]) for key in seen.pop("asked")})


def _asked(message: str, name: str) -> Step:
    async def step(modern: Modern, seen: dict[str, Any]) -> None:
        while True:
            task = await modern.reaches(seen["task_id"], "input_required")
            if [request["params"]["message"] for request in task["inputRequests"].values()] == [message]:
                break
        seen.update(asked=list(task["inputRequests"]), answering=name)

    return step


def _answered(message: str, name: str) -> Step:
    async def step(modern: Modern, seen: dict[str, Any]) -> None:
        await _answer(modern, seen)
        while True:
            task = await modern.reaches(seen["task_id"], "input_required", "working", "completed")
            keys = [key for key, request in task.get("inputRequests", {}).items() if _is(request, message)]
            if keys:
                await modern.update(seen["task_id"], {key: answer(name) for key in keys})
            elif task["status"] == "completed" or task.get("inputRequests"):
                break

    return step


def _is(request: dict[str, Any], message: str) -> bool:
    return request["params"]["message"] == message


FLOW: list[Step] = [
    _create,
    _asked("First name?", "Ada"),
    _answered("First name?", "Ada"),
    _asked("Last name?", "Lovelace"),
    _answered("Last name?", "Lovelace"),
]


@pytest.mark.requirement("A8", "A16")
@pytest.mark.parametrize("gap", range(1, len(FLOW) + 1))
async def test_a_flow_with_input_goes_on_wherever_the_server_is_killed(store: Path, gap: int) -> None:
    seen: dict[str, Any] = {}
    async with http_process(store) as url, http(url) as channel:
        for step in FLOW[:gap]:
            await step(Modern(channel), seen)
    async with http_process(store) as url, http(url) as channel:
        for step in FLOW[gap:]:
            await step(Modern(channel), seen)
        done = await Modern(channel).reaches(seen["task_id"], "completed", seconds=20)
    assert done["result"]["structuredContent"]["names"] == [{"name": "Ada"}, {"name": "Lovelace"}]
    assert done["result"]["structuredContent"]["attempt"] <= 2


@pytest.mark.requirement("A8", "A10")
async def test_what_may_not_run_again_ends_as_lost_and_takes_every_message_after_that(
    store: Path, release: Release
) -> None:
    async with http_process(store) as url, http(url) as channel:
        modern = Modern(channel)
        asking, held, settled = await modern.start("ask_two"), await modern.start("hold", {"name": "go"}), ""
        task = await modern.reaches(asking, "input_required")
        settled = await modern.start("soon")
        before = await modern.reaches(settled)
    async with http_process(store) as url, http(url) as channel:
        modern = Modern(channel)
        await modern.update(asking, {key: answer("Ada") for key in task["inputRequests"]})
        for task_id in (asking, held):
            lost = await modern.reaches(task_id, "failed", seconds=20)
            assert lost["error"]["data"]["code"] == "worker_lost"
            await modern.cancel(task_id)
            assert (await modern.get(task_id))["status"] == "failed"
        assert await modern.get(settled) == before
        release("go")
    assert store.with_name("go.starts").read_text() == "."


@pytest.mark.requirement("A8", "A16")
async def test_a_cancel_after_the_restart_reaches_a_task_that_would_run_again(store: Path) -> None:
    async with http_process(store) as url, http(url) as channel:
        task_id = await Modern(channel).start("hold_again", {"name": "never"})
    async with http_process(store) as url, http(url) as channel:
        await Modern(channel).cancel(task_id)
        cancelled = await Modern(channel).get(task_id)
        assert cancelled["status"] == "cancelled"
    async with http_process(store) as url, http(url) as channel:
        assert (await Modern(channel).get(task_id)) == cancelled
