"""What the tasks extension says of HTTP alone: the headers, and both protocols on one endpoint."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from spec.channels import Channel, hosted, http
from spec.peers import NOTHING, Legacy, Modern, RpcError

Release = Callable[[str], None]
METHODS = ["tasks/get", "tasks/update", "tasks/cancel"]


@pytest.fixture
async def channel(store: Path) -> AsyncGenerator[Channel]:
    async with hosted(store) as url, http(url) as channel:
        yield channel


@pytest.mark.requirement("A18")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["somebody-elses-task", "", "=?base64?!!!?="])
async def test_a_name_header_that_is_not_the_task_is_refused(
    modern: Modern, method: str, name: str, release: Release
) -> None:
    task_id = await modern.start("hold", {"name": "go"})
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": method, "mcp-name": name}
    with pytest.raises(RpcError) as refused:
        await modern.send(method, {"taskId": task_id, "inputResponses": {}}, headers=headers)
    assert (refused.value.status, refused.value.code) == (400, -32020)
    assert (await modern.get(task_id))["status"] == "working"
    release("go")


@pytest.mark.requirement("A18")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("claimed", ["tools/list", None])
async def test_a_method_header_that_is_not_the_method_is_refused(
    modern: Modern, method: str, claimed: str | None
) -> None:
    task_id = await modern.start("soon")
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-name": task_id}
    if claimed is not None:
        headers["mcp-method"] = claimed
    with pytest.raises(RpcError) as refused:
        await modern.send(method, {"taskId": task_id, "inputResponses": {}}, headers=headers)
    assert (refused.value.status, refused.value.code) == (400, -32020)


@pytest.mark.requirement("A18")
async def test_a_request_without_the_name_header_is_served(modern: Modern) -> None:
    # SEP-2243 would have it refused; FastMCP's client (4.1) sends none: docs/conformance.md.
    task_id = await modern.start("soon")
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tasks/get"}
    assert (await modern.send("tasks/get", {"taskId": task_id}, headers=headers))["taskId"] == task_id


@pytest.mark.requirement("A18")
async def test_an_encoded_name_header_counts_as_what_it_says(modern: Modern) -> None:
    task_id = await modern.start("soon")
    name = f"=?base64?{b64encode(task_id.encode()).decode()}?="
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tasks/get", "mcp-name": name}
    assert (await modern.send("tasks/get", {"taskId": task_id}, headers=headers))["taskId"] == task_id


@pytest.mark.requirement("A9", "B3")
async def test_a_task_of_one_surface_is_there_on_all_the_others(
    modern: Modern, channel: Channel, release: Release
) -> None:
    legacy = await Legacy(channel).connect()
    ticket = await modern.call("hold", {"name": "go"}, capabilities=NOTHING)
    ref = ticket["structuredContent"]["task_ref"]
    assert (await modern.get(ref))["status"] == "working"
    assert (await legacy.send("tasks/get", {"taskId": ref}))["status"] == "working"
    task_id = await modern.start("hold", {"name": "go"})
    status = await modern.call("resolve_task_status", {"task_ref": task_id, "wait_seconds": 0}, capabilities=NOTHING)
    assert status["structuredContent"]["status"] in ("pending", "processing")
    core = await legacy.start("hold", {"name": "go"})
    release("go")
    for each in (ref, task_id, core):
        assert (await modern.reaches(each))["result"]["structuredContent"] == {"held": "go"}
        resolved = await modern.call("resolve_task_status", {"task_ref": each}, capabilities=NOTHING)
        assert resolved["structuredContent"]["result"] == {"held": "go"}
        assert (await legacy.send("tasks/result", {"taskId": each}))["structuredContent"] == {"held": "go"}
