"""The tasks extension of 2026-07-28 (SEP-2663): negotiation, shapes and life, on streamable HTTP and on stdio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from spec.channels import Channel, hosted, http, stdio_process
from spec.peers import EXTENSION, NOTHING, TASKS, Legacy, Modern, RpcError

from support.waiting import PATIENCE

Release = Callable[[str], None]
REQUIRED: dict[str, Any] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.requirement("A1")
async def test_the_extension_is_advertised_with_empty_settings_and_not_as_core_tasks(modern: Modern) -> None:
    found = await modern.send("server/discover")
    assert found["capabilities"]["extensions"][EXTENSION] == {}
    assert "tasks" not in found["capabilities"]
    tools = (await modern.send("tools/list"))["tools"]
    assert all("execution" not in tool for tool in tools)


@pytest.mark.requirement("A2")
async def test_each_request_opts_in_for_itself(modern: Modern, release: Release) -> None:
    created = await modern.call("hold", {"name": "go"})
    assert created["resultType"] == "task"
    later = await modern.call("hold", {"name": "go"}, capabilities=NOTHING)
    assert later["resultType"] == "complete"
    with pytest.raises(RpcError) as refused:
        await modern.send("tasks/get", {"taskId": created["taskId"]}, capabilities=NOTHING)
    assert refused.value.code == -32021
    release("go")
    assert (await modern.reaches(created["taskId"]))["status"] == "completed"


@pytest.mark.requirement("A3")
@pytest.mark.parametrize("capabilities", [NOTHING, {"elicitation": {}}, {"extensions": {"com.example/other": {}}}])
async def test_a_request_that_did_not_declare_gets_the_ordinary_result_or_the_ticket(
    modern: Modern, capabilities: dict[str, Any], release: Release
) -> None:
    quick = await modern.call("auto", capabilities=capabilities)
    assert (quick["resultType"], quick["structuredContent"]) == ("complete", {"auto": ""})
    ticket = await modern.call("auto", {"name": "go"}, capabilities=capabilities)
    assert ticket["resultType"] == "complete"
    assert ticket["structuredContent"]["status"] == "processing"
    assert not {"taskId", "ttlMs", "status"} & set(ticket)
    release("go")


@pytest.mark.requirement("A3")
async def test_a_legacy_connection_that_declares_the_extension_gets_no_task_of_it(
    channel: Channel, release: Release
) -> None:
    legacy = await Legacy(channel).connect(TASKS)
    ticket = await legacy.call("hold", {"name": "go"})
    assert ticket["structuredContent"]["status"] == "queued"
    assert not {"taskId", "task"} & set(ticket)
    assert ticket.get("resultType", "complete") == "complete"
    release("go")


@pytest.mark.requirement("A4")
async def test_what_cannot_be_served_without_a_task_is_refused_and_says_what_is_missing(
    modern: Modern, channel: Channel
) -> None:
    with pytest.raises(RpcError) as refused:
        await modern.call("tasks_only", capabilities=NOTHING)
    assert refused.value.code == -32021
    assert refused.value.error["data"] == REQUIRED
    assert refused.value.status == (400 if channel.over_http else 200)
    assert (await modern.reaches(await modern.start("tasks_only")))["status"] == "completed"


@pytest.mark.requirement("A5")
async def test_task_requests_and_notifications_need_the_declaration(
    modern: Modern, channel: Channel, release: Release
) -> None:
    task_id = await modern.start("hold", {"name": "go"})
    asked: list[tuple[str, dict[str, Any]]] = [
        ("tasks/get", {"taskId": task_id}),
        ("tasks/update", {"taskId": task_id, "inputResponses": {}}),
        ("tasks/cancel", {"taskId": task_id}),
        ("subscriptions/listen", {"notifications": {"taskIds": [task_id]}}),
    ]
    for method, params in asked:
        with pytest.raises(RpcError) as refused:
            await modern.send(method, params, capabilities=NOTHING)
        assert (method, refused.value.code) == (method, -32021)
        assert refused.value.error["data"] == REQUIRED
        assert refused.value.status == (400 if channel.over_http else 200)
    assert (await modern.get(task_id))["status"] == "working"
    release("go")


@pytest.mark.requirement("A6")
async def test_the_server_alone_decides_what_becomes_a_task(modern: Modern, release: Release) -> None:
    assert (await modern.call("look_up", task={"ttl": 1000}))["resultType"] == "complete"
    assert (await modern.call("plain", task={}))["resultType"] == "complete"
    assert (await modern.call("soon"))["resultType"] == "task"
    # What ends within the call is no task.
    fast = await modern.call("auto")
    assert (fast["resultType"], fast["structuredContent"]) == ("complete", {"auto": ""})
    assert (await modern.call("auto", {"name": "go"}))["resultType"] == "task"
    release("go")
    assert (await modern.call("adopted_whole"))["resultType"] == "task"


@pytest.mark.requirement("A7")
async def test_the_handle_of_a_new_task_is_flat_and_says_nothing_that_does_not_apply(
    modern: Modern, release: Release
) -> None:
    before = datetime.now(UTC)
    created = await modern.call("hold", {"name": "go"})
    needed = {"resultType", "taskId", "status", "createdAt", "lastUpdatedAt", "ttlMs", "pollIntervalMs"}
    assert needed <= set(created) <= needed | {"statusMessage", "_meta"}
    assert created["status"] == "working"
    assert isinstance(created["ttlMs"], int)
    assert before - timedelta(milliseconds=1) <= at(created["createdAt"]) <= datetime.now(UTC)
    release("go")


@pytest.mark.requirement("A8")
async def test_a_handle_resolves_at_once_on_every_replica(store: Path, release: Release) -> None:
    async with hosted(store) as one, hosted(store, workers=0) as other, http(one) as here, http(other) as there:
        task_id = ""
        for _ in range(10):
            task_id = await Modern(here).start("hold", {"name": "go"})
            assert (await Modern(there).get(task_id))["taskId"] == task_id
        release("go")
        assert (await Modern(there).reaches(task_id))["result"]["structuredContent"] == {"held": "go"}


@pytest.mark.requirement("A9")
async def test_get_gives_the_whole_task_in_every_status(modern: Modern, release: Release) -> None:
    held = await modern.start("hold", {"name": "go"})
    assert set(await modern.get(held)) >= {"resultType", "taskId", "status", "pollIntervalMs"}
    release("go")
    done = await modern.reaches(held)
    assert done["result"]["structuredContent"] == {"held": "go"}
    assert done["result"]["content"][0]["type"] == "text"
    asking = await modern.start("ask_two")
    task = await modern.reaches(asking, "input_required")
    async with asyncio.timeout(PATIENCE):
        while len(task["inputRequests"]) < 2:
            task = await modern.get(asking)
    assert {request["method"] for request in task["inputRequests"].values()} == {"elicitation/create"}
    assert {request["params"]["message"] for request in task["inputRequests"].values()} == {"First name?", "Last name?"}
    await modern.cancel(asking)
    assert (await modern.get(asking))["status"] == "cancelled"


@pytest.mark.requirement("A9")
async def test_a_result_is_exactly_what_the_tool_gave(modern: Modern) -> None:
    done = await modern.reaches(await modern.start("adopted_whole"))
    result = done["result"]
    assert result["structuredContent"] == {"n": 1}
    assert result["content"] == [{"type": "text", "text": "see the structure"}]
    assert result["_meta"]["a/b"] == 1


@pytest.mark.requirement("A9")
@pytest.mark.parametrize("method", ["tasks/result", "tasks/list"])
async def test_methods_of_the_core_tasks_are_unknown(modern: Modern, channel: Channel, method: str) -> None:
    task_id = await modern.start("soon")
    with pytest.raises(RpcError) as refused:
        await modern.send(method, {"taskId": task_id} if method == "tasks/result" else {})
    assert refused.value.code == -32601
    assert refused.value.status == (404 if channel.over_http else 200)


@pytest.mark.requirement("A10")
async def test_a_tool_that_reports_an_error_is_completed(modern: Modern) -> None:
    done = await modern.reaches(await modern.start("tool_error"))
    assert done["status"] == "completed"
    assert done["result"]["isError"] is True
    assert "no such quarter" in done["result"]["content"][0]["text"]


@pytest.mark.requirement("A10")
async def test_a_json_rpc_error_is_failed_and_kept_as_it_is(modern: Modern) -> None:
    failed = await modern.reaches(await modern.start("protocol_error"))
    assert failed["status"] == "failed"
    assert failed["error"] == {"code": -32050, "message": "the stars are wrong", "data": {"phase": "new moon"}}
    assert failed["statusMessage"] == "the stars are wrong"


@pytest.mark.requirement("A10")
async def test_a_call_that_ran_out_of_time_is_failed_and_says_why(modern: Modern) -> None:
    failed = await modern.reaches(await modern.start("overruns"))
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == -32603
    assert failed["error"]["data"]["code"] == "timeout"
    assert "longer than 0.1 s" in failed["statusMessage"]


@pytest.mark.requirement("A11")
async def test_the_time_to_live_is_true_at_the_moment_of_each_answer(modern: Modern, release: Release) -> None:
    created = await modern.call("hold", {"name": "go"})
    kept = timedelta(seconds=60)

    def until(task: dict[str, Any]) -> datetime:
        return at(task["createdAt"]) + timedelta(milliseconds=task["ttlMs"])

    asked = datetime.now(UTC)
    working = await modern.get(created["taskId"])
    assert asked + kept - timedelta(milliseconds=2) <= until(working) <= datetime.now(UTC) + kept
    release("go")
    settled = await modern.reaches(created["taskId"])
    assert abs(until(settled) - (at(settled["lastUpdatedAt"]) + kept)) <= timedelta(milliseconds=2)
    assert until(await modern.get(created["taskId"])) == until(settled)


@pytest.mark.requirement("A11")
async def test_last_updated_is_the_time_of_the_last_change_and_not_of_the_asking(
    modern: Modern, release: Release
) -> None:
    task_id = await modern.start("steps", {"name": "go"})
    async with asyncio.timeout(PATIENCE):
        while "statusMessage" not in (task := await modern.get(task_id)):
            await asyncio.sleep(0.02)
    assert task["statusMessage"] == "25%: begun"
    assert (await modern.get(task_id))["lastUpdatedAt"] == task["lastUpdatedAt"]
    assert at(task["lastUpdatedAt"]) >= at(task["createdAt"])
    release("go")
    done = await modern.reaches(task_id)
    assert at(done["lastUpdatedAt"]) > at(task["lastUpdatedAt"])
    assert (await modern.get(task_id))["lastUpdatedAt"] == done["lastUpdatedAt"]


@pytest.mark.requirement("A12")
async def test_an_expired_task_is_unknown_in_the_same_words(modern: Modern) -> None:
    errors: list[dict[str, Any]] = []
    brief = await modern.start("brief")
    async with asyncio.timeout(PATIENCE):
        while not errors:
            try:
                await modern.get(brief)
            except RpcError as error:
                errors.append(error.error)
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        for task_id in (brief, "never-heard-of", "x" * 5000, ""):
            with pytest.raises(RpcError) as unknown:
                await modern.send(method, {"taskId": task_id, "inputResponses": {}}, headers=_headers(method, task_id))
            errors.append(unknown.value.error)
    assert errors[0]["code"] == -32602
    assert all(error == errors[0] for error in errors)


def _headers(method: str, task_id: str) -> dict[str, str]:
    return {"mcp-protocol-version": "2026-07-28", "mcp-method": method, "mcp-name": task_id}


@pytest.mark.requirement("A13")
async def test_update_and_cancel_answer_with_an_empty_acknowledgement(modern: Modern) -> None:
    task_id = await modern.start("hold", {"name": "never"})
    for acknowledgement in (await modern.update(task_id, {}), await modern.cancel(task_id)):
        assert {key: value for key, value in acknowledgement.items() if key != "_meta"} == {"resultType": "complete"}
    assert (await modern.get(task_id))["status"] == "cancelled"


@pytest.mark.requirement("A13", "A16")
async def test_a_settled_task_takes_cancels_and_answers_and_stays_as_it_is(modern: Modern) -> None:
    for tool in ("soon", "tool_error", "protocol_error"):
        settled = await modern.reaches(await modern.start(tool))
        assert (await modern.cancel(settled["taskId"]))["resultType"] == "complete"
        assert (await modern.update(settled["taskId"], {"1-1": {"action": "accept"}}))["resultType"] == "complete"
        assert await modern.get(settled["taskId"]) == settled
    cancelled = await modern.start("hold", {"name": "go"})
    await modern.cancel(cancelled)
    before = await modern.get(cancelled)
    await modern.cancel(cancelled)
    assert await modern.get(cancelled) == before


@pytest.mark.requirement("A20")
async def test_ids_are_long_random_and_fit_a_header(modern: Modern) -> None:
    ids = {await modern.start("soon") for _ in range(20)}
    assert len(ids) == 20
    # 22 characters of the URL-safe alphabet hold 128 bits.
    assert all(len(each) >= 22 and each.replace("-", "a").replace("_", "a").isalnum() for each in ids)
    assert len({each[:8] for each in ids}) == 20


async def test_a_stdio_server_that_a_client_starts_twice_per_connect_serves_both(store: Path) -> None:
    # As TypeScript clients do: one process is asked what it is and ended, the other one is used.
    async with stdio_process(store) as used:
        async with stdio_process(store) as probed:
            found, task_id = await asyncio.gather(Modern(probed).send("server/discover"), Modern(used).start("soon"))
        assert EXTENSION in found["capabilities"]["extensions"]
        assert (await Modern(used).reaches(task_id))["status"] == "completed"
