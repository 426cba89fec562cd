"""The core tasks of 2025-11-25 (SEP-1686), with raw messages on streamable HTTP and on stdio."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from spec.channels import Channel, hosted, http, stdio_process
from spec.peers import Legacy, RpcError, answer

from support.waiting import PATIENCE

Release = Callable[[str], None]
RELATED = "io.modelcontextprotocol/related-task"


@pytest.mark.requirement("B1")
async def test_the_capability_is_whole_and_each_tool_says_whether_it_takes_tasks(legacy: Legacy) -> None:
    tasks = legacy.server["capabilities"]["tasks"]
    assert tasks == {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
    tools = {tool["name"]: tool for tool in (await legacy.send("tools/list"))["tools"]}
    # One that says nothing takes none.
    assert "execution" not in tools.pop("resolve_task_status")
    support = {name: tool.get("execution", {}).get("taskSupport") for name, tool in tools.items()}
    assert support["hold"] == support["auto"] == support["adopted_whole"] == "optional"
    assert support["tasks_only"] == "required"
    assert support["look_up"] == support["plain"] == "forbidden"


@pytest.mark.requirement("B2")
async def test_a_call_that_asks_for_a_task_gets_it_nested(legacy: Legacy, release: Release) -> None:
    created = await legacy.call("hold", {"name": "go"}, task={})
    task = created["task"]
    needed = {"taskId", "status", "createdAt", "lastUpdatedAt", "ttl", "pollInterval"}
    assert needed <= set(task) <= needed | {"statusMessage"}
    assert task["status"] == "working"
    assert None not in task.values()
    assert datetime.fromisoformat(task["createdAt"]).tzinfo is not None
    assert "resultType" not in created
    release("go")


@pytest.mark.requirement("B2")
async def test_a_call_that_does_not_ask_gets_no_task(legacy: Legacy, release: Release) -> None:
    assert (await legacy.call("auto"))["structuredContent"] == {"auto": ""}
    ticket = await legacy.call("hold", {"name": "go"})
    assert ticket["structuredContent"]["status"] == "queued"
    release("go")


@pytest.mark.requirement("B3")
async def test_get_tells_the_task_and_result_waits_for_exactly_what_the_call_would_have_returned(
    legacy: Legacy, release: Release
) -> None:
    task_id = await legacy.start("hold", {"name": "go"})
    waiting = asyncio.create_task(legacy.send("tasks/result", {"taskId": task_id}))
    assert (await legacy.send("tasks/get", {"taskId": task_id}))["status"] == "working"
    assert not waiting.done()
    release("go")
    result = await asyncio.wait_for(waiting, PATIENCE)
    assert result["structuredContent"] == {"held": "go"}
    assert result["_meta"][RELATED] == {"taskId": task_id}
    assert (await legacy.send("tasks/get", {"taskId": task_id}))["status"] == "completed"
    assert await legacy.send("tasks/result", {"taskId": task_id}) == result


@pytest.mark.requirement("B3")
async def test_result_keeps_the_tools_own_meta_beside_the_related_task(legacy: Legacy) -> None:
    task_id = await legacy.start("adopted_whole")
    result = await legacy.send("tasks/result", {"taskId": task_id})
    assert result["_meta"]["a/b"] == 1
    assert result["_meta"][RELATED] == {"taskId": task_id}


@pytest.mark.requirement("B3")
async def test_result_is_the_tools_error_or_the_calls_json_rpc_error(legacy: Legacy) -> None:
    result = await legacy.send("tasks/result", {"taskId": await legacy.start("tool_error")})
    assert result["isError"] is True
    assert "no such quarter" in result["content"][0]["text"]
    with pytest.raises(RpcError) as failed:
        await legacy.send("tasks/result", {"taskId": await legacy.start("protocol_error")})
    assert failed.value.error == {"code": -32050, "message": "the stars are wrong", "data": {"phase": "new moon"}}


@pytest.mark.requirement("B3")
async def test_cancel_answers_with_the_cancelled_task_and_refuses_a_settled_one(legacy: Legacy) -> None:
    task_id = await legacy.start("hold", {"name": "never"})
    waiting = asyncio.create_task(legacy.send("tasks/result", {"taskId": task_id}))
    cancelled = await legacy.send("tasks/cancel", {"taskId": task_id})
    assert (cancelled["taskId"], cancelled["status"]) == (task_id, "cancelled")
    with pytest.raises(RpcError):
        await asyncio.wait_for(waiting, PATIENCE)
    for settled in (task_id, await legacy.start("auto")):
        await legacy.reaches(settled, "cancelled", "completed")
        with pytest.raises(RpcError) as refused:
            await legacy.send("tasks/cancel", {"taskId": settled})
        assert refused.value.code == -32602


@pytest.mark.requirement("B3")
async def test_an_unknown_task_is_refused_in_the_same_words_by_every_method(legacy: Legacy) -> None:
    errors: list[dict[str, Any]] = []
    for method in ("tasks/get", "tasks/result", "tasks/cancel"):
        with pytest.raises(RpcError) as unknown:
            await legacy.send(method, {"taskId": "never-heard-of"})
        errors.append(unknown.value.error)
    assert errors[0]["code"] == -32602
    assert errors[0] == errors[1] == errors[2]


@pytest.mark.requirement("B3")
async def test_the_list_comes_in_pages_by_opaque_cursors_and_takes_no_other(store: Path) -> None:
    async with stdio_process(store) as channel:
        legacy = await Legacy(channel).connect()
        started = [await legacy.start("auto") for _ in range(60)]
        seen: list[str] = []
        page = await legacy.send("tasks/list")
        cursor = page["nextCursor"]
        while True:
            seen += [task["taskId"] for task in page["tasks"]]
            if "nextCursor" not in page:
                break
            page = await legacy.send("tasks/list", {"cursor": page["nextCursor"]})
        assert seen == started[::-1]
        endless = base64.urlsafe_b64encode(b"[" * 100_000).decode()
        for tampered in ("", "x", cursor[:-4], cursor[::-1], "AAAA" + cursor, "é", "bnVsbA==", endless):
            with pytest.raises(RpcError) as refused:
                await legacy.send("tasks/list", {"cursor": tampered})
            assert (tampered, refused.value.code) == (tampered, -32602)


@pytest.mark.requirement("B3")
async def test_who_cannot_be_told_apart_is_shown_no_list(store: Path) -> None:
    async with hosted(store) as url, http(url) as channel:
        legacy = await Legacy(channel).connect()
        await legacy.start("auto")
        assert (await legacy.send("tasks/list"))["tasks"] == []


@pytest.mark.requirement("B4")
@pytest.mark.parametrize("tool", ["look_up", "plain", "resolve_task_status"])
async def test_a_task_where_none_is_possible_is_an_unknown_method(legacy: Legacy, tool: str) -> None:
    arguments = {"task_ref": "x"} if tool == "resolve_task_status" else {}
    with pytest.raises(RpcError) as refused:
        await legacy.call(tool, arguments, task={})
    assert refused.value.code == -32601


@pytest.mark.requirement("B4")
async def test_no_task_where_one_is_required_is_an_unknown_method(legacy: Legacy) -> None:
    with pytest.raises(RpcError) as refused:
        await legacy.call("tasks_only")
    assert refused.value.code == -32601
    await legacy.reaches(await legacy.start("tasks_only"), "completed")


@pytest.mark.requirement("B5")
@pytest.mark.parametrize(
    ("tool", "method"), [("ask_in_turn", "elicitation/create"), ("sampled", "sampling/createMessage")]
)
async def test_what_a_task_asks_goes_out_on_the_open_result_stream(legacy: Legacy, tool: str, method: str) -> None:
    task_id = await legacy.start(tool)
    task = await legacy.reaches(task_id, "input_required")
    assert "inputRequests" not in task
    waiting = asyncio.create_task(legacy.send("tasks/result", {"taskId": task_id}))
    said = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Hello."}}
    answers = [said] if tool == "sampled" else [answer("Ada"), answer("Lovelace")]
    for each in answers:
        request = await legacy.channel.next()
        assert request["method"] == method
        assert request["params"]["_meta"][RELATED] == {"taskId": task_id}
        await legacy.respond(request, each)
    result = await asyncio.wait_for(waiting, PATIENCE)
    expected: dict[str, Any] = {"names": [{"name": "Ada"}, {"name": "Lovelace"}], "attempt": 1}
    assert result["structuredContent"] == ({"said": "Hello."} if tool == "sampled" else expected)
    assert result["_meta"][RELATED] == {"taskId": task_id}


@pytest.mark.requirement("B5")
async def test_a_client_that_refuses_a_question_leaves_it_open_for_another(legacy: Legacy) -> None:
    task_id = await legacy.start("ask_in_turn")
    waiting = asyncio.create_task(legacy.send("tasks/result", {"taskId": task_id}))
    request = await legacy.channel.next()
    error = {"code": -32601, "message": "no"}
    await legacy.refuse(request, error)
    with pytest.raises(RpcError):
        await asyncio.wait_for(waiting, PATIENCE)
    assert (await legacy.send("tasks/get", {"taskId": task_id}))["status"] == "input_required"


@pytest.mark.requirement("B5")
async def test_a_client_that_cannot_be_asked_is_not_and_the_handle_tools_answer(channel: Channel) -> None:
    legacy = await Legacy(channel).connect({})
    task_id = await legacy.start("sampled")
    waiting = asyncio.create_task(legacy.send("tasks/result", {"taskId": task_id}))
    status = (await legacy.call("resolve_task_status", {"task_ref": task_id, "wait_seconds": 5}))["structuredContent"]
    ((key, _),) = status["input_requests"].items()
    said = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Hello."}}
    await legacy.call("provide_task_input", {"task_ref": task_id, "responses": {key: said}})
    assert (await asyncio.wait_for(waiting, PATIENCE))["structuredContent"] == {"said": "Hello."}
    assert channel.incoming.empty()


@pytest.mark.requirement("B7")
@pytest.mark.parametrize(("wish", "least", "most"), [(5000, 5000, 6000), (10**12, 60_000, 61_000), (1, 1000, 2000)])
async def test_the_wished_time_to_live_is_honoured_within_bounds_and_the_real_one_reported(
    legacy: Legacy, release: Release, wish: int, least: int, most: int
) -> None:
    created = (await legacy.call("hold", {"name": "go"}, task={"ttl": wish}))["task"]
    assert least <= created["ttl"] <= most
    release("go")
    done = await legacy.reaches(created["taskId"], "completed")
    settled = datetime.fromisoformat(done["lastUpdatedAt"]) - datetime.fromisoformat(done["createdAt"])
    kept = done["ttl"] - settled.total_seconds() * 1000
    assert abs(kept - least) <= 3


@pytest.mark.requirement("B7")
async def test_after_its_time_to_live_a_task_is_gone(legacy: Legacy) -> None:
    task_id = await legacy.start("auto", ttl=1000)
    await legacy.reaches(task_id, "completed")
    with pytest.raises(RpcError) as gone:
        await legacy.reaches(task_id, "gone")
    assert gone.value.code == -32602


@pytest.mark.requirement("B7")
async def test_a_time_to_live_below_zero_is_refused(legacy: Legacy) -> None:
    with pytest.raises(RpcError) as refused:
        await legacy.call("auto", task={"ttl": -1})
    assert refused.value.code == -32602


@pytest.mark.requirement("B3")
async def test_a_killed_server_comes_back_and_the_flow_goes_on(store: Path, release: Release) -> None:
    async with stdio_process(store) as channel:
        task_id = await (await Legacy(channel).connect()).start("hold_again", {"name": "go"})
    async with stdio_process(store) as channel:
        legacy = await Legacy(channel).connect()
        assert (await legacy.send("tasks/get", {"taskId": task_id}))["status"] == "working"
        waiting = asyncio.create_task(legacy.send("tasks/result", {"taskId": task_id}))
        release("go")
        result = await asyncio.wait_for(waiting, PATIENCE)
    async with stdio_process(store) as channel:
        legacy = await Legacy(channel).connect()
        assert await legacy.send("tasks/result", {"taskId": task_id}) == result
        assert [task["taskId"] for task in (await legacy.send("tasks/list"))["tasks"]] == [task_id]


@pytest.mark.requirement("B5")
async def test_a_task_that_waits_for_its_caller_is_asked_again_after_a_restart(store: Path) -> None:
    async with stdio_process(store) as channel:
        legacy = await Legacy(channel).connect()
        task_id = await legacy.start("ask_in_turn")
        await legacy.reaches(task_id, "input_required")
    async with stdio_process(store) as channel:
        legacy = await Legacy(channel).connect()
        waiting = asyncio.create_task(legacy.send("tasks/result", {"taskId": task_id}))
        # The lost worker's question may be withdrawn while it is asked; then it comes again.
        while not waiting.done():
            asked = asyncio.create_task(legacy.channel.incoming.get())
            await asyncio.wait({waiting, asked}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            if asked.done() and (request := asked.result())["method"] == "elicitation/create":
                name = "Ada" if request["params"]["message"] == "First name?" else "Lovelace"
                await legacy.respond(request, answer(name))
            asked.cancel()
        expected = {"names": [{"name": "Ada"}, {"name": "Lovelace"}], "attempt": 2}
        assert waiting.result()["structuredContent"] == expected


@pytest.mark.requirement("B5")
async def test_a_question_that_another_surface_answers_is_not_waited_for(legacy: Legacy) -> None:
    task_id = await legacy.start("sampled")
    waiting = asyncio.create_task(legacy.send("tasks/result", {"taskId": task_id}))
    await legacy.channel.next()
    status = (await legacy.call("resolve_task_status", {"task_ref": task_id}))["structuredContent"]
    ((key, _),) = status["input_requests"].items()
    said = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Hello."}}
    await legacy.call("provide_task_input", {"task_ref": task_id, "responses": {key: said}})
    assert (await asyncio.wait_for(waiting, PATIENCE))["structuredContent"] == {"said": "Hello."}


@pytest.mark.requirement("B3", "B5")
async def test_a_cancel_ends_a_result_whose_question_is_open(legacy: Legacy) -> None:
    task_id = await legacy.start("ask_in_turn")
    waiting = asyncio.create_task(legacy.send("tasks/result", {"taskId": task_id}))
    await legacy.channel.next()
    await legacy.send("tasks/cancel", {"taskId": task_id})
    with pytest.raises(RpcError):
        await asyncio.wait_for(waiting, PATIENCE)


async def test_a_call_that_waits_for_its_result_asks_the_client_itself(legacy: Legacy) -> None:
    waiting = asyncio.create_task(legacy.call("ask_while_waiting"))
    request = await legacy.channel.next()
    assert request["method"] == "elicitation/create"
    await legacy.respond(request, answer("Ada"))
    assert (await asyncio.wait_for(waiting, PATIENCE))["structuredContent"] == {"hello": {"name": "Ada"}}
