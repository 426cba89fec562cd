"""A task of another principal does not exist: the same words as for an unknown id, on every method of every surface."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from spec.channels import hosted, http
from spec.peers import NOTHING, Legacy, Modern, RpcError

Release = Callable[[str], None]
Two = tuple[Modern, Modern, Legacy, Legacy]


@pytest.fixture
async def two(store: Path) -> AsyncGenerator[Two]:
    """Alice and Bob, each with both protocols, on one server."""
    async with (
        hosted(store, tokens=True) as url,
        http(url, "alice") as alice,
        http(url, "bob") as bob,
        http(url, "alice") as legacy_alice,
        http(url, "bob") as legacy_bob,
    ):
        yield (
            Modern(alice),
            Modern(bob),
            await Legacy(legacy_alice).connect(),
            await Legacy(legacy_bob).connect(),
        )


@pytest.mark.requirement("A12", "A20")
@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_the_extension_gives_another_principal_the_unknown_task_answer(
    two: Two, method: str, release: Release
) -> None:
    alice, bob, _, _ = two
    task_id = await alice.start("hold", {"name": "go"})
    errors: list[dict[str, Any]] = []
    for each in (task_id, "never-heard-of"):
        with pytest.raises(RpcError) as unknown:
            await bob.send(method, {"taskId": each, "inputResponses": {}})
        errors.append(unknown.value.error)
    assert errors[0] == errors[1]
    assert errors[0]["code"] == -32602
    assert (await alice.get(task_id))["status"] == "working"
    release("go")


@pytest.mark.requirement("A19", "A20")
async def test_a_stream_honours_only_the_callers_own_tasks(two: Two, release: Release) -> None:
    alice, bob, _, _ = two
    hers, his = await alice.start("hold", {"name": "go"}), await bob.start("hold", {"name": "go"})
    async with bob.listening(hers, his, "never-heard-of") as stream:
        assert stream.acknowledged["params"]["notifications"] == {"taskIds": [his]}
        release("go")
        await stream.reaches(his, "completed")
        await stream.ended
    assert bob.channel.incoming.empty()


@pytest.mark.requirement("B3")
@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel"])
async def test_the_core_tasks_give_another_principal_the_unknown_task_answer(
    two: Two, method: str, release: Release
) -> None:
    _, _, alice, bob = two
    task_id = await alice.start("hold", {"name": "go"})
    errors: list[dict[str, Any]] = []
    for each in (task_id, "never-heard-of"):
        with pytest.raises(RpcError) as unknown:
            await bob.send(method, {"taskId": each})
        errors.append(unknown.value.error)
    assert errors[0] == errors[1]
    assert errors[0]["code"] == -32602
    assert (await alice.send("tasks/get", {"taskId": task_id}))["status"] == "working"
    release("go")


@pytest.mark.requirement("B3")
async def test_listings_hold_the_callers_own_tasks_only(two: Two, release: Release) -> None:
    modern_alice, modern_bob, alice, bob = two
    hers = {await alice.start("hold", {"name": "go"}), await modern_alice.start("hold", {"name": "go"})}
    his = {await bob.start("hold", {"name": "go"})}
    assert {task["taskId"] for task in (await alice.send("tasks/list"))["tasks"]} == hers
    assert {task["taskId"] for task in (await bob.send("tasks/list"))["tasks"]} == his
    listed = await modern_bob.call("list_background_tasks", capabilities=NOTHING)
    assert {task["task_ref"] for task in listed["structuredContent"]["tasks"]} == his
    release("go")


@pytest.mark.requirement("A20")
@pytest.mark.parametrize("tool", ["resolve_task_status", "cancel_background_task", "provide_task_input"])
async def test_the_handle_tools_give_another_principal_the_unknown_task_answer(
    two: Two, tool: str, release: Release
) -> None:
    alice, bob, _, _ = two
    task_id = await alice.start("hold", {"name": "go"})
    more: dict[str, Any] = {"responses": {}} if tool == "provide_task_input" else {}
    answers = [
        await bob.call(tool, {"task_ref": each, **more}, capabilities=NOTHING) for each in (task_id, "never-heard-of")
    ]
    assert answers[0] == answers[1]
    assert answers[0]["structuredContent"]["error"]["code"] == "task_not_found"
    assert (await alice.get(task_id))["status"] == "working"
    release("go")
