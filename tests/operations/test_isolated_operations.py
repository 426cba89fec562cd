"""Python operations with a process of their own: results, context, failures, and their end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from operations import isolated_functions as functions
from operations.running import Recorder, alive, context_for, run, soon, start, until

from raincheck.errors import ConfigurationError, InvalidParameters, OperationFailed, ResultTooLarge, UpstreamError
from raincheck.operations.environment import INHERITED, INTERPRETER
from raincheck.operations.operation import Operation, Policy
from raincheck.operations.python.executor import python_operation


def isolated(function: Any, **options: Any) -> Operation:
    return python_operation(function, isolation="process", **options)


async def test_a_function_runs_in_another_process_in_its_own_types(capfd: pytest.CaptureFixture[str]) -> None:
    operation = isolated(functions.where)

    result = await run(operation, day="2026-03-01")

    assert result["pid"] != os.getpid()
    assert result["year"] == 2026
    # The MCP transport has stdin and stdout to itself.
    assert result["stdin"] == ""
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "printed on stdout\n" in printed.err
    assert "from a grandchild\n" in printed.err
    assert (await run(isolated(functions.where_async)))["pid"] != os.getpid()
    assert await run(isolated(functions.add), a="2") == 3


async def test_of_the_servers_environment_the_process_finds_a_few_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAINCHECK_STATE__URL", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL"):
        monkeypatch.setenv(name, "hush")

    found: dict[str, str] = await run(isolated(functions.variables, inherit=["DATABASE_URL"]))

    assert set(found) <= {*INHERITED, *INTERPRETER, "DATABASE_URL", "RAINCHECK_ORPHAN_REAPER"}
    assert found["PATH"] == os.environ["PATH"]
    assert [name for name, value in found.items() if value == "hush"] == ["DATABASE_URL"]
    with pytest.raises(ConfigurationError, match="never inherited"):
        isolated(functions.variables, inherit=["RAINCHECK_STATE__URL"])
    with pytest.raises(ConfigurationError, match='inherit is for isolation = "process"'):
        python_operation(functions.variables, inherit=["DATABASE_URL"])


def test_parameters_are_checked_before_a_process_is_started() -> None:
    operation = isolated(functions.add)

    assert operation.executor.parameters_schema["required"] == ["a"]
    with pytest.raises(InvalidParameters, match="a: required, and missing"):
        operation.executor.validate({})


async def test_the_context_works_from_the_other_process() -> None:
    for function, expected in (
        (functions.talk, {"answer": {"action": "accept"}, "key": "task-1", "attempt": 1}),
        (functions.talk_async, {"answers": [{"action": "accept"}, {"action": "accept"}]}),
    ):
        backend = Recorder(answer={"action": "accept"})
        assert await run(isolated(function), backend) == expected
        assert [(p.fraction, p.message) for p in backend.reports] == [(0.5, "half")]
        assert backend.asked[0] == (
            "elicitation/create",
            {"mode": "form", "message": "Which?", "requestedSchema": backend.asked[0][1]["requestedSchema"]},
        )


@pytest.mark.parametrize(
    ("how", "message", "details"),
    [
        ("raise", "no such page", {"type": "ValueError"}),
        ("exit", "the operation called sys.exit(3); it must return or raise instead", {}),
        ("os_exit", "the operation's process exited with status 7 without a result", {"exit_code": 7}),
        ("kill", "the operation's process was ended by SIGKILL without a result", {"signal": "SIGKILL"}),
        ("nan", "the operation returned a value that JSON cannot hold: NaN, infinity", {}),
        ("object", "the operation returned a value that JSON cannot hold: an object of type object", {}),
    ],
)
async def test_a_failure_in_the_process_is_told_with_its_reason(how: str, message: str, details: Any) -> None:
    with pytest.raises(OperationFailed) as caught:
        await run(isolated(functions.fail), how=how)
    assert caught.value.message.startswith(message)
    assert caught.value.details == details


async def test_a_failure_of_another_kind_keeps_its_code_and_details() -> None:
    with pytest.raises(UpstreamError, match="the shop is closed") as caught:
        await run(isolated(functions.fail), how="upstream")
    assert caught.value.retryable
    assert caught.value.details == {"status": 503}


async def test_a_result_is_bounded_before_it_crosses_the_pipe() -> None:
    operation = isolated(functions.fail, policy=Policy(max_result_bytes=500_000))

    assert await run(operation, how="400000") == "x" * 400_000
    with pytest.raises(ResultTooLarge, match="larger than 500000 bytes"):
        await run(operation, how="500000")


@pytest.mark.parametrize("function", [functions.sleep_politely, functions.sleep_politely_async])
async def test_cancelling_lets_the_function_clean_up_and_ends_its_process(function: Any, tmp_path: Path) -> None:
    operation = isolated(function)
    context = context_for(operation)
    task = start(operation, context, folder=str(tmp_path))
    await until((tmp_path / "pids").exists)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)

    assert (tmp_path / "cleaned").exists()
    assert context.cancelled
    assert not alive(int((tmp_path / "pids").read_text()))


async def test_a_deaf_function_is_killed_with_its_children(tmp_path: Path) -> None:
    operation = isolated(functions.deaf)
    task = start(operation, context_for(operation), folder=str(tmp_path))
    await until((tmp_path / "pids").exists)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(alive(pid) for pid in pids)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)

    assert [pid for pid in pids if alive(pid)] == []


async def test_cancelling_while_the_process_starts_leaves_none() -> None:
    operation = isolated(functions.add)
    context = context_for(operation)
    task = start(operation, context, a=1)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert context.cancelled
    assert [
        child
        for child in psutil.Process().children()
        if "raincheck.operations.python.subprocess_main" in str(child.cmdline())
    ] == []


def end(file: Path) -> None:
    """Kill what a failed test left running."""
    for pid in file.read_text().split() if file.exists() else []:
        if alive(int(pid)):
            os.kill(int(pid), signal.SIGKILL)


SERVER = """
    import asyncio, sys
    sys.path[:0] = {tests!r}
    from operations.running import run
    from operations.isolated_functions import {function} as function
    from raincheck.operations.python.executor import python_operation

    asyncio.run(run(python_operation(function, isolation="process"), folder={folder!r}))
"""


@pytest.mark.parametrize("function", ["sleep_politely", "deaf"])
async def test_killing_the_server_ends_the_process_and_its_children(function: str, tmp_path: Path) -> None:
    tests = [path for path in sys.path if path.endswith("tests")]
    program = textwrap.dedent(SERVER).format(tests=tests, function=function, folder=str(tmp_path))
    server = subprocess.Popen([sys.executable, "-c", program])
    try:
        await until((tmp_path / "pids").exists)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        server.send_signal(signal.SIGKILL)
        await until(lambda: not any(alive(pid) for pid in pids))
    finally:
        server.kill()
        server.wait()
        end(tmp_path / "pids")


async def test_the_process_notices_by_itself_that_its_server_is_gone(tmp_path: Path) -> None:
    tests = [path for path in sys.path if path.endswith("tests")]
    program = textwrap.dedent(SERVER).format(tests=tests, function="deaf", folder=str(tmp_path))
    server = subprocess.Popen([sys.executable, "-c", program])
    try:
        await until((tmp_path / "pids").exists)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        (reaper,) = [child for child in psutil.Process(server.pid).children() if child.pid != pids[0]]
        reaper.kill()
        server.send_signal(signal.SIGKILL)
        await until(lambda: not any(alive(pid) for pid in pids))
    finally:
        server.kill()
        server.wait()
        end(tmp_path / "pids")


SCRIPT = """
    import asyncio, sys
    sys.path[:0] = {tests!r}
    from operations.running import run
    from raincheck.operations.python.executor import python_operation

    def double(n: int) -> int:
        return 2 * n

    double_operation = python_operation(double, isolation="process")

    if __name__ == "__main__":
        print(asyncio.run(run(double_operation, n=21)))
"""


def test_a_function_of_the_script_itself_runs_without_its_main_block(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(tests=[path for path in sys.path if path.endswith("tests")]))

    for arguments in ([str(script)], ["-m", "script"]):
        ended = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
        )
        assert (ended.stderr, ended.stdout) == ("", "42\n")


def test_functions_that_another_process_cannot_import_are_refused() -> None:
    def local() -> None: ...

    class Shop:
        def buy(self) -> None: ...

    cases: list[Any] = [local, partial(functions.add, b=1), Shop().buy]
    for function in cases:
        with pytest.raises(ConfigurationError, match="needs a function at the top level of a module"):
            isolated(function)
    with pytest.raises(ConfigurationError, match="top level"):
        isolated(lambda: 1, operation_type="nameless")


def test_a_function_that_was_typed_in_is_refused() -> None:
    program = (
        "from raincheck.operations.python.executor import python_operation\n"
        "def typed(): pass\n"
        "try: python_operation(typed, isolation='process')\n"
        "except Exception as error: print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert "needs a function in a file" in ended.stdout


OFFICE = """
import pathlib, sys
from mcp.server.mcpserver import MCPServer
from raincheck import Raincheck

sys.path.insert(0, pathlib.Path("somewhere"))  # imports pass over it
rc = Raincheck(store="tasks.db")
mcp = MCPServer("office", extensions=[rc], lifespan=rc.lifespan)


@rc.operation(isolation="process", mode="inline")
def double(n: int) -> int:
    return 2 * n


if __name__ == "__main__":
    mcp.run()
"""


@pytest.mark.parametrize("how", ["mcp run", "folder"])
async def test_whatever_starts_a_server_its_process_finds_the_function(how: str, tmp_path: Path) -> None:
    server = tmp_path / ("server.py" if how == "mcp run" else "__main__.py")
    server.write_text(OFFICE)
    mcp = str(Path(sys.executable).with_name("mcp"))
    command, *rest = [mcp, "run", str(server)] if how == "mcp run" else [sys.executable, str(tmp_path)]

    async with Client(stdio_client(StdioServerParameters(command=command, args=rest, cwd=tmp_path))) as client:
        answer = await soon(client.call_tool("double", {"n": 21}))

    assert [each.text for each in answer.content if each.type == "text"] == ["42"]


def test_a_program_without_an_interpreter_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ConfigurationError, match='add: isolation = "process" needs a Python interpreter'):
        isolated(functions.add)


def test_the_main_module_of_a_zip_is_refused_at_the_start(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", OFFICE)

    done = subprocess.run(
        [sys.executable, "app.pyz"], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        '.double: isolation = "process" needs a function in a file, or in a module that another process can import by '
        f"its name; this one is in {tmp_path}/app.pyz/__main__.py"
    )
