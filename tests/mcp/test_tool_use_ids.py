"""A tool use that a host sends again is the same task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import Implementation

from raincheck.config.settings import Settings
from raincheck.domain.task import KeyKind
from raincheck.errors import ConfigurationError
from raincheck.mcp.sdk_host import Raincheck
from raincheck.operations.context import TaskContext
from raincheck.tasks.views import OPERATOR

ID = "toolu_01NeverInALog"


class Place:
    """A server, and what its operations saw."""

    def __init__(self, rc: Raincheck, mode: str) -> None:
        self.rc, self.mode = rc, mode
        self.server = MCPServer[Any]("test", extensions=[rc])
        self.keys: list[str | None] = []
        self.release = asyncio.Event()

        @rc.operation(mode="task")
        async def build(quarter: int, context: TaskContext) -> int:
            self.keys.append(context.idempotency_key)
            await self.release.wait()
            return quarter

        @rc.operation(mode="task", dedupe="inflight")
        async def shared() -> None:
            await asyncio.sleep(60)

        @rc.operation(mode="inline")
        async def look_up() -> int:
            self.keys.append(None)
            return 1

        @self.server.tool()
        async def twice(ctx: Context[Any, Any]) -> None:
            """Calls another tool two times."""
            for _ in range(2):
                await self.server.call_tool("build", {"quarter": 1}, ctx)

    def client(self, name: str = "any") -> Client:
        return Client(self.server, mode=self.mode, client_info=Implementation(name=name, version="1"))

    async def count(self) -> int:
        return len(await (await self.rc.started()).registry.list(scope=OPERATOR))


@pytest.fixture(params=["legacy", "auto"])
async def place(make_raincheck: Callable[..., Raincheck], request: pytest.FixtureRequest) -> AsyncGenerator[Place]:
    rc = make_raincheck()
    place = Place(rc, request.param)
    async with rc.running():
        yield place


async def _call(client: Client, tool: str, arguments: Any, **meta: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments, meta=meta or None)  # pyright: ignore[reportArgumentType]
    assert not result.is_error, result
    return result.structured_content or {}


CLAUDE: Any = {"claudecode/toolUseId": ID}


async def test_a_tool_use_that_is_sent_again_is_the_same_task(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "raincheck")
    async with place.client() as client:
        first = await _call(client, "build", {"quarter": 3}, **CLAUDE)
        again = await _call(client, "build", {"quarter": 3}, **CLAUDE)
        place.release.set()
        ended = await _call(client, "resolve_task_status", {"task_ref": first["task_ref"], "wait_seconds": 5})
        after = await client.call_tool("build", {"quarter": 3}, meta=CLAUDE)
    assert ended["status"] == "completed"
    assert again["task_ref"] == first["task_ref"]
    assert after.content[0].text == "3"  # pyright: ignore
    assert await place.count() == 1
    assert again["deduplicated"] is True
    assert "deduplicated" not in first
    # It is no key of the caller's own, so the operation is given its task's ref as ever; and nowhere is it to be read.
    assert place.keys == [first["task_ref"]]
    assert ID not in caplog.text
    task = await (await place.rc.started()).registry.get(first["task_ref"], scope=OPERATOR)
    assert task.idempotency_key is not None
    assert (ID in task.idempotency_key, task.callers_key) == (False, None)


async def test_the_same_holds_for_initiate_background_task(place: Place) -> None:
    arguments = {"operation_type": "build", "parameters": {"quarter": 3}}
    async with place.client() as client:
        first = await _call(client, "initiate_background_task", arguments, **CLAUDE)
        again = await _call(client, "initiate_background_task", arguments, **CLAUDE)
    assert first["task_ref"] == again["task_ref"]


async def test_other_tool_uses_and_calls_without_an_id_are_tasks_of_their_own(place: Place) -> None:
    async with place.client() as client:
        for meta in (CLAUDE, {"claudecode/toolUseId": "toolu_2"}, {}, {"claudecode/toolUseId": 5}, {"other": ID}):
            await _call(client, "build", {"quarter": 3}, **meta)
    assert await place.count() == 5


async def test_an_id_that_is_given_to_calls_that_differ_counts_for_nothing(place: Place) -> None:
    async with place.client() as client:
        for quarter in (1, 2, 3, 1, 2):
            await _call(client, "build", {"quarter": quarter}, **CLAUDE)
    # The first one keeps its key; whatever differs from it is new each time.
    assert await place.count() == 4


async def test_the_callers_own_key_comes_first(place: Place) -> None:
    arguments = {"operation_type": "build", "parameters": {"quarter": 3}}
    async with place.client() as client:
        first = await _call(client, "initiate_background_task", arguments | {"idempotency_key": "a"}, **CLAUDE)
        other = await _call(client, "initiate_background_task", arguments | {"idempotency_key": "b"}, **CLAUDE)
        result = await client.call_tool(
            "initiate_background_task",
            {"operation_type": "build", "parameters": {"quarter": 4}, "idempotency_key": "a"},
            meta=CLAUDE,
        )
    assert first["task_ref"] != other["task_ref"]
    assert result.structured_content["error"]["code"] == "idempotency_conflict"


async def test_no_caller_can_pass_the_key_of_a_tool_use(place: Place) -> None:
    arguments = {"operation_type": "build", "parameters": {"quarter": 3}}
    async with place.client() as client:
        first = await _call(client, "initiate_background_task", arguments, **CLAUDE)
        task = await (await place.rc.started()).registry.get(first["task_ref"], scope=OPERATOR)
        same_text = await _call(
            client, "initiate_background_task", arguments | {"idempotency_key": task.idempotency_key}
        )
    assert task.key_kind is KeyKind.TOOL_USE
    assert same_text["task_ref"] != first["task_ref"]


async def test_equal_calls_under_way_are_shared_whatever_their_ids(place: Place) -> None:
    async with place.client() as client:
        refs = [(await _call(client, "shared", {}, **{"claudecode/toolUseId": each}))["task_ref"] for each in "abb"]
    assert len(set(refs)) == 1


async def test_operations_that_run_inline_run_each_time(place: Place) -> None:
    async with place.client() as client:
        for _ in range(2):
            await _call(client, "look_up", {}, **CLAUDE)
    assert (len(place.keys), await place.count()) == (2, 0)


async def test_tools_that_a_tool_calls_are_not_its_own_use(place: Place) -> None:
    async with place.client() as client:
        await client.call_tool("twice", {}, meta=CLAUDE)
    assert await place.count() == 2


async def test_an_id_of_one_client_is_looked_at_for_that_client_alone(place: Place) -> None:
    for name, tasks in (("codex-mcp-client", 1), ("a-telephone", 3)):
        async with place.client(name) as client:
            for _ in range(2):
                await _call(client, "build", {"quarter": 3}, callId="call_1")
        assert await place.count() == tasks


async def test_equal_calls_that_race_under_one_id_are_one_task(place: Place) -> None:
    async with place.client() as client:
        tickets = await asyncio.gather(*(_call(client, "build", {"quarter": 3}, **CLAUDE) for _ in range(10)))
    assert len({each["task_ref"] for each in tickets}) == 1


async def test_ids_can_be_switched_off(tmp_path: Path) -> None:
    settings = Settings.model_validate({"server": {"tool_use_ids": []}})
    place = Place(Raincheck(store=tmp_path / "tasks.db", settings=settings), "auto")
    async with place.rc.running(), place.client() as client:
        for _ in range(2):
            await _call(client, "build", {"quarter": 3}, **CLAUDE)
        assert await place.count() == 2


@pytest.mark.parametrize("wrong", ["", "two words", "a:b:c", "name:"])
def test_a_key_that_is_none_is_said_in_one_line(wrong: str, tmp_path: Path) -> None:
    from raincheck import load_settings

    path = tmp_path / "raincheck.toml"
    path.write_text(f'[server]\ntool_use_ids = ["{wrong}"]\n')
    with pytest.raises(ConfigurationError, match=r"tool_use_ids.*each is a key of _meta") as error:
        load_settings(path, environ={})
    assert "\n" not in str(error.value)
