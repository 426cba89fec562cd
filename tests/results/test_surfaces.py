"""Large results on every surface, over real servers: a preview everywhere, and the whole for its own caller."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, ImageContent, TextContent
from spec.channels import HttpChannel, hosted, http
from spec.peers import Legacy, Modern
from spec.peers import RpcError as SpecError

from raincheck.client import TaskPoller, TasksExtension, connect
from raincheck.client import sync as sync_client
from raincheck.config.settings import Settings
from raincheck.mcp.sdk_host import Raincheck
from raincheck.stores.memory.store import MemoryStore
from support.serving import Caller, RpcError, Workplace

TOML = """
[state]
url = "tasks.db"

[execution]
lease_seconds = 1
max_result_bytes = 33554432

[operations.report]
kind = "python"
target = "ops:report"
description = "A report."
inline_wait_seconds = 10

[operations.archive]
kind = "python"
target = "ops:report"
description = "A report that is always a task."
mode = "task"

[operations.table]
kind = "python"
target = "ops:table"
description = "A table, in the request."
mode = "inline"

[operations.listing]
kind = "command"
argv = ["python3", "-c", "print('zeile ä€' * 20000)"]
description = "A command's output."
"""
FUNCTIONS = """
def report(lines: int) -> str:
    return "zeile ä€𝄞\\n" * lines


def table(rows: int) -> dict[str, list[int]]:
    return {"rows": list(range(rows))}
"""
LINE = "zeile ä€𝄞\n"
LINES = 20 * 1024 * 1024 // len(LINE.encode()) + 1


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path, TOML, FUNCTIONS)


@pytest.fixture(params=["stdio", "streamable-http"])
async def caller(request: pytest.FixtureRequest, workplace: Workplace) -> AsyncGenerator[Caller]:
    async with workplace.served(request.param) as (_, caller):
        yield caller


async def read(caller: Caller, uri: str) -> dict[str, Any]:
    return (await caller.request("resources/read", {"uri": uri}, uri))["contents"][0]


def assert_preview(shown: dict[str, Any], task_ref: str | None = None) -> None:
    assert shown["truncated"] is True
    assert len(json.dumps(shown["preview"], ensure_ascii=False).encode()) <= 2048 + 200
    assert re.fullmatch(r"raincheck://tasks/[A-Za-z0-9_-]+/result", shown["resource"])
    if task_ref is not None:
        assert shown["resource"] == f"raincheck://tasks/{task_ref}/result"


async def test_a_report_of_20_mb_is_a_preview_and_its_pages_are_the_whole(caller: Caller) -> None:
    status = await caller.run("report", {"lines": LINES})
    assert status["status"] == "completed"
    assert status["error"] is None
    shown = status["result"]
    assert_preview(shown, status["task_ref"])
    assert len(json.dumps(status)) < 6000
    assert shown["bytes"] == LINES * len(LINE.encode()) > 20 * 1024 * 1024
    assert (LINE * 1000).startswith(shown["preview"])
    with pytest.raises(RpcError, match="are read in pages") as whole:
        await read(caller, shown["resource"])
    first = f"{shown['resource']}?offset=0&length=1048576"
    assert first in str(whole.value)
    assert (await read(caller, first))["text"] == (LINE * LINES).encode()[:1048576].decode()
    uri: str | None = f"{shown['resource']}?offset=0&length=1000001"
    pages: list[str] = []
    while uri is not None:
        page = await read(caller, uri)
        assert page["mimeType"] == "text/plain"
        pages.append(page["text"])
        uri = page["_meta"]["raincheck/page"].get("next")
    assert len(pages) == 21
    assert "".join(pages) == LINE * LINES


async def test_typed_tools_of_every_kind_and_mode_link_to_the_whole(caller: Caller) -> None:
    for name, arguments, media_type in (
        ("report", {"lines": 10_000}, "text/plain"),
        ("table", {"rows": 50_000}, "application/json"),
        ("listing", {}, "text/plain"),
    ):
        result = await caller.request("tools/call", {"name": name, "arguments": arguments}, name)
        shown = result["structuredContent"]
        assert_preview(shown)
        text, link = result["content"]
        assert json.loads(text["text"]) == shown
        assert (link["type"], link["uri"], link["size"]) == ("resource_link", shown["resource"], shown["bytes"])
        whole = await read(caller, link["uri"])
        assert whole["mimeType"] == link["mimeType"] == media_type
        assert len(whole["text"].encode()) == shown["bytes"]
    small = await caller.request("tools/call", {"name": "table", "arguments": {"rows": 2}}, "table")
    assert small["structuredContent"] == {"rows": [0, 1]}


async def test_small_results_are_resources_too_and_others_are_not(caller: Caller) -> None:
    templates = (await caller.request("resources/templates/list", {}))["resourceTemplates"]
    assert [each["uriTemplate"] for each in templates] == ["raincheck://tasks/{task_ref}/result{?offset,length}"]
    status = await caller.run("report", {"lines": 2})
    assert status["result"] == LINE * 2
    uri = f"raincheck://tasks/{status['task_ref']}/result"
    assert (await read(caller, uri))["text"] == LINE * 2
    assert (await read(caller, f"{uri}?offset=3"))["text"] == (LINE * 2)[3:]
    assert (await read(caller, f"{uri}?offset=32&length=5"))["text"] == ""
    for wrong, told in (
        ("raincheck://tasks/unknown/result", "no such task"),
        (f"raincheck://tasks/{'x' * 5000}/result", "no such task"),
        ("raincheck://tasks/../result/x", "Unknown resource"),
        (f"{uri}/content/0", "no content block 0"),
        (f"{uri}?offset=33", "beyond the end"),
        (f"{uri}?offset=-1", "whole number of bytes"),
        (f"{uri}?offset=1.5", "whole number of bytes"),
        (f"{uri}?offset=", "whole number of bytes"),
        (f"{uri}?length=0", "length must be from 1"),
        (f"{uri}?length=1048577", "length must be from 1 to 1048576"),
        (f"{uri}?length=99999999999", "length must be from 1"),
        (f"{uri}?page=3", "named by offset and length"),
        (f"{uri}?offset=1&offset=2", "named by offset and length"),
        (f"{uri}#top", "Unknown resource"),
        (f"{uri}/", "Unknown resource"),
    ):
        with pytest.raises(RpcError, match=told) as caught:
            await read(caller, wrong)
        assert caught.value.code == -32602


async def test_both_task_protocols_hand_back_the_same_preview(workplace: Workplace) -> None:
    async with workplace.http() as server:
        channel = HttpChannel(server.url)
        legacy = await Legacy(channel).connect()
        task_id = await legacy.start("report", {"lines": 10_000})
        result = await legacy.send("tasks/result", {"taskId": task_id})
        assert_preview(result["structuredContent"], task_id)
        assert result["content"][1]["type"] == "resource_link"
        whole = await legacy.send("resources/read", {"uri": result["content"][1]["uri"]})
        assert whole["contents"][0]["text"] == LINE * 10_000
        await channel.close()
        other = HttpChannel(server.url)
        modern = Modern(other)
        got = await modern.send("tasks/get", {"taskId": task_id})
        assert got["result"]["structuredContent"] == result["structuredContent"]
        await other.close()


async def test_drivers_fetch_the_whole_unless_told_not_to(workplace: Workplace) -> None:
    async with workplace.http() as server, connect(server.url) as session:
        poller = TaskPoller()
        assert (await poller.run(session, "report", {"lines": 200_000})).value == LINE * 200_000
        answered = await session.call_tool("table", {"rows": 50_000})
        assert (await poller.resolve_if_ticket(session, answered)).structured == {"rows": list(range(50_000))}
        preview = (await TaskPoller(whole_results=False).run(session, "report", {"lines": 10_000})).value
        assert_preview(preview)
        for whole in (True, False):
            driver = TasksExtension(whole_results=whole)
            async with Client(server.url, extensions=[driver]) as client:
                for tool in ("archive", "report"):
                    result = await client.call_tool(tool, {"lines": 10_000})
                    if tool == "report":
                        # Answered at once, which no extension of a client gets to see.
                        assert_preview(result.structured_content or {})
                        result = await driver.whole(client, result) if whole else result
                    block: Any = result.content[0]
                    assert (block.text == LINE * 10_000) is whole
                    assert (result.structured_content is None) is whole
                small = await client.call_tool("report", {"lines": 1})
                assert await driver.whole(client, small) is small


def test_the_driver_without_asyncio_fetches_the_whole_too(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "raincheck", "serve", str(workplace.folder / "raincheck.toml")]
    env = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "src")]), "PATH": os.environ["PATH"]}
    with sync_client.connect(command, env=env, cwd=workplace.folder) as client:
        assert client.run("report", {"lines": 10_000}).value == LINE * 10_000


async def test_the_command_line_shows_the_preview_and_writes_the_whole(workplace: Workplace) -> None:
    async with workplace.served("streamable-http") as (_, caller):
        status = await caller.run("report", {"lines": 10_000})
        inline = await caller.call("table", {"rows": 50_000})
    config = ("--config", str(workplace.folder / "raincheck.toml"))
    code, out, _ = await workplace.raincheck("tasks", "show", status["task_ref"], *config)
    assert code == 0
    assert status["result"]["resource"] in out
    assert len(out) < 5000
    file = workplace.folder / "report.txt"
    code, out, err = await workplace.raincheck("tasks", "result", status["task_ref"], "--output", str(file), *config)
    assert (code, out, err) == (0, "", "")
    assert file.read_text() == LINE * 10_000
    code, out, _ = await workplace.raincheck("tasks", "result", inline["resource"].split("/")[3], *config)
    assert json.loads(out) == {"rows": list(range(50_000))}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, _, err = await workplace.raincheck("tasks", "result", status["task_ref"], "--output", "no/such/x", *config)
    assert code == 1
    assert err.startswith("raincheck: cannot write no/such/x")
    code, _, err = await workplace.raincheck("tasks", "result", "unknown", *config)
    assert code == 1
    assert "no task" in err


async def test_the_result_of_another_principal_does_not_exist(tmp_path: Path) -> None:
    async with (
        hosted(tmp_path / "tasks.db", tokens=True) as url,
        http(url, "alice") as alice_channel,
        http(url, "bob") as bob_channel,
    ):
        alice, bob = await Legacy(alice_channel).connect(), await Legacy(bob_channel).connect()
        task_id = await alice.start("auto")
        await alice.reaches(task_id, "completed")
        uri = f"raincheck://tasks/{task_id}/result"
        assert (await alice.send("resources/read", {"uri": uri}))["contents"][0]["text"] == '{"auto":""}'
        told: list[tuple[int, str]] = []
        for wrong in (uri, f"{uri}?offset=0&length=5", "raincheck://tasks/never-heard-of/result"):
            with pytest.raises(SpecError) as caught:
                await bob.send("resources/read", {"uri": wrong})
            told.append((caught.value.code, caught.value.error["message"]))
        assert told[0] == told[1] == told[2]
        assert told[0][0] == -32602


# The library, in this process.


@pytest.fixture
def make_server(tmp_path: Path) -> Callable[..., tuple[MCPServer[Any], Raincheck]]:
    def make(**options: Any) -> tuple[MCPServer[Any], Raincheck]:
        options.setdefault("store", tmp_path / "tasks.db")
        rc = Raincheck(settings=Settings.model_validate({"execution": {"drain_seconds": 0}}), **options)
        return MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan), rc

    return make


async def structured(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    found: Any = (await client.call_tool(tool, arguments)).structured_content
    return found


MakeServer = Callable[..., tuple[MCPServer[Any], Raincheck]]


async def test_an_output_schema_stays_true_and_clients_that_check_it_are_content(make_server: MakeServer) -> None:
    server, rc = make_server()

    @rc.operation(mode="inline")
    def table(rows: int) -> dict[str, list[int]]:
        return {"rows": list(range(rows))}

    @rc.operation(mode="inline", max_inline_bytes=1024 * 1024, max_result_bytes=1024 * 1024)
    def whole(rows: int) -> dict[str, list[int]]:
        return {"rows": list(range(rows))}

    async with Client(server) as client:
        listed = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}
        assert listed["table"] is not None
        assert "anyOf" in listed["table"]
        assert listed["whole"] is not None
        assert "anyOf" not in listed["whole"]
        assert (await client.call_tool("table", {"rows": 3})).structured_content == {"rows": [0, 1, 2]}
        assert_preview(await structured(client, "table", {"rows": 50_000}))
        assert len((await structured(client, "whole", {"rows": 50_000}))["rows"]) == 50_000


async def test_blocks_of_a_tool_result_are_read_one_by_one_and_an_image_as_what_it_is(make_server: MakeServer) -> None:
    server, _ = make_server(tools="*")
    pixels = os.urandom(90_000)
    image = ImageContent(type="image", data=base64.b64encode(pixels).decode(), mime_type="image/png")

    @server.tool(structured_output=False)
    def picture() -> ImageContent:
        return image

    @server.tool(structured_output=False)
    def both() -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text="see"), image])

    async with Client(server) as client:
        shown = await structured(client, "picture", {})
        assert (shown["form"], shown["media_type"], shown["bytes"]) == ("binary", "image/png", 90_000)
        contents: Any = (await client.read_resource(shown["resource"])).contents[0]
        assert contents.mime_type == "image/png"
        assert base64.b64decode(contents.blob) == pixels
        page: Any = (await client.read_resource(f"{shown['resource']}?offset=5&length=7")).contents[0]
        assert base64.b64decode(page.blob) == pixels[5:12]
        shown = await structured(client, "both", {})
        assert shown["form"] == "tool_result"
        block: Any = (await client.read_resource(f"{shown['resource']}/content/1")).contents[0]
        assert (block.mime_type, base64.b64decode(block.blob)) == ("image/png", pixels)
        block = (await client.read_resource(f"{shown['resource']}/content/0")).contents[0]
        assert block.text == "see"


async def test_the_library_keeps_them_in_a_folder_of_yours_or_in_a_store_of_yours(
    make_server: MakeServer, tmp_path: Path
) -> None:
    for options in ({"results": tmp_path / "mine"}, {"store": MemoryStore()}):
        server, rc = make_server(**options)

        @rc.operation(max_inline_bytes=5000)
        def text(size: int) -> str:
            return "x" * size

        async with Client(server) as client:
            shown = await structured(client, "text", {"size": 5001})
            contents: Any = (await client.read_resource(shown["resource"])).contents[0]
            assert contents.text == "x" * 5001
            assert (await client.call_tool("text", {"size": 5000})).structured_content is None
    assert len([path for path in (tmp_path / "mine").rglob("*") if path.is_file()]) == 1


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    times=st.integers(1, 3),
    length=st.integers(1, 23),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_pages_of_one_length_put_together_are_the_whole(text: str, times: int, length: int) -> None:
    from raincheck.domain.task import Outcome, Task, TaskStatus
    from raincheck.tasks.result_pages import read_page
    from raincheck.tasks.results import Results
    from raincheck.timing.clock import utc_now

    now, whole = utc_now(), text * times
    task = Task(
        task_ref="r",
        scope="me",
        operation_type="o",
        arguments={},
        created_at=now,
        updated_at=now,
        deadline_at=now,
        ttl_seconds=1,
        status=TaskStatus.COMPLETED,
        outcome=Outcome(value=whole),
    )
    stored = Results(MemoryStore(), None, clock=utc_now).of(task)
    pages, offset = list[bytes](), 0
    while True:
        data, following = await read_page(stored, offset, length)
        pages.append(data)
        if following is None:
            break
        offset = following
    assert "".join(page.decode() for page in pages) == whole
