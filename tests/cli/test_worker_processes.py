"""`raincheck serve` that only accepts, and `raincheck worker` beside it: real processes on one store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.history import FUNCTIONS, TOML, History, figures
from support.servers.server import free_port
from support.serving import HttpCaller, HttpServer, Process, Workplace, calling
from support.waiting import PATIENCE

LEASE = 1.0
SETTINGS = f"[execution]\nlease_seconds = {LEASE}\ndrain_seconds = 0\n"
READY = re.compile(
    r"^raincheck: worker (\S+) runs (\d+) operations? of (\S+)(?: .*)? with the engine (\S+)$", re.MULTILINE
)
SERVER = '''
import os

from mcp.server.mcpserver import MCPServer

from raincheck import Raincheck, load_settings
from raincheck.stores.sqlite.store import SqliteStore

rc = Raincheck(tools="slow_*", settings=load_settings(None, environ=os.environ))
elsewhere = Raincheck(store=SqliteStore("elsewhere.db"))
mcp = MCPServer("office", extensions=[rc], lifespan=rc.lifespan)


@elsewhere.operation
@rc.operation
async def whose() -> int:
    """Who runs this?"""
    return os.getpid()


@mcp.tool()
def slow_report(topic: str) -> str:
    """Build a report."""
    return f"{topic} by {os.getpid()}"


if __name__ == "__main__":
    mcp.run()
'''


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    workplace = Workplace(tmp_path, SETTINGS + TOML, FUNCTIONS)
    (tmp_path / "office.py").write_text(SERVER)
    return workplace


async def eventually(look: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)
    return found


async def ready(worker: Process) -> re.Match[str]:
    return await eventually(lambda: READY.search(worker.log), "a worker that is ready", 20)


@asynccontextmanager
async def accepting(place: Workplace, **environment: str) -> AsyncGenerator[tuple[HttpServer, HttpCaller]]:
    """A server that runs nothing itself, and a caller."""
    environment["RAINCHECK_EXECUTION__MAX_CONCURRENCY"] = "0"
    async with place.http(env=environment) as server, calling(server.port) as caller:
        yield server, caller


async def get(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: probe.example\r\nconnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body else {}


async def started(place: Workplace, ref: str, times: int = 1) -> None:
    await eventually(lambda: len(History(place.history).runs[ref]) == times, f"{times} starts of {ref}")


async def test_tasks_wait_for_a_worker_and_it_runs_them(place: Workplace) -> None:
    async with accepting(place) as (_, caller):
        tickets = [await caller.submit("fail", {"seconds": 0}) for _ in range(5)]
        assert [(await caller.status(each["task_ref"]))["status"] for each in tickets] == ["pending"] * 5
        assert not History(place.history).runs
        async with place.command("worker") as worker:
            told = await ready(worker)
            assert told.groups()[1:] == ("3", "sqlite", "local")
            ends = [await caller.settled(each["task_ref"]) for each in tickets]
            assert [(end["status"], end["result"]) for end in ends] == [("completed", "worked")] * 5
            runs = History(place.history).runs
            assert {run.pid for each in runs.values() for run in each} == {worker.pid}


async def test_another_worker_takes_over_from_one_that_is_killed_as_the_operation_says(place: Workplace) -> None:
    async with accepting(place) as (_, caller), place.command("worker") as one, place.command("worker") as other:
        workers = {(await ready(worker), worker.pid)[1]: worker for worker in (one, other)}
        again = (await caller.submit("retry", {"seconds": 3}))["task_ref"]
        await started(place, again)
        first = workers.pop(History(place.history).runs[again][0].pid)
        await first.kill()
        killed = time.monotonic()
        await started(place, again, times=2)
        assert time.monotonic() - killed < 4 * LEASE
        assert (await caller.settled(again))["result"] == "worked"
        ((pid, second),) = workers.items()
        assert [run.pid for run in History(place.history).runs[again]] == [first.pid, pid]

        never = (await caller.submit("fail", {"seconds": 60}))["task_ref"]
        await started(place, never)
        await second.kill()
        # Nobody is left but the server, which runs nothing and settles what is lost.
        lost = await caller.settled(never)
        assert (lost["status"], lost["error"]["code"]) == ("failed", "worker_lost")
        assert [run.pid for run in History(place.history).runs[never]] == [pid]


@pytest.mark.parametrize("provider", ["sqlite", "postgres", "redis"])
async def test_a_cancel_at_the_server_reaches_the_worker_within_a_second(
    place: Workplace, provider: str, request: pytest.FixtureRequest
) -> None:
    environment = {"RAINCHECK_STATE__PROVIDER": provider}
    if provider != "sqlite":
        environment["RAINCHECK_STATE__URL"] = request.getfixturevalue(provider).url
    async with accepting(place, **environment) as (_, caller), place.command("worker", env=environment) as worker:
        assert (await ready(worker))[3] == provider
        ref = (await caller.submit("watched", {}))["task_ref"]
        await eventually((place.folder / "watching").exists, "the start")
        asked = time.monotonic()
        assert (await caller.call("cancel_background_task", {"task_ref": ref}))["status"] == "cancelled"
        await eventually((place.folder / "stopped").exists, "the end of the operation")
        took = time.monotonic() - asked
        figures(f"cancel over {provider}", {"the operation ended after": f"{took * 1000:.0f} ms"})
        assert took < 1.0


@pytest.fixture(autouse=True)
def watched(place: Workplace) -> None:
    """One more operation, which says when it began and when it was told to stop."""
    with (place.folder / "raincheck.toml").open("a") as file:
        file.write('\n[operations.watched]\nkind = "python"\ntarget = "watching:watch"\n')
    (place.folder / "watching.py").write_text(
        "import asyncio\nfrom pathlib import Path\n\n"
        "async def watch() -> None:\n    Path('watching').touch()\n"
        "    try:\n        await asyncio.Event().wait()\n    finally:\n        Path('stopped').touch()\n"
    )


async def test_a_worker_told_to_stop_drains_then_gives_back_what_it_holds_and_ends_with_0(place: Workplace) -> None:
    async with accepting(place) as (_, caller), place.command("worker", "--drain-seconds", "2") as first:
        await ready(first)
        short = (await caller.submit("fail", {"seconds": 1}))["task_ref"]
        long = (await caller.submit("retry", {"seconds": 6}))["task_ref"]
        await started(place, short)
        await started(place, long)
        first.signal(signal.SIGTERM)
        await eventually(lambda: "told to stop" in first.log, "the order in the log")
        late = (await caller.submit("retry", {"seconds": 0}))["task_ref"]
        assert await first.exited() == 0
        assert (await caller.status(short))["result"] == "worked"
        assert (await caller.status(long))["status"] == "pending"
        assert (await caller.status(late))["status"] == "pending"
        async with place.command("worker") as second:
            await ready(second)
            assert (await caller.settled(late))["result"] == "worked"
            assert (await caller.settled(long))["result"] == "worked"
        runs = History(place.history).runs
        assert [run.pid for run in runs[long]] == [first.pid, second.pid]


async def test_a_second_signal_ends_a_worker_at_once(place: Workplace) -> None:
    async with accepting(place) as (_, caller), place.command("worker", "--drain-seconds", "600") as worker:
        await ready(worker)
        await started(place, (await caller.submit("retry", {"seconds": 60}))["task_ref"])
        worker.signal(signal.SIGINT)
        await eventually(lambda: "told to stop" in worker.log, "the order in the log")
        worker.signal(signal.SIGTERM)
        assert await worker.exited(5) == -signal.SIGTERM


async def test_a_worker_runs_the_operations_and_tools_of_a_raincheck_object(place: Workplace) -> None:
    async with place.script("office.py", env={"RAINCHECK_EXECUTION__MAX_CONCURRENCY": "0"}) as server:
        ticket = await server.submit("whose", {})
        async with place.command("worker", "office:rc", "--max-concurrency", "2") as worker:
            told = await ready(worker)
            assert (told[2], told[3]) == ("2", "sqlite")
            assert (await server.settled(ticket["task_ref"]))["result"] == worker.pid
            report = await server.run("slow_report", {"topic": "rain"})
            assert report["result"] == {"result": f"rain by {worker.pid}"}


async def test_a_worker_names_the_store_that_its_object_was_given(place: Workplace) -> None:
    async with place.command("worker", "office:elsewhere") as worker:
        assert (await ready(worker))[3] == "SqliteStore"
    assert (place.folder / "elsewhere.db").exists()


async def test_a_worker_needs_no_mcp_sdk_and_no_server_extra(place: Workplace) -> None:
    without = (
        "import sys\n"
        "for name in ('mcp', 'mcp_types', 'uvicorn', 'starlette', 'httpx2', 'rich'): sys.modules[name] = None\n"
        "from raincheck.cli.main import main\n"
        "sys.exit(main(['worker', '--health-port', sys.argv[1]]))"
    )
    async with accepting(place) as (_, caller), place.script("-c", without, str(free_port())) as worker:
        await ready(worker)
        assert (await caller.run("retry", {"seconds": 0}))["result"] == "worked"
        worker.signal(signal.SIGTERM)
        assert await worker.exited() == 0


# Health.


async def test_a_servers_health_is_answered_on_its_own_port_and_says_when_it_stops(place: Workplace) -> None:
    for transport in ("streamable-http", "sse"):
        async with place.http("--log-level", "info", transport=transport) as server:
            assert await get(server.port, "/healthz") == (200, {"status": "ok"})
            assert await get(server.port, "/readyz") == (200, {"status": "ready", "reasons": []})
            assert (await get(server.port, "/readyz", "POST"))[0] == 405
            assert (await get(server.port, "/readyz", "HEAD"))[0] == 200
    async with place.http(env={"RAINCHECK_EXECUTION__DRAIN_SECONDS": "5"}) as server, calling(server.port) as caller:
        await started(place, (await caller.submit("retry", {"seconds": 60}))["task_ref"])
        server.signal(signal.SIGTERM)
        await eventually(lambda: "told to stop" in server.log, "the order in the log")
        status, answer = await get(server.port, "/readyz")
        assert (status, answer["status"]) == (503, "not ready")
        assert "stopping" in answer["reasons"][0]
        assert (await get(server.port, "/healthz"))[0] == 200


async def test_a_servers_health_needs_no_token_and_no_known_host_name(place: Workplace) -> None:
    tokens = {"RAINCHECK_SERVER__AUTH__TOKENS": '{"ada": "${ADA}"}', "ADA": "a-token-that-is-long-enough-for-it"}
    async with place.http(env=tokens) as server:
        assert (await get(server.port, "/mcp", "POST"))[0] in (401, 421)
        assert (await get(server.port, "/readyz"))[0] == 200


async def test_a_workers_health_is_answered_where_it_is_asked_for(place: Workplace) -> None:
    port = free_port()
    async with place.command("worker", "--health-port", str(port), "--drain-seconds", "5") as worker:
        await ready(worker)
        assert await get(port, "/healthz") == (200, {"status": "ok"})
        assert await get(port, "/readyz") == (200, {"status": "ready", "reasons": []})
        assert (await get(port, "/readyz?verbose"))[0] == 200
        assert (await get(port, "/"))[0] == 404
        assert (await get(port, "/readyz", "DELETE"))[0] == 405
        assert await get(port, "/healthz", "HEAD") == (200, {})
        for nonsense in (b"\r\n\r\n", b"GET /healthz\r\n\r\n", b"x" * 20_000, b"\x00\xff \r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(nonsense)
            with contextlib.suppress(ConnectionError):
                assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 400 ")
            writer.close()
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        for _, writer in silent[:20]:
            writer.close()
        await eventually_answers(port)
        worker.signal(signal.SIGTERM)
        assert await worker.exited() == 0
        for _, writer in silent:
            writer.close()


async def eventually_answers(port: int) -> None:
    until = time.monotonic() + 10
    while True:
        with contextlib.suppress(IndexError, ConnectionError):
            assert (await get(port, "/healthz"))[0] == 200
            return
        assert time.monotonic() < until
        await asyncio.sleep(0.05)


async def test_a_worker_that_drains_is_alive_and_not_ready(place: Workplace) -> None:
    port = free_port()
    async with (
        accepting(place) as (_, caller),
        place.command("worker", "--health-port", str(port), "--drain-seconds", "5") as worker,
    ):
        await ready(worker)
        await started(place, (await caller.submit("retry", {"seconds": 60}))["task_ref"])
        worker.signal(signal.SIGTERM)
        await eventually(lambda: "told to stop" in worker.log, "the order in the log")
        status, answer = await get(port, "/readyz")
        assert (status, answer["reasons"]) == (503, ["this process is stopping, or not started yet"])
        assert (await get(port, "/healthz"))[0] == 200


async def test_systemd_is_told_when_a_worker_is_ready_and_when_it_stops(place: Workplace) -> None:
    path = f"{place.folder}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(path)
        channel.setblocking(False)
        async with place.command("worker", env={"NOTIFY_SOCKET": path}) as worker:
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sock_recv(channel, 100), PATIENCE) == b"READY=1"
            worker.signal(signal.SIGTERM)
            assert await asyncio.wait_for(loop.sock_recv(channel, 100), PATIENCE) == b"STOPPING=1"
            assert await worker.exited() == 0
    os.unlink(path)
