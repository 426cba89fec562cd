"""Tasks outlive the stdio server that accepted them: a local worker runs them, whatever ends the server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.history import FUNCTIONS, History
from support.serving import StdioServer, Workplace
from support.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no local worker")

TOML = """
[execution]
lease_seconds = 2

[worker]
idle_seconds = 20

[operations.work]
kind = "python"
target = "ops:work"
mode = "task"
on_worker_lost = "fail"

[operations.again]
kind = "python"
target = "ops:work"
mode = "task"
on_worker_lost = "retry"

[operations.shell]
kind = "command"
argv = ["sh", "-c", "sleep {seconds}; echo done"]
mode = "task"
parameters = { type = "object", properties = { seconds = { type = "number" } }, required = ["seconds"] }
"""
ON = {"RAINCHECK_EXECUTION__OUTLIVE_CLIENT": "auto"}


class Place(Workplace):
    """A workplace whose stdio servers have a local worker."""

    def environment(self, **more: str) -> dict[str, str]:
        # One mark for all, so that no process is left behind by a test that fails.
        return super().environment(**{**ON, "PROOF_MARK": f"local-{self.folder}", **more})

    async def worker(self) -> dict[str, Any] | None:
        """The local worker, as `worker status` has it."""
        code, out, err = await self.raincheck("worker", "status", "--json")
        assert code == 0, err
        return json.loads(out)["worker"]

    async def ready(self) -> int:
        """The process id of the local worker, once it runs."""
        found: dict[str, Any] | None = None

        async def runs() -> bool:
            nonlocal found
            found = await self.worker()
            return found is not None and found["ready"]

        await until(runs)
        assert found is not None
        return found["pid"]

    async def shown(self, ref: str) -> dict[str, Any]:
        code, out, err = await self.raincheck("tasks", "show", ref, "--json")
        assert code == 0, err
        return json.loads(out)

    @property
    def log(self) -> str:
        return "".join(each.read_text() for each in self.database.parent.glob("*.log"))


async def until(true: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    """Wait until it is true."""
    late = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < late, f"not within {seconds} s"
        await asyncio.sleep(0.05)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Place]:
    place = Place(tmp_path, TOML, FUNCTIONS)
    try:
        yield place
    finally:
        await gone_after(place)


async def gone_after(place: Place) -> None:
    """End what a test left, and see that nothing of it holds the file."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("PROOF_MARK") == f"local-{place.folder}":
                process.kill()
        except psutil.Error:
            continue


async def kill(server: StdioServer) -> None:
    await server.kill()


async def close(server: StdioServer) -> None:
    server.close_stdin()
    await server.exited()


async def hang_up(server: StdioServer) -> None:
    server.hang_up()
    await server.exited()


async def kill_the_session(server: StdioServer) -> None:
    """What the SDK's client does to a server that will not end: the whole process group is killed."""
    os.killpg(server.pid, signal.SIGKILL)
    await server.exited()


@asynccontextmanager
async def serving(place: Place, env: Mapping[str, str] | None = None) -> AsyncGenerator[StdioServer]:
    """A server whose end leaves the worker alone, as that of a client does."""
    process, log, _ = await place._start(  # pyright: ignore[reportPrivateUsage]
        ("serve",), env or {}, asyncio.subprocess.PIPE
    )
    server = StdioServer(process, log, "none")
    try:
        yield server
    finally:
        await server.end()


@pytest.mark.parametrize("end", [kill, close, hang_up, kill_the_session], ids=lambda each: each.__name__)
async def test_a_task_outlives_its_server(place: Place, end: Callable[[StdioServer], Awaitable[None]]) -> None:
    async with serving(place) as server:
        ref = (await server.submit("work", {"seconds": 2}))["task_ref"]
        await until(started(place, ref))
        await end(server)
    assert (await place.shown(ref))["status"] == "processing"
    async with serving(place) as later:
        assert (await later.settled(ref))["result"] == "worked"
    assert len(History(place.history).runs[ref]) == 1


def started(place: Place, ref: str) -> Callable[[], Awaitable[bool]]:
    async def yes() -> bool:
        return place.history.exists() and ref in History(place.history).runs

    return yes


async def test_the_process_of_a_command_belongs_to_the_worker(place: Place) -> None:
    async with serving(place) as server:
        ref = (await server.submit("shell", {"seconds": 2}))["task_ref"]

        async def runs() -> bool:
            return (await server.status(ref))["status"] == "processing"

        await until(runs)
        await kill_the_session(server)
    async with serving(place) as later:
        assert (await later.settled(ref))["result"] == "done"


async def test_a_cancel_reaches_the_worker(place: Place) -> None:
    async with serving(place) as server:
        ref = (await server.submit("work", {"seconds": 60}))["task_ref"]
        await until(started(place, ref))
        await server.call("cancel_background_task", {"task_ref": ref})
        assert (await server.settled(ref))["status"] == "cancelled"

        async def nothing_runs() -> bool:
            return psutil.Process(await place.ready()).children() == []

        await until(nothing_runs)


async def test_ten_servers_start_one_worker(place: Place) -> None:
    async with AsyncExitStack() as stack:
        servers = await asyncio.gather(*(stack.enter_async_context(serving(place)) for _ in range(10)))
        tickets = await asyncio.gather(*(server.submit("work", {"seconds": 0.5}) for server in servers))
        ends = await asyncio.gather(
            *(server.settled(ticket["task_ref"], 2 * PATIENCE) for server, ticket in zip(servers, tickets, strict=True))
        )
        pid = await place.ready()
    assert [end["status"] for end in ends] == ["completed"] * 10
    assert {run.pid for runs in History(place.history).runs.values() for run in runs} == {pid}
    assert place.log.count("runs 3 operations") == 1


async def test_the_worker_ends_when_there_has_been_no_work(place: Place) -> None:
    async with serving(place, {"RAINCHECK_WORKER__IDLE_SECONDS": "2"}) as server:
        assert (await server.run("work", {"seconds": 0.1}))["status"] == "completed"
        pid = await place.ready()
    await until(ended(pid))
    assert await place.worker() is None
    async with serving(place) as server:
        assert (await server.run("work", {"seconds": 0.1}))["status"] == "completed"


async def test_a_worker_whose_files_are_removed_ends(place: Place) -> None:
    async with serving(place) as server:
        assert (await server.run("work", {"seconds": 0.1}))["status"] == "completed"
        pid = await place.ready()
    for file in place.database.parent.iterdir():
        file.unlink()
    await until(ended(pid))


def ended(pid: int) -> Callable[[], Awaitable[bool]]:
    async def yes() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return yes


async def test_a_worker_that_is_killed_is_replaced(place: Place) -> None:
    async with serving(place) as server:
        lost, again = [(await server.submit(name, {"seconds": 1.5}))["task_ref"] for name in ("work", "again")]
        await until(started(place, lost))
        await until(started(place, again))
        os.kill(await place.ready(), signal.SIGKILL)
        end = await server.settled(lost)
        assert (end["status"], end["error"]["code"]) == ("failed", "worker_lost")
        assert (await server.settled(again))["result"] == "worked"
    assert {ref: len(runs) for ref, runs in History(place.history).runs.items()} == {lost: 1, again: 2}


@pytest.mark.parametrize("change", ["code", "configuration"])
async def test_a_change_brings_a_new_worker_and_loses_nothing(place: Place, change: str) -> None:
    async with serving(place) as server:
        ref = (await server.submit("work", {"seconds": 3}))["task_ref"]
        await until(started(place, ref))
        old = await place.ready()
    file, text = ("ops.py", FUNCTIONS.replace('"worked"', '"worked anew"'))
    if change == "configuration":
        file, text = ("raincheck.toml", TOML.replace("lease_seconds = 2", "lease_seconds = 3"))
    (place.folder / file).write_text(text)
    async with serving(place) as server:
        new = await server.run("work", {"seconds": 0.1})
        assert new["result"] == ("worked anew" if change == "code" else "worked")
        assert await place.ready() != old
        assert (await server.settled(ref))["result"] == "worked", "the old worker finishes what it runs"
    await until(ended(old))
    assert {ref: len(runs) for ref, runs in History(place.history).runs.items()} == dict.fromkeys(
        [ref, new["task_ref"]], 1
    )


async def test_stop_finishes_what_runs_and_leaves_what_is_pending(place: Place) -> None:
    (place.folder / "raincheck.toml").write_text(TOML.replace("[execution]", "[execution]\nmax_concurrency = 1"))
    async with serving(place) as server:
        first = (await server.submit("work", {"seconds": 2}))["task_ref"]
        await until(started(place, first))
        second = (await server.submit("work", {"seconds": 0.1}))["task_ref"]
        await kill(server)
    code, out, err = await place.raincheck("worker", "stop")
    assert (code, out.endswith("ended\n")) == (0, True), err
    assert (await place.shown(first))["status"] == "completed"
    assert (await place.shown(second))["status"] == "pending"
    assert (await place.raincheck("worker", "stop"))[:2] == (0, "no local worker runs\n")
    async with serving(place) as server:
        assert (await server.settled(second))["status"] == "completed"


@pytest.mark.parametrize("why", ["the worker cannot start", "the lock is a folder"])
async def test_tasks_run_in_the_server_where_no_worker_can_be_started(place: Place, why: str) -> None:
    if why == "the worker cannot start":
        python = place.folder / "sitecustomize.py"
        python.write_text("import os, sys\nif os.environ.get('RAINCHECK_LOCAL_WORKER'):\n    sys.exit('no')\n")
    async with serving(place) as server:
        await server.run("work", {"seconds": 0.1})
        lock = next(place.database.parent.glob("*.lock"))
    code, _, err = await place.raincheck("worker", "stop")
    assert code == 0, err
    lock.unlink()
    env: dict[str, str] = {"PYTHONPATH": str(place.folder)}
    if why == "the lock is a folder":
        lock.mkdir()
    async with serving(place, env) as server:
        assert (await server.run("work", {"seconds": 0.1}))["status"] == "completed"
        assert "no local worker can be started" in server.log
        assert {run.pid for runs in History(place.history).runs.values() for run in runs} >= {server.pid}


@pytest.mark.parametrize("off", ["false", "http"])
async def test_tasks_run_in_the_server_where_it_is_off(place: Place, off: str) -> None:
    transport = "stdio" if off == "false" else "streamable-http"
    env = {"RAINCHECK_EXECUTION__OUTLIVE_CLIENT": "false"} if off == "false" else {}
    async with place.served(transport, **env) as (server, caller):
        ref = (await caller.run("work", {"seconds": 0.1}))["task_ref"]
        assert {run.pid for run in History(place.history).runs[ref]} == {server.pid}
    assert await place.worker() is None


async def test_every_task_of_fifty_clients_that_leave_ends_once(place: Place) -> None:
    refs: list[str] = []

    async def leave(number: int) -> None:
        async with at_once, serving(place) as server:
            refs.append((await server.submit("work", {"seconds": 0.3}))["task_ref"])
            await (kill if number % 2 else close)(server)

    at_once = asyncio.Semaphore(5)
    await asyncio.gather(*(leave(number) for number in range(50)))
    async with serving(place) as server:
        ends = [(await server.settled(ref, 2 * PATIENCE))["status"] for ref in refs]
    assert Counter(ends) == {"completed": 50}
    assert [len(History(place.history).runs[ref]) for ref in refs] == [1] * 50


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"RAINCHECK_EXECUTION__OUTLIVE_CLIENT": "yes"},
            "raincheck: invalid value \"yes\" for 'outlive_client' in [execution] of the environment "
            '(RAINCHECK_EXECUTION__OUTLIVE_CLIENT); allowed: "auto" or true or false',
        ),
        (
            {"RAINCHECK_EXECUTION__OUTLIVE_CLIENT": "true", "RAINCHECK_STATE__PROVIDER": "memory"},
            "'provider' in [state] must be \"sqlite\" for outlive_client = true: a local worker needs it",
        ),
        ({"RAINCHECK_WORKER__IDLE_SECONDS": "0"}, "allowed: a number from 1 up to 86400"),
    ],
)
async def test_bad_settings_get_one_line(place: Place, env: dict[str, str], message: str) -> None:
    if "PROVIDER" in str(env):
        env["RAINCHECK_STATE__URL"] = ""
    code, _, err = await place.raincheck("serve", env=env)
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err


LIBRARY = """
import os

from mcp.server.mcpserver import MCPServer

import ops
from raincheck import Policy, Raincheck, TaskContext

rc = Raincheck(store=os.environ["RAINCHECK_STATE__URL"], outlive_client="office:rc", policy=Policy(mode="task"))
mcp = MCPServer("office", extensions=[rc], lifespan=rc.lifespan)


@rc.operation(mode="task")
async def work(task: TaskContext, seconds: float) -> str:
    return await ops.work(task, seconds)


if __name__ == "__main__":
    mcp.run("stdio")
"""


async def test_a_library_server_that_can_be_imported_has_one_too(place: Place, tmp_path: Path) -> None:
    (place.folder / "office.py").write_text(LIBRARY)
    async with place.script("office.py") as server:
        # Its worker has the mark of the place, and would end with the server's.
        server._mark = "none"  # pyright: ignore[reportPrivateUsage]
        ref = (await server.submit("work", {"seconds": 2}))["task_ref"]
        await until(started(place, ref))
        await server.kill()
    code, out, err = await place.raincheck("worker", "status", "office:rc")
    assert (code, " runs since " in out) == (0, True), err
    async with place.script("office.py") as server:
        assert (await server.settled(ref))["result"] == "worked"


@pytest.mark.parametrize("given", ["office", "office:", 3])
def test_what_names_no_object_is_refused(given: Any) -> None:
    from raincheck import ConfigurationError, Raincheck

    with pytest.raises(ConfigurationError, match=r"Raincheck\(outlive_client=…\) takes MODULE:RAINCHECK"):
        Raincheck(outlive_client=given)


def test_a_store_that_no_worker_shares_is_refused(tmp_path: Path) -> None:
    from raincheck import ConfigurationError, Raincheck
    from raincheck.stores.memory.store import MemoryStore

    with pytest.raises(ConfigurationError, match="needs the store sqlite by its path"):
        Raincheck(outlive_client="office:rc", store=MemoryStore())
