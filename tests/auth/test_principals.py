"""Two principals on one server: for each, the other's tasks do not exist, on every tool and every method."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from auth.callers import FUNCTIONS, TOML, ModernCaller, legacy, over_sse

from raincheck.domain.task import new_task_ref
from support.serving import HttpServer, Refused, Workplace
from support.waiting import PATIENCE

ADA, BOB = "ada-" + "a" * 28, "bob-" + "b" * 28
AUTH = '[server.auth.tokens]\nada = "${ADA}"\nbob = "${BOB}"\n'
ENVIRONMENT = {"ADA": ADA, "BOB": BOB}


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path, TOML + AUTH, FUNCTIONS)


@pytest.fixture
async def server(workplace: Workplace) -> AsyncIterator[HttpServer]:
    async with workplace.http(env=ENVIRONMENT) as server:
        yield server


def without(ref: str, answer: object) -> str:
    """What an answer says, whichever task it was asked about."""
    return json.dumps(answer).replace(ref, "REF")


async def test_another_principals_task_gets_the_words_of_an_unknown_one_on_every_tool(
    server: HttpServer, client: httpx2.AsyncClient
) -> None:
    ada, bob = (ModernCaller(client, server.url, token) for token in (ADA, BOB))
    ref, unknown = (await ada.submit("ask"))["task_ref"], new_task_ref()
    while (await ada.status(ref))["status"] != "input_required":
        await ada.status(ref, 0.05)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("resolve_task_status", {}),
        ("resolve_task_status", {"wait_seconds": 1}),
        ("cancel_background_task", {}),
        ("provide_task_input", {"responses": {"a": {"action": "accept", "content": {"yes": True}}}}),
    ]
    for tool, more in calls:
        said: list[str] = []
        for each in (ref, unknown):
            with pytest.raises(Refused) as refused:
                await bob.call(tool, {"task_ref": each, **more})
            assert refused.value.code == "task_not_found"
            said.append(without(each, refused.value.error))
        assert said[0] == said[1], tool
    assert (await bob.call("list_background_tasks"))["tasks"] == []
    assert [task["task_ref"] for task in (await ada.call("list_background_tasks"))["tasks"]] == [ref]
    assert (await ada.status(ref))["status"] == "input_required"


async def test_another_principals_task_gets_the_words_of_an_unknown_one_on_every_method_of_the_extension(
    server: HttpServer, client: httpx2.AsyncClient
) -> None:
    ada, bob = (ModernCaller(client, server.url, token) for token in (ADA, BOB))
    ref, unknown = (await ada.submit("ask"))["task_ref"], new_task_ref()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("tasks/get", {}),
        ("tasks/cancel", {}),
        ("tasks/update", {"inputResponses": {}}),
    ]
    for method, more in calls:
        foreign, none = [without(each, await bob.about(method, each, **more)) for each in (ref, unknown)]
        assert "error" in json.loads(foreign)
        assert foreign == none, method
    assert without(ref, await bob.listened(ref)) == without(unknown, await bob.listened(unknown))
    assert ref not in json.dumps(await bob.listened(ref))
    assert (await ada.about("tasks/get", ref))["result"]["taskId"] == ref
    await ada.call("cancel_background_task", {"task_ref": ref})
    assert ref in json.dumps(await ada.listened(ref))


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_another_principals_task_gets_the_words_of_an_unknown_one_on_every_core_method(
    workplace: Workplace, client: httpx2.AsyncClient, transport: str
) -> None:
    door: Any = legacy if transport == "streamable-http" else over_sse
    async with (
        workplace.http(transport=transport, env=ENVIRONMENT) as server,
        door(client, server.url, ADA) as ada,
        door(client, server.url, BOB) as bob,
    ):
        made = await ada.ask("tools/call", name="say", arguments={"word": "hi"}, task={})
        ref, unknown = made["result"]["task"]["taskId"], new_task_ref()
        for method in ("tasks/get", "tasks/result", "tasks/cancel"):
            foreign, none = [without(each, await bob.ask(method, taskId=each)) for each in (ref, unknown)]
            assert "error" in json.loads(foreign)
            assert foreign == none, method
        assert (await bob.ask("tasks/list"))["result"]["tasks"] == []
        assert [task["taskId"] for task in (await ada.ask("tasks/list"))["result"]["tasks"]] == [ref]
        assert (await ada.ask("tasks/result", taskId=ref))["result"]["content"][0]["text"] == "hi"
        # The handle tools know the same scopes here.
        seen = await bob.ask("tools/call", name="resolve_task_status", arguments={"task_ref": ref})
        assert seen["result"]["isError"]


async def test_a_session_is_of_no_use_to_another_principal(server: HttpServer, client: httpx2.AsyncClient) -> None:
    async with legacy(client, server.url, ADA) as ada:
        for headers, status in (({"authorization": f"Bearer {BOB}"}, 404), ({"authorization": "Bearer x"}, 401)):
            assert (await ada.post("tasks/list", {}, **headers)).status_code == status
        assert (await ada.post("tasks/list", {})).status_code == 200


async def test_an_sse_session_is_of_no_use_to_another_principal(
    workplace: Workplace, client: httpx2.AsyncClient
) -> None:
    async with (
        workplace.http(transport="sse", env=ENVIRONMENT) as server,
        over_sse(client, server.url, ADA) as ada,
    ):
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": 9, "method": "tasks/list", "params": {}}
        assert (await ada.post(message, authorization=f"Bearer {BOB}")).status_code == 404
        assert (await ada.post(message, authorization="Bearer x")).status_code == 401
        assert (await client.get(server.url)).status_code == 401
        assert (await ada.ask("tasks/list"))["result"]["tasks"] == []


async def test_one_idempotency_key_is_one_task_for_each_principal(
    server: HttpServer, client: httpx2.AsyncClient
) -> None:
    ada, bob = (ModernCaller(client, server.url, token) for token in (ADA, BOB))
    tickets = [await caller.submit("say", {"word": "hi"}, idempotency_key="k") for caller in (ada, bob, ada, bob)]
    assert [ticket["deduplicated"] for ticket in tickets] == [False, False, True, True]
    refs = [ticket["task_ref"] for ticket in tickets]
    assert refs[:2] == refs[2:]
    assert refs[0] != refs[1]
    # Another's use of the key is no conflict, and tells nothing.
    other = await bob.submit("say", {"word": "other"}, idempotency_key="k2")
    assert (await ada.submit("say", {"word": "mine"}, idempotency_key="k2"))["task_ref"] != other["task_ref"]


async def test_a_principal_keeps_its_tasks_when_its_token_changes_and_the_server_restarts(
    workplace: Workplace, client: httpx2.AsyncClient
) -> None:
    async with workplace.http(env=ENVIRONMENT) as server:
        ref = (await ModernCaller(client, server.url, ADA).run("say", {"word": "hi"}))["task_ref"]
    swapped = {"ADA": BOB, "BOB": ADA}
    async with workplace.http(env=swapped) as server:
        assert (await ModernCaller(client, server.url, BOB).status(ref))["result"] == "hi"
        with pytest.raises(Refused):
            await ModernCaller(client, server.url, ADA).status(ref)


async def test_anonymous_callers_share_one_scope_and_list_nothing(tmp_path: Path, client: httpx2.AsyncClient) -> None:
    async with (
        Workplace(tmp_path, TOML, FUNCTIONS).http() as server,
        legacy(client, server.url, None) as one,
        legacy(client, server.url, None) as other,
    ):
        ticket = await ModernCaller(client, server.url, None).run("say", {"word": "hi"})
        assert (await other.ask("tasks/get", taskId=ticket["task_ref"]))["result"]["status"] == "completed"
        assert (await one.ask("tasks/list"))["result"]["tasks"] == []
        refused = await one.ask("tools/call", name="list_background_tasks", arguments={})
        assert "without authentication" in refused["result"]["content"][0]["text"]
        tools = (await one.ask("tools/list"))["result"]["tools"]
        assert "list_background_tasks" not in {tool["name"] for tool in tools}
