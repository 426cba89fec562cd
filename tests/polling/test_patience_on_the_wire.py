"""Clients that hang up: their next calls are held for less, their work goes on, and nothing of it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import Implementation

from raincheck.config.settings import Settings
from raincheck.mcp.server.http_app import http_app
from raincheck.mcp.server.serve import make_server
from raincheck.operations.python.executor import python_operation
from raincheck.polling.patience_store import KIND
from raincheck.ports.records import Record
from raincheck.stores.sqlite.store import SqliteStore
from support.serving import HttpCaller, Workplace
from support.waiting import PATIENCE

LESS = 2.5
"""More than the second after which they hang up, for machines that are busy; less than any hold that knows nothing."""


class Scene:
    """A server in this process and what its operation did."""

    def __init__(self) -> None:
        self.starts = 0
        self.ends = 0
        self.release = asyncio.Event()
        self.rc: Any = None
        self.server: Any = None
        self.web: Any = None
        self.port = 0

    async def play(self) -> str:
        self.starts += 1
        await self.release.wait()
        self.ends += 1
        return "over"

    async def watches(self) -> int:
        """How many hear of changes: those that wait, and the runs themselves."""
        changes = (await self.rc.started()).registry._changes
        return sum(map(len, changes._watches.values()))


@asynccontextmanager
async def served(
    tmp_path: Path, web: bool = True, graceful: int | None = None, **polling: Any
) -> AsyncGenerator[Scene]:
    """A server, over HTTP with `web`."""
    scene = Scene()
    operations = {"play": python_operation(scene.play, operation_type="play", description="Play.")}
    settings = Settings.model_validate({"state": {"url": str(tmp_path / "tasks.db")}, "polling": polling})
    scene.server, scene.rc = make_server(settings, operations)
    app = http_app(scene.server, host="127.0.0.1")
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="on", timeout_graceful_shutdown=graceful)
    scene.web = uvicorn.Server(config)
    async with scene.rc.running():
        serving = asyncio.create_task(scene.web.serve()) if web else None
        if serving is not None:
            async with asyncio.timeout(PATIENCE):
                while not scene.web.started:
                    await asyncio.sleep(0.01)
            scene.port = scene.web.servers[0].sockets[0].getsockname()[1]
        try:
            yield scene
        finally:
            scene.release.set()
            if serving is not None:
                scene.web.should_exit = True
                await serving


async def hang_up_after(seconds: float, call: Any) -> None:
    holding = asyncio.create_task(call)
    done, _ = await asyncio.wait({holding}, timeout=seconds)
    assert not done, f"it was held for less than {seconds} s: {holding.result()}"
    holding.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await holding


async def held(call: Any) -> float:
    """How long the answer took."""
    now = asyncio.get_running_loop().time
    began = now()
    await call
    return now() - began


async def stored(tmp_path: Path) -> Record | None:
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    try:
        for scope in ("anonymous", "local"):
            if (record := await store.get_record(KIND, scope)) is not None:
                return record
        return None
    finally:
        await store.close()


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.02)


class Streaming(HttpCaller):
    """A caller that wants to hear of progress, so that its answers may become streams."""

    @staticmethod
    def envelope(request_id: int, method: str, params: Mapping[str, Any]) -> bytes:
        message = json.loads(HttpCaller.envelope(request_id, method, params))
        message["params"]["_meta"]["progressToken"] = "p"
        return json.dumps(message, separators=(",", ":")).encode()


@pytest.mark.parametrize("kind", [HttpCaller, Streaming])
async def test_who_hangs_up_at_one_second_is_held_for_less_from_then_on_and_its_work_goes_on(
    tmp_path: Path, kind: type[HttpCaller]
) -> None:
    async with served(tmp_path) as scene:
        caller = kind(scene.port)
        ref = (await caller.submit("play"))["task_ref"]
        await hang_up_after(1.0, caller.status(ref, wait_seconds=25))
        await asyncio.sleep(0.2)
        assert 0.5 < await held(caller.status(ref, wait_seconds=25)) < LESS
        assert 0.5 < await held(caller.call("resolve_task_status", {"task_ref": ref})) < LESS
        await caller.close()
        # Another process on the same store knows it too, once it is written down.
        async with asyncio.timeout(PATIENCE):
            while await stored(tmp_path) is None:
                await asyncio.sleep(0.1)
        async with served(tmp_path) as other:
            second = HttpCaller(other.port)
            assert 0.5 < await held(second.status(ref, wait_seconds=25)) < LESS
            scene.release.set()
            done = await second.status(ref, wait_seconds=25)
            assert (done["status"], done["result"]) == ("completed", "over")
            await second.close()
            assert (scene.starts, scene.ends, other.starts) == (1, 1, 0)


async def test_a_hang_up_within_the_call_itself_is_counted_from_its_beginning(tmp_path: Path) -> None:
    async with served(tmp_path) as scene:
        caller = HttpCaller(scene.port)
        await hang_up_after(1.0, caller.call("play"))
        await asyncio.sleep(0.2)
        ref = (await caller.submit("play"))["task_ref"]
        assert 0.5 < await held(caller.status(ref, wait_seconds=25)) < LESS
        await caller.close()
        assert scene.starts == 2


async def test_what_the_operator_set_is_held_to_whatever_the_client_does(tmp_path: Path) -> None:
    async with served(tmp_path, patience={"proofs": 2.0}) as scene:
        caller = HttpCaller(scene.port)
        ref = (await caller.submit("play"))["task_ref"]
        await hang_up_after(0.7, caller.status(ref, wait_seconds=25))
        assert 1.5 < await held(caller.call("resolve_task_status", {"task_ref": ref})) < 2.0
        await caller.close()
    assert await stored(tmp_path) is None


@pytest.mark.parametrize("kind", [HttpCaller, Streaming])
async def test_a_server_that_ends_teaches_nothing(tmp_path: Path, kind: type[HttpCaller]) -> None:
    async with served(tmp_path, graceful=1) as scene:
        caller = kind(scene.port)
        ref = (await caller.submit("play"))["task_ref"]
        holding = asyncio.create_task(caller.status(ref, wait_seconds=25))
        await asyncio.sleep(0.7)
        scene.web.should_exit = True
        with contextlib.suppress(Exception):
            await holding
        await caller.close()
    assert await stored(tmp_path) is None


# Sessions: the protocols before 2026-07-28, and stdio.


async def test_a_client_that_times_out_and_says_so_is_held_for_less(tmp_path: Path) -> None:
    async with served(tmp_path, web=False) as scene:

        async def resolve(client: Client, **options: Any) -> Any:
            arguments = {"task_ref": ref, "wait_seconds": 25}
            return await client.call_tool("resolve_task_status", arguments, **options)

        me = Implementation(name="impatient", version="1")
        async with Client(scene.server, mode="legacy", client_info=me) as client:
            ticket = await client.call_tool("initiate_background_task", {"operation_type": "play"})
            assert ticket.structured_content is not None
            ref = ticket.structured_content["task_ref"]
            with pytest.raises(MCPError):
                await resolve(client, read_timeout_seconds=1.0)
            await asyncio.sleep(0.1)
            assert 0.5 < await held(resolve(client)) < LESS
            scene.release.set()
            assert "completed" in str(await resolve(client))
            assert (scene.starts, scene.ends) == (1, 1)


TOML = """\
[operations.play]
kind = "python"
target = "ops:play"
description = "Play."
mode = "task"
"""
FUNCTIONS = """\
import time
def play() -> str:
    time.sleep(20)
    return "over"
"""


async def test_a_client_that_asks_again_while_its_answer_is_held_has_timed_out_without_a_word(tmp_path: Path) -> None:
    async with Workplace(tmp_path, TOML, FUNCTIONS).stdio() as server:
        ref = (await server.submit("play"))["task_ref"]
        first = asyncio.create_task(server.status(ref, wait_seconds=5))
        await asyncio.sleep(2.2)
        # The earlier one is not ended; it just ends.
        assert not first.done()
        assert 1.5 < await held(server.status(ref, wait_seconds=25)) < 4.0
        assert (await first)["status"] == "processing"


async def test_parallel_questions_are_no_hang_ups(tmp_path: Path) -> None:
    async with Workplace(tmp_path, TOML, FUNCTIONS).stdio() as server:
        ref = (await server.submit("play"))["task_ref"]
        first = asyncio.create_task(server.status(ref, wait_seconds=2.5))
        await asyncio.sleep(0.8)
        assert await held(server.status(ref, wait_seconds=2.5)) >= 2.4
        await first


@pytest.mark.parametrize("told", [True, False])
async def test_the_end_of_stdin_teaches_nothing_and_a_cancelled_notification_does(tmp_path: Path, told: bool) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    async with place.stdio() as server:
        ref = (await server.submit("play"))["task_ref"]
        holding = asyncio.create_task(server.status(ref, wait_seconds=25))
        await asyncio.sleep(1.0)
        if told:
            number = next(server._ids) - 1  # pyright: ignore[reportPrivateUsage]
            params = {"requestId": number}
            server.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}).encode())
            server.write(b"\n")
            await asyncio.sleep(0.3)
        server.close_stdin()
        await server.exited()
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
    record = await stored(place.database.parent)
    assert (record is not None) == told


# The storm.


async def test_many_clients_that_leave_leave_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as scene:
        caller = HttpCaller(scene.port)
        ref = (await caller.submit("play"))["task_ref"]
        await until(lambda: scene.starts == 1)
        before = await scene.watches()
        tasks = len(asyncio.all_tasks())
        callers = [Named(scene.port, f"agent-{number}") for number in range(200)]
        await asyncio.gather(*(hang_up_after(1.5, each.status(ref, wait_seconds=25)) for each in callers))
        async with asyncio.timeout(PATIENCE):
            while await scene.watches() > before or _tasks_of_holds():
                await asyncio.sleep(0.05)
        service = await scene.rc.started()
        scopes = service.patience._scopes
        assert sum(len(each.hang_ups) for each in scopes.values()) <= 32
        assert len(service.patience._sessions) == 0
        await until(lambda: not any(each.pending for each in scopes.values()) and not service.patience._tasks)
        # Those that serve the connections that ended are gone as well.
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        record = await stored(tmp_path)
        assert record is not None
        assert len(record.value) == 32
        scene.release.set()
        assert (await caller.status(ref, wait_seconds=20))["result"] == "over"
        assert scene.starts == 1
        await caller.close()


def _tasks_of_holds() -> list[str]:
    return [each.get_name() for each in asyncio.all_tasks() if each.get_name() == "raincheck-hang-up"]


class Named(HttpCaller):
    """A caller with a name of its own."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(port)
        self._name = name

    def envelope(self, request_id: int, method: str, params: Mapping[str, Any]) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        message = json.loads(HttpCaller.envelope(request_id, method, params))
        message["params"]["_meta"]["io.modelcontextprotocol/clientInfo"]["name"] = self._name
        return json.dumps(message, separators=(",", ":")).encode()
