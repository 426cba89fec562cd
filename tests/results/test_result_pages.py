"""Large results in pages: by `resolve_task_status` for clients without a resource tool, and as resources."""

from __future__ import annotations

import asyncio
import base64
import html
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import ImageContent
from spec.channels import hosted, http
from spec.peers import Legacy

from raincheck import OperationFailed, Policy
from raincheck.blob_stores.records import RecordBlobStore
from raincheck.config.settings import Settings
from raincheck.domain.task import Outcome
from raincheck.encryption.cipher import new_key
from raincheck.mcp.sdk_host import Raincheck
from raincheck.mcp.surfaces.result_pages import PageRequest, ResultPages
from raincheck.stores.memory.store import MemoryStore
from raincheck.tasks.result_pages import PAGE_LENGTH
from raincheck.tasks.results import Results
from raincheck.timing.clock import utc_now

LINE = "zeile ä€𝄞\n"
PAGE = Path(__file__).parents[2] / "docs" / "results.md"
PIXELS = os.urandom(90_000)


def make_server(store: Path, **settings: Any) -> MCPServer[Any]:
    told = Settings.model_validate({"execution": {"drain_seconds": 0}, **settings})
    rc = Raincheck(tools="picture", store=store, settings=told)
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @rc.operation(mode="task")
    def report(lines: int) -> str:
        return LINE * lines

    @rc.operation(mode="task")
    def rows(count: int) -> dict[str, list[int]]:
        return {"rows": list(range(count))}

    @rc.operation(mode="inline")
    def table(count: int) -> dict[str, list[int]]:
        return {"rows": list(range(count))}

    @rc.operation(mode="task")
    async def held(name: str) -> str:
        while not (store.parent / name).exists():
            await asyncio.sleep(0.02)
        return LINE

    @rc.operation(mode="task")
    def failing() -> str:
        raise OperationFailed("no paper")

    @server.tool(structured_output=False)
    def picture() -> ImageContent:
        return ImageContent(type="image", data=base64.b64encode(PIXELS).decode(), mime_type="image/png")

    return server


@pytest.fixture
def server(tmp_path: Path) -> MCPServer[Any]:
    return make_server(tmp_path / "tasks.db")


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result: Any = await client.call_tool(tool, arguments)
    structured = result.structured_content
    assert json.loads(result.content[0].text) == structured
    return structured


async def page(client: Client, task_ref: str, **asked: Any) -> dict[str, Any]:
    return await call(client, "resolve_task_status", task_ref=task_ref, **asked)


async def ended(client: Client, operation: str, **arguments: Any) -> dict[str, Any]:
    ticket = await call(client, "initiate_background_task", operation_type=operation, parameters=arguments)
    return await page(client, ticket["task_ref"], wait_seconds=20)


def named(told: str) -> dict[str, Any]:
    """The arguments that a next step names, as a model takes them from it."""
    return {key: int(value) for key, value in re.findall(r"(result_offset|result_length) (\d+)", told)}


async def read_through(client: Client, task_ref: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    pages = [await page(client, task_ref, **asked)]
    while "next_step" in pages[-1]:
        assert len(pages) < 200
        pages.append(await page(client, task_ref, **named(pages[-1]["next_step"])))
    return pages


async def test_the_hint_of_a_preview_leads_through_all_pages_to_the_whole(server: MCPServer[Any]) -> None:
    async with Client(server) as client:
        status = await ended(client, "report", lines=5_000)
        shown, task_ref = status["result"], status["task_ref"]
        assert f'resolve_task_status with task_ref "{task_ref}" and result_offset 0' in shown["next_step"]
        assert "resources/read" in shown["next_step"]
        pages = await read_through(client, task_ref, named(shown["next_step"]))
        assert "".join(each["result_page"] for each in pages) == LINE * 5_000
        size = len((LINE * 5_000).encode())
        assert len(pages) == -(-size // PAGE_LENGTH)
        for number, each in enumerate(pages):
            assert (each["task_ref"], each["status"], each["media_type"]) == (task_ref, "completed", "text/plain")
            assert (each["offset"], each["total"]) == (number * PAGE_LENGTH, size)
            assert each["length"] == len(each["result_page"].encode()) <= PAGE_LENGTH + 3


async def test_a_length_that_was_asked_for_is_kept_on_the_way(server: MCPServer[Any]) -> None:
    async with Client(server) as client:
        status = await ended(client, "rows", count=20_000)
        pages = await read_through(client, status["task_ref"], {"result_offset": 0, "result_length": 50_001})
        assert [each["length"] for each in pages][:-1] == [50_001] * (len(pages) - 1)
        assert json.loads("".join(each["result_page"] for each in pages)) == {"rows": list(range(20_000))}
        assert pages[0]["media_type"] == "application/json"


async def test_the_page_in_the_docs_is_like_a_real_one(server: MCPServer[Any]) -> None:
    example = PAGE.read_text(encoding="utf-8").split("result_offset 8192 -->\n```json\n", 1)[1].split("```", 1)[0]
    async with Client(server) as client:
        status = await ended(client, "rows", count=20_000)
        answer = await page(client, status["task_ref"], result_offset=8192)
    told = json.loads(example)
    assert list(told) == list(answer)
    assert [told[each] for each in ("offset", "length", "next_step")] == [
        answer[each] for each in ("offset", "length", "next_step")
    ]


async def test_a_small_result_is_one_page(server: MCPServer[Any]) -> None:
    async with Client(server) as client:
        status = await ended(client, "rows", count=3)
        assert status["result"] == {"rows": [0, 1, 2]}
        for asked in (
            {"result_offset": 0},
            {"result_length": PAGE_LENGTH},
            {"result_offset": "0", "result_length": 20.0},
        ):
            answer = await page(client, status["task_ref"], **asked)
            assert answer == {
                "task_ref": status["task_ref"],
                "status": "completed",
                "media_type": "application/json",
                "result_page": '{"rows":[0,1,2]}',
                "offset": 0,
                "length": 16,
                "total": 16,
            }


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"result_offset": 17}, "beyond the end: the result has 16 bytes"),
        ({"result_offset": 10**400}, "beyond the end"),
        ({"result_offset": -1}, "result_offset must be a whole number of bytes from 0."),
        ({"result_offset": 1.5}, "result_offset must be a whole number of bytes from 0."),
        ({"result_offset": True}, "result_offset must be a whole number"),
        ({"result_offset": "start"}, "result_offset must be a whole number"),
        ({"result_offset": [0]}, "result_offset must be a whole number"),
        ({"result_length": 0}, "result_length must be a whole number of bytes from 1 to 65536."),
        ({"result_length": 65_537}, "result_length must be a whole number of bytes from 1 to 65536."),
        ({"result_offset": 0, "result_length": 0.5}, "result_length must be a whole number of bytes from 1 to 65536."),
    ],
)
async def test_a_page_that_makes_no_sense_is_refused_in_one_line(
    server: MCPServer[Any], asked: dict[str, Any], told: str
) -> None:
    async with Client(server) as client:
        status = await ended(client, "rows", count=3)
        result: Any = await client.call_tool("resolve_task_status", {"task_ref": status["task_ref"], **asked})
        assert result.is_error
        error = result.structured_content["error"]
        assert error["code"] == "invalid_parameters"
        assert told in error["message"]
        assert "\n" not in error["message"]


async def test_a_task_without_a_result_answers_as_it_does_without_a_page(
    server: MCPServer[Any], tmp_path: Path
) -> None:
    async with Client(server) as client:
        failed = await ended(client, "failing")
        assert failed["status"] == "failed"
        assert await page(client, failed["task_ref"], result_offset=0) == failed
        ticket = await call(client, "initiate_background_task", operation_type="held", parameters={"name": "go"})
        waiting = await page(client, ticket["task_ref"], result_offset=0, wait_seconds=0)
        assert waiting["status"] in ("pending", "processing")
        assert "after" in waiting
        assert "result_page" not in waiting
        asking = asyncio.create_task(page(client, ticket["task_ref"], result_offset=6, wait_seconds=20))
        await asyncio.sleep(0.1)
        assert not asking.done()
        (tmp_path / "go").touch()
        assert (await asking)["result_page"] == LINE[6:]


async def test_the_result_of_a_call_without_a_task_is_read_by_the_ref_that_its_preview_names(
    server: MCPServer[Any],
) -> None:
    async with Client(server) as client:
        shown = await call(client, "table", count=30_000)
        found = re.search(r'task_ref "([^"]+)"', shown["next_step"])
        assert found is not None
        assert shown["resource"] == f"raincheck://tasks/{found[1]}/result"
        pages = await read_through(client, found[1], named(shown["next_step"]))
        assert json.loads("".join(each["result_page"] for each in pages)) == {"rows": list(range(30_000))}
        # A model that forgets the offset gets the first page.
        assert await page(client, found[1]) == pages[0]
        result: Any = await client.call_tool("resolve_task_status", {"task_ref": found[1], "result_offset": 10**9})
        assert result.structured_content["error"]["code"] == "invalid_parameters"


async def test_what_is_no_text_is_not_sent_to_a_model_and_the_resource_is_named(server: MCPServer[Any]) -> None:
    async with Client(server) as client:
        status = await ended(client, "picture")
        answer = await page(client, status["task_ref"], result_offset=0)
        assert (answer["media_type"], answer["total"]) == ("image/png", len(PIXELS))
        assert "result_page" not in answer
        assert len(json.dumps(answer)) < 500
        contents: Any = (await client.read_resource(answer["resource"])).contents[0]
        assert base64.b64decode(contents.blob) == PIXELS


async def test_the_page_of_another_principal_does_not_exist(tmp_path: Path) -> None:
    async with (
        hosted(tmp_path / "tasks.db", tokens=True) as url,
        http(url, "alice") as alice_channel,
        http(url, "bob") as bob_channel,
    ):
        alice, bob = await Legacy(alice_channel).connect(), await Legacy(bob_channel).connect()
        task_id = await alice.start("auto")
        await alice.reaches(task_id, "completed")

        async def asked(peer: Legacy, task_ref: str) -> dict[str, Any]:
            arguments = {"task_ref": task_ref, "result_offset": 0}
            result = await peer.send("tools/call", {"name": "resolve_task_status", "arguments": arguments})
            return result["structuredContent"]

        assert (await asked(alice, task_id))["result_page"] == '{"auto":""}'
        told = [(await asked(bob, each))["error"] for each in (task_id, "never-heard-of")]
        assert told[0] == told[1]
        assert told[0]["code"] == "task_not_found"


async def test_pages_of_an_encrypted_store_are_read_in_the_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", new_key())
    async with Client(make_server(tmp_path / "tasks.db", encryption={"keys": ["${A_KEY}"]})) as client:
        status = await ended(client, "report", lines=5_000)
        pages = await read_through(client, status["task_ref"], {"result_offset": 0})
    assert "".join(each["result_page"] for each in pages) == LINE * 5_000
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    assert not any(LINE.encode() * 3 in path.read_bytes() for path in kept)


async def test_a_page_of_a_resource_has_eight_kilobytes_and_its_address_may_be_html(server: MCPServer[Any]) -> None:
    async with Client(server) as client:
        status = await ended(client, "report", lines=2_000)
        uri: str | None = f"raincheck://tasks/{status['task_ref']}/result?offset=0"
        pages: list[str] = []
        while uri is not None:
            contents: Any = (await client.read_resource(uri)).contents[0]
            told = contents.meta["raincheck/page"]
            assert told["length"] <= PAGE_LENGTH + 3
            pages.append(contents.text)
            uri = None if "next" not in told else html.escape(told["next"])
        assert len(pages) == 4
        assert "".join(pages) == LINE * 2_000
        # An ampersand that is twice escaped is another matter.
        with pytest.raises(MCPError, match="named by offset and length"):
            await client.read_resource(f"raincheck://tasks/{status['task_ref']}/result?offset=0&amp;amp;length=8")


async def test_the_page_of_another_scopes_call_without_a_task_does_not_exist() -> None:
    store = MemoryStore()
    await store.open()
    results = Results(store, RecordBlobStore(store), clock=utc_now)
    await results.offload_of_request(Outcome(value="x" * 70_000), "ref", "me", Policy())
    pages = ResultPages(results)
    own = await pages.of_request("ref", "me", PageRequest(69_999, 8))
    assert own is not None
    assert own["result_page"] == "x"
    assert await pages.of_request("ref", "you", PageRequest()) is None
    assert await pages.of_request("other", "me", PageRequest()) is None
    await store.close()
