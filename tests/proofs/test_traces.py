"""A user's own bug leaves a trace: on every kind a failed attempt is one error line with its traceback.

And the operator is told what was raised, and where.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import Context, MCPServer

from raincheck.mcp.sdk_host import Raincheck
from raincheck.operations.operation import Policy
from support.serving import Refused, Workplace

SECRET = "sk-live-0123456789"
FUNCTIONS = """
import asyncio

from raincheck import OperationFailed


def half(n):
    return 1 // n  # the bug


def thread(n: int): return half(n)
async def coroutine(n: int): return half(n)
async def inline(n: int): return half(n)
def isolated(n: int): return half(n)


def secret(api_key: str):
    raise ValueError(f"no such key: {api_key[::-1]} {api_key}")


def isolated_secret(api_key: str):
    raise ValueError(f"no such key: {api_key[::-1]} {api_key}")


async def twice(n: int):
    raise OperationFailed("never", retryable=True)
"""
LINE = next(number for number, line in enumerate(FUNCTIONS.splitlines(), 1) if "the bug" in line)
PYTHON = {
    "thread": "",
    "coroutine": "",
    "inline": 'mode = "inline"\n',
    "isolated": 'isolation = "process"\n',
    "secret": 'secrets = ["api_key"]\n',
    "isolated_secret": 'secrets = ["api_key"]\nisolation = "process"\n',
    "twice": "retry_attempts = 1\n",
}
TOML = (
    '[observability]\nlog_format = "json"\n'
    + "".join(f'[operations.{name}]\nkind = "python"\ntarget = "ops:{name}"\n{more}' for name, more in PYTHON.items())
    + '[operations.command]\nkind = "command"\nargv = ["sh", "-c", "echo told >&2; exit 3"]\n'
    + '[operations.command_secret]\nkind = "command"\nargv = ["sh", "-c", "exit 3", "{api_key}"]\n'
    + 'secrets = ["api_key"]\nparameters = {api_key = {type = "string"}}\n'
    + '[operations.http]\nkind = "http"\nurl = "http://127.0.0.1:9/nobody"\n'
)


def errors_in(log: str, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("operation") == name and line["level"] == "error"]


async def test_every_failed_attempt_is_one_error_line_with_its_traceback_and_the_operator_finds_the_place(
    tmp_path: Path,
) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    told: dict[str, dict[str, Any]] = {}
    async with place.stdio() as server:
        for name in ("thread", "coroutine", "isolated", "twice", "command", "http"):
            told[name] = await server.run(name, {"n": 0} if name in PYTHON else {})
        for name in ("secret", "isolated_secret"):
            told[name] = await server.run(name, {"api_key": SECRET})
        await server.run("command_secret", {"api_key": SECRET})
        with pytest.raises(Refused):
            await server.call("inline", {"n": 0})
        log = server.log
    own = f"ZeroDivisionError at {tmp_path / 'ops.py'}:{LINE}"
    for name in ("thread", "coroutine", "isolated", "inline"):
        (line,) = errors_in(log, name)
        assert line["message"] == f"operation failed: {own}"
        assert "return 1 // n  # the bug" in line["traceback"]
        assert line["traceback"].count("ZeroDivisionError: integer division or modulo by zero") == 1
        if name == "isolated":
            shown = await place.raincheck("tasks", "show", told[name]["task_ref"])
            assert f"raised           {own}" in shown[1]
            as_json = json.loads((await place.raincheck("tasks", "show", told[name]["task_ref"], "--json"))[1])
            assert as_json["raised"] == {"type": "ZeroDivisionError", "at": own.partition(" at ")[2]}
            assert set(as_json["error"]) == {"code", "message", "retryable", "details"}
        if name in told:
            assert line["task_ref"] == told[name]["task_ref"]
            assert "ops.py" not in json.dumps(told[name])
    type_of = {"command": "OperationFailed", "http": "UpstreamError"}
    for name in ("command", "http"):
        (line,) = errors_in(log, name)
        assert line["code"] == told[name]["error"]["code"]
        why = {"command": "command sh exited with status 3", "http": "127.0.0.1:9 refused the connection"}[name]
        assert line["message"] == f"operation failed: {type_of[name]}: {why}"
        assert "traceback" not in line
    (line,) = errors_in(log, "command_secret")
    assert line["message"] == "operation failed: OperationFailed: exit_code 3"
    assert "traceback" not in line
    for name in ("secret", "isolated_secret"):
        (line,) = errors_in(log, name)
        assert 'raise ValueError(f"no such key' in line["traceback"]
        assert "ValueError" in line["traceback"]
        assert SECRET not in log
        assert SECRET[::-1] not in log
    assert len(errors_in(log, "twice")) == 2


async def test_each_task_has_a_line_when_accepted_started_and_ended_and_they_can_be_switched_off(
    tmp_path: Path,
) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    for flags, env in (((), {}), (("--log-format", "text"), {"RAINCHECK_OBSERVABILITY__LOG_TASKS": "false"})):
        async with place.stdio(*flags, env=env) as server:
            good = await server.run("thread", {"n": 1})
            bad = await server.run("thread", {"n": 0})
            log = server.log
        if flags:
            assert "task accepted" not in log
            assert "task completed" not in log
            assert f"warning raincheck.tasks: task failed task_ref={bad['task_ref']} operation=thread seconds=" in log
            continue
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        for task, end, level in ((good, "completed", "info"), (bad, "failed", "warning")):
            own = [each for each in lines if each.get("task_ref") == task["task_ref"]]
            told = [(each["message"], each["level"]) for each in own if each["logger"] == "raincheck.tasks"]
            assert told == [("task accepted", "info"), ("task started", "info"), (f"task {end}", level)]
            assert {each["operation"] for each in own} == {"thread"}
            assert own[-1]["seconds"] >= 0
            assert own[-1].get("code") == (task["error"]["code"] if task["error"] else None)


@pytest.fixture
def own_log() -> Iterator[io.StringIO]:
    """The log of a program that uses raincheck as a library."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


async def ended(client: Client, tool: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    ticket = (await client.call_tool(tool, dict(arguments or {}))).structured_content
    assert ticket is not None
    answer = await client.call_tool(
        "resolve_task_status", {"task_ref": ticket["task_ref"], "wait_seconds": 10, "detail": "full"}
    )
    assert answer.structured_content is not None
    return answer.structured_content


async def test_an_adopted_tools_bug_and_its_own_messages_are_in_the_log(tmp_path: Path, own_log: io.StringIO) -> None:
    rc = Raincheck(store=tmp_path / "tasks.db", tools="slow_*", policy=Policy(mode="task"))
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @server.tool()
    async def slow_bug(n: int, ctx: Context) -> float:
        await ctx.info("step 0")  # pyright: ignore[reportDeprecated]
        await ctx.warning({"left": n})  # pyright: ignore[reportDeprecated]
        return 1 / n

    @server.tool()
    async def slow_request(ctx: Context, ask: str) -> str:
        return str(getattr(ctx, ask))

    async with Client(server) as client:
        task = await ended(client, "slow_bug", {"n": 0})
        assert task["status"] == "failed"
        assert "division" not in task["error"]["message"]
        asked = await ended(client, "slow_request", {"ask": "request_id"})
        assert asked["result"] == {"result": asked["task_ref"]}
        refused = await ended(client, "slow_request", {"ask": "session"})
        assert refused["status"] == "failed"
    log = own_log.getvalue()
    which = f"task_ref={task['task_ref']} operation=slow_bug\n"
    for line in ("INFO task accepted", "INFO step 0", "WARNING {'left': 0}", "WARNING task failed"):
        assert f"{line} {which}" in log
    assert f"ERROR operation failed: ZeroDivisionError at {__file__}:" in log
    assert log.count("  | ZeroDivisionError: division by zero") == 1
    assert "ctx.session, ctx.request_context: it belongs to a request, and this tool runs as a task" in log
