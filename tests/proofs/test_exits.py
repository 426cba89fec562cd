"""`sys.exit` and KeyboardInterrupt beside an operation's own coroutine: the attempt fails, and the server goes on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.serving import Refused, StdioServer, Workplace

FUNCTIONS = """
import asyncio
import sys


async def leaves():
    await asyncio.sleep(0.01)
    sys.exit(3)


async def gathered(): await asyncio.gather(leaves(), asyncio.sleep(60))


async def gathered_inline(): await asyncio.gather(leaves(), asyncio.sleep(60))


async def gathered_alone(): await asyncio.gather(leaves(), asyncio.sleep(60))


async def grouped():
    async with asyncio.TaskGroup() as group:
        group.create_task(leaves())
        await asyncio.sleep(60)


async def forgotten():
    left = asyncio.create_task(leaves())
    await asyncio.sleep(60)


async def in_a_callback():
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(60)


async def when_done():
    def done(task): raise KeyboardInterrupt
    asyncio.create_task(asyncio.sleep(0)).add_done_callback(done)
    await asyncio.sleep(60)


def from_a_thread():
    raise SystemExit(3)


async def after_its_end():
    asyncio.get_running_loop().call_later(0.2, sys.exit, 3)
    return "ended"


async def healthy():
    await asyncio.sleep(4)
    return "healthy"
"""
ENDS = {
    "gathered": "sys.exit(3)",
    "grouped": "sys.exit(3)",
    "forgotten": "sys.exit(3)",
    "in_a_callback": "sys.exit(3)",
    "when_done": "KeyboardInterrupt",
    "from_a_thread": "sys.exit(3)",
    "gathered_alone": "sys.exit(3)",
}
TOML = "".join(
    f'[operations.{name}]\nkind = "python"\ntarget = "ops:{name}"\n'
    + ('mode = "inline"\n' if name.endswith("inline") else "")
    + ('isolation = "process"\n' if name.endswith("alone") else "")
    for name in (*ENDS, "gathered_inline", "after_its_end", "healthy")
)


@pytest.mark.parametrize("transport", ["stdio", "streamable-http"])
async def test_an_exit_beside_the_operations_coroutine_ends_its_attempt_and_nothing_else(
    tmp_path: Path, transport: str
) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    async with place.served(transport) as (server, caller):
        others = await caller.submit("healthy")
        assert (await caller.run("after_its_end"))["result"] == "ended"
        for name, said in ENDS.items():
            error = (await caller.run(name))["error"]
            assert (error["code"], said in error["message"]) == ("operation_failed", True), (name, error)
        with pytest.raises(Refused, match=r"sys\.exit\(3\)"):
            await caller.call("gathered_inline")
        assert (await caller.settled(others["task_ref"]))["result"] == "healthy"
        if isinstance(server, StdioServer):
            assert server.stray == []
        server.signal(signal.SIGTERM)
        assert await server.exited() == 0


PROGRAM = """
import asyncio, os, signal, sys, time
from raincheck import TaskContext
from raincheck.operations.python.executor import python_operation
from raincheck.runtime.service import Service
from raincheck.stores.memory.store import MemoryStore

async def busy(seconds: float, context: TaskContext) -> None:
    print("busy", flush=True)
    time.sleep(seconds)

operation = python_operation(busy)

async def main():
    service = Service(MemoryStore(), {"busy": operation})
    await service.start()
    await service.registry.submit("busy", {"seconds": 60}, scope="local")
    await asyncio.sleep(60)

if sys.argv[1] == "SIGTERM":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
asyncio.new_event_loop().run_until_complete(main())
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", -signal.SIGINT), ("SIGTERM", 5)])
def test_what_the_operator_sends_still_ends_a_program_in_the_midst_of_an_operation(name: str, code: int) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        try:
            assert run.stdout is not None
            assert run.stdout.readline() == b"busy\n"
            run.send_signal(getattr(signal, name))
            assert run.wait(20) == code
        finally:
            run.kill()


async def test_the_loop_is_as_before_when_the_service_has_stopped(tmp_path: Path) -> None:
    from support.lab import Lab

    loop = asyncio.get_running_loop()
    async with Lab(tmp_path / "tasks.db").service():
        assert "_run_once" in vars(loop)
    assert "_run_once" not in vars(loop)
