"""The surfaces of a FastMCP server with raincheck, each by FastMCP's own client in the same process."""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import importlib.util
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import fastmcp.client.extension_hooks as hooks
import pytest
from fastmcp import Client, FastMCP
from fastmcp.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import Request
from pydantic import BaseModel

from raincheck.errors import ConfigurationError
from raincheck.mcp.surfaces.handle_definitions import HANDLE_NAMES


def _office() -> ModuleType:
    spec = importlib.util.spec_from_file_location("office", Path(__file__).with_name("office.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_office = _office().make_office


@pytest.fixture
def with_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastMCP's client as it is once `fastmcp_tasks` is imported."""
    from fastmcp_tasks.client import TasksClientExtension

    monkeypatch.setattr(hooks, "_internal_client_extension_factories", [TasksClientExtension])


async def yes(message: str, response_type: Any, params: Any, context: Any) -> Any:
    (name,) = params.requested_schema["properties"]
    return {name: True}


@asynccontextmanager
async def client_of(store: Path, *, mode: str = "auto", **policy: Any) -> AsyncGenerator[Client[Any]]:
    mcp, _ = make_office(store, **policy)
    async with Client(mcp, mode=mode, elicitation_handler=yes) as client:
        yield client


@asynccontextmanager
async def client_without_a_user(store: Path) -> AsyncGenerator[Client[Any]]:
    """A client that cannot have its user asked."""
    mcp, _ = make_office(store)
    async with Client(mcp, mode="auto") as client:
        yield client


async def data(client: Client[Any], tool: str, **arguments: Any) -> Any:
    return (await client.call_tool(tool, arguments)).structured_content


async def end_of(client: Client[Any], ticket: dict[str, Any]) -> dict[str, Any]:
    return await data(client, "resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=5)


class Asked(Request[dict[str, Any], str]):
    pass


class Answered(BaseModel, extra="allow"):
    pass


async def called(client: Client[Any], tool: str, **arguments: Any) -> dict[str, Any]:
    """The whole answer, of whichever kind."""
    return await request(client, "tools/call", name=tool, arguments=arguments)


async def request(client: Client[Any], method: str, **params: Any) -> dict[str, Any]:
    answer = await client.session.send_request(Asked(method=method, params=params), Answered)
    return answer.model_dump()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_without_tasks_gets_a_ticket_and_resolves_it(store: Path, mode: str) -> None:
    async with client_of(store, mode=mode) as client:
        ticket = await data(client, "work", n=4)
        assert ticket["status"] == "queued"
        assert (await end_of(client, ticket))["result"] == {"n": 4}
        begun = await data(client, "initiate_background_task", operation_type="slow_report", parameters={"quarter": 3})
        assert (await end_of(client, begun))["result"] == {"quarter": 3}
        listed = (await data(client, "list_background_tasks"))["tasks"]
        assert [task["operation_type"] for task in listed] == ["slow_report", "work"]
        assert await data(client, "quick", n=5) == {"result": 5}


async def test_a_client_without_tasks_cancels_and_answers(store: Path, tmp_path: Path) -> None:
    async with client_without_a_user(store) as client:
        running = await data(client, "long", flag=str(tmp_path / "never"))
        assert (await data(client, "cancel_background_task", task_ref=running["task_ref"]))["status"] == "cancelled"
        for tool, arguments, name in (("ask", {}, "sure"), ("slow_publish", {"title": "Rain"}, "value")):
            asking = await end_of(client, await data(client, tool, **arguments))
            assert asking["status"] == "input_required"
            (key,) = asking["input_requests"]
            answers = {key: {"action": "accept", "content": {name: True}}}
            await data(client, "provide_task_input", task_ref=asking["task_ref"], responses=answers)
            assert (await end_of(client, asking))["result"] in ("accept True", {"result": "published"})


async def test_the_listing_shows_every_tool_and_promises_nothing_that_a_ticket_would_break(store: Path) -> None:
    async with client_of(store) as client:
        tools = {tool.name: tool for tool in await client.list_tools()}
    assert tools["slow_report"].output_schema is None
    assert tools["quick"].output_schema is not None
    assert tools["slow_report"].description.startswith("Build a report. (May answer with a ticket")
    assert tools["work"].description.startswith("Do it. (May answer with a ticket")
    assert tools["quick"].description == "A tool that no pattern names."
    assert tools["work"].input_schema["properties"]["n"]["default"] == 3
    assert {"resolve_task_status", "cancel_background_task", "provide_task_input"} <= set(tools)


async def test_the_handle_tools_are_listed_in_few_bytes(store: Path) -> None:
    async with client_of(store) as client:
        listed = (await client.session.list_tools()).tools
    # FastMCP's own `_meta` reaches no model.
    shown = [each.model_dump(mode="json", by_alias=True, exclude={"meta"}, exclude_none=True) for each in listed]
    handles = [each for each in shown if each["name"] in HANDLE_NAMES]
    assert {each["name"] for each in handles} == HANDLE_NAMES
    assert not [each for each in handles if "title" in each or "outputSchema" in each]
    assert sum(len(json.dumps(each, separators=(",", ":"), ensure_ascii=False).encode()) for each in handles) <= 1800


@pytest.mark.parametrize(
    ("setting", "hidden"), [("all", set()), ("status", {"initiate_background_task"}), ("none", HANDLE_NAMES)]
)
async def test_the_setting_says_which_handle_tools_are_listed_and_all_are_answered(
    store: Path, setting: str, hidden: set[str]
) -> None:
    async with client_of(store, server={"handle_tools": setting}) as client:
        listed = {tool.name for tool in await client.list_tools()}
        assert listed & HANDLE_NAMES == HANDLE_NAMES - hidden
        ticket = await data(client, "initiate_background_task", operation_type="work", parameters={"n": 4})
        assert (await end_of(client, ticket))["result"] == {"n": 4}
        # Without a tool to follow it, a ticket would be of no use.
        answer = await data(client, "work", n=5)
        assert (answer == {"n": 5}) == (setting == "none"), answer


async def test_a_model_reads_few_members_and_a_program_all(store: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    async with client_of(store) as client:
        ticket = await data(client, "patient", flag=str(flag))
        assert set(ticket) == {"task_ref", "status", "operation_type", "next_step"}
        asked = {"task_ref": ticket["task_ref"], "wait_seconds": 0}
        first, second = [await data(client, "resolve_task_status", **asked) for _ in range(2)]
        assert set(first) == {"task_ref", "status", "progress", "after", "next_step"}
        assert first["progress"] == {"fraction": 0.25, "message": "begun"}
        assert first["after"] != second["after"]
        full = await data(client, "resolve_task_status", **asked, detail="full")
        assert {"terminal", "created_at", "deadline_at", "poll_after_seconds", "result", "error", "after"} <= set(full)
        with pytest.raises(ToolError, match="detail must be"):
            await client.call_tool("resolve_task_status", {**asked, "detail": "most"})
        flag.touch()
        assert await end_of(client, ticket) == {
            "task_ref": ticket["task_ref"],
            "status": "completed",
            "result": "done",
        }


async def test_a_server_can_answer_everybody_in_full(store: Path) -> None:
    async with client_of(store, server={"detail": "full"}) as client:
        ticket = await data(client, "work")
        assert ticket["deduplicated"] is False
        assert (await end_of(client, ticket))["terminal"] is True


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_held_call_with_a_token_is_told_of_progress_and_ends_with_the_task(
    store: Path, tmp_path: Path, mode: str
) -> None:
    flag = tmp_path / "flag"
    told: list[tuple[float, float | None, str | None]] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))
        flag.touch()

    async with client_of(store, mode=mode) as client:
        ticket = await data(client, "patient", flag=str(flag))
        held = {"task_ref": ticket["task_ref"], "wait_seconds": 3}
        answer = await client.call_tool("resolve_task_status", held, progress_handler=tell)
    assert answer.structured_content["status"] == "completed"
    assert told == [(0.25, 1.0, "begun")]


async def test_a_call_that_waits_for_its_result_is_told_of_progress(store: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    told: list[str | None] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)
        flag.touch()

    async with client_of(store, server={"handle_tools": "none"}) as client:
        answer = await client.call_tool("patient", {"flag": str(flag)}, progress_handler=tell)
    assert answer.data == "done" or answer.content[0].text == "done"
    assert told == ["begun"]


async def test_fast_work_is_answered_within_the_call_and_slow_work_with_a_handle(store: Path, tmp_path: Path) -> None:
    async with client_of(store) as client:
        assert await data(client, "brief", n=7) == {"n": 7}
        assert (await data(client, "patient", flag=str(tmp_path / "never")))["status"] == "processing"


async def test_fast_work_is_no_task_for_a_client_with_tasks(store: Path, tmp_path: Path, with_tasks: None) -> None:
    from fastmcp_tasks.client import call_tool_task

    async with client_of(store) as client:
        assert await data(client, "brief", n=7) == {"n": 7}
        brief = await called(client, "brief", n=8)
        assert (brief["resultType"], brief["structuredContent"]) == ("complete", {"n": 8})
        slow = await called(client, "patient", flag=str(tmp_path / "never"))
        assert (slow["resultType"], slow["status"]) == ("task", "working")
        task = await call_tool_task(client, "patient", {"flag": str(tmp_path / "never")})
        assert (await task.status()).status == "working"


async def test_what_a_tool_reports_goes_to_the_task_and_it_sees_no_request(store: Path) -> None:
    async with client_of(store) as client:
        report = await data(client, "slow_report", quarter=3)
        look = {"task_ref": report["task_ref"], "wait_seconds": 0, "detail": "full"}
        status = await data(client, "resolve_task_status", **look)
        while status["progress"] is None and not status["terminal"]:
            status = await data(client, "resolve_task_status", **look)
        assert status["progress"] == {"fraction": 0.25, "message": "begun"}
        seen = await end_of(client, await data(client, "slow_request"))
        assert seen["result"] == {"result": "None"}


async def test_a_failing_tool_and_wrong_parameters_are_told(store: Path) -> None:
    async with client_of(store, without_tasks="wait") as client:
        with pytest.raises(ToolError, match="no such quarter"):
            await client.call_tool("slow_failing", {})
        with pytest.raises(ToolError, match="invalid_parameters"):
            await client.call_tool("slow_report", {"quarter": "third"})
        with pytest.raises(ToolError, match="Unknown tool"):
            await client.call_tool("nothing", {})


async def test_a_tool_that_calls_an_operation_gets_a_ticket_whatever_the_client_declared(
    store: Path, with_tasks: None
) -> None:
    async with client_of(store) as client:
        assert (await data(client, "asks_another"))["result"]["status"] == "queued"


async def test_the_server_advertises_the_extension_and_nothing_beside(store: Path) -> None:
    async with client_of(store) as client:
        assert client.server_capabilities is not None
        assert client.server_capabilities.extensions["io.modelcontextprotocol/tasks"] == {}
        assert client.server_capabilities.tasks is None


async def test_a_client_with_tasks_calls_as_if_there_were_none(store: Path, with_tasks: None) -> None:
    async with client_of(store) as client:
        assert await data(client, "work", n=4) == {"n": 4}
        assert (await client.call_tool("slow_report", {"quarter": 3})).data == {"quarter": 3}
        assert (await client.call_tool("slow_publish", {"title": "Rain"})).data == "published"
        assert (await client.call_tool("ask", {})).content[0].text == "accept True"
        with pytest.raises(ToolError, match="no such quarter"):
            await client.call_tool("slow_failing", {})


async def test_a_client_with_tasks_holds_the_handle_and_cancels(store: Path, tmp_path: Path, with_tasks: None) -> None:
    from fastmcp_tasks.client import call_tool_task

    async with client_of(store) as client:
        task = await call_tool_task(client, "long", {"flag": str(tmp_path / "never")})
        assert (await task.status()).status == "working"
        await task.cancel()
        assert (await task.wait(timeout=5)).status == "cancelled"
        # The same task, by the handle tools.
        assert (await data(client, "resolve_task_status", task_ref=task.task_id))["status"] == "cancelled"
        ticket = await data(client, "initiate_background_task", operation_type="work")
        assert (await end_of(client, ticket))["result"] == {"n": 3}


async def test_a_task_method_needs_the_declaration_and_a_known_task(store: Path, with_tasks: None) -> None:
    async with client_of(store) as client:
        with pytest.raises(MCPError) as unknown:
            await request(client, "tasks/get", taskId="nobody's")
    assert unknown.value.code == -32602


async def test_core_tasks_are_advertised_to_clients_of_2025_11_25(store: Path) -> None:
    async with client_of(store, mode="legacy") as client:
        assert client.server_capabilities is not None
        assert client.server_capabilities.tasks is not None
        assert client.server_capabilities.tasks.requests is not None
        tools = {tool.name: tool for tool in await client.list_tools()}
    assert tools["work"].execution.task_support == "optional"
    assert tools["quick"].execution is None


async def test_a_call_that_needs_a_task_is_refused_without_one(store: Path) -> None:
    async with client_of(store, without_tasks="refuse") as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("slow_report", {"quarter": 1})
    assert refused.value.code == -32021


async def test_the_tools_of_a_mounted_server_can_be_named_by_pattern(store: Path) -> None:
    mcp, _ = make_office(store)
    child: FastMCP[Any] = FastMCP("child")

    @child.tool
    def work(n: int) -> int:
        return n + 1

    mcp.mount(child, namespace="slow")
    async with Client(mcp) as client:
        assert (await end_of(client, await data(client, "slow_work", n=1)))["result"] == {"result": 2}


async def test_a_raincheck_serves_one_server_and_alone_its_tasks(store: Path) -> None:
    from fastmcp_tasks import TasksExtension

    mcp, rc = make_office(store)
    with pytest.raises((ConfigurationError, ValueError), match="another server"):
        FastMCP("other").add_extension(rc)
    with pytest.raises(ValueError, match="already registered"):
        mcp.add_extension(TasksExtension(url="memory://"))


async def test_a_large_result_is_a_preview_and_its_whole_a_resource(tmp_path: Path) -> None:
    mcp, _ = make_office(tmp_path / "tasks.db", mode="auto", inline_wait_seconds=10)

    @mcp.resource("notes://mine")
    def mine() -> str:
        return "still served"

    async with Client(mcp, elicitation_handler=yes) as client:
        called = await client.call_tool_mcp("slow_book", {"pages": 20_000})
        shown = called.structured_content or {}
        assert shown["truncated"] is True
        link = called.content[1]
        assert link.type == "resource_link"
        (whole,) = await client.read_resource(link.uri)
        assert whole.text == "a page\n" * 20_000
        (page,) = await client.read_resource(f"{shown['resource']}?offset=7&length=14")
        assert page.text == "a page\n" * 2
        templates = {template.uri_template for template in await client.list_resource_templates()}
        assert "raincheck://tasks/{task_ref}/result{?offset,length}" in templates
        assert (await client.read_resource("notes://mine"))[0].text == "still served"
        with pytest.raises(MCPError, match="no such task"):
            await client.read_resource("raincheck://tasks/unknown/result")
        from raincheck.client import TaskPoller

        assert (await TaskPoller().run(client, "slow_book", {"pages": 20_000})).value == {"result": "a page\n" * 20_000}
