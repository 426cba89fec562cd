"""The examples run as the pages show them: over stdio with the SDK's client, and the commands as typed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from docs.pages import DOCS, EXAMPLES, block, blocks
from mcp import Client, StdioServerParameters

from support.waiting import PATIENCE

BIN = Path(sys.executable).parent
CLIENTS = EXAMPLES / "clients"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user of their own, with raincheck on the PATH and no settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAINCHECK_")}
    return inherited | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        # What a local worker has to do is soon done.
        "RAINCHECK_WORKER__IDLE_SECONDS": "2",
    }


class Agent:
    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> Any:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        if result.structured_content is not None:
            return result.structured_content
        (block,) = result.content
        assert block.type == "text"
        return block.text

    async def end_of(self, task_ref: str) -> dict[str, Any]:
        """The task once it has ended or asks something."""
        async with asyncio.timeout(PATIENCE):
            while True:
                status = await self.call("resolve_task_status", task_ref=task_ref)
                if status["status"] not in ("pending", "processing"):
                    return status


@asynccontextmanager
async def agent_of(
    environment: dict[str, str], command: str, *arguments: str, folder: Path | None = None
) -> AsyncGenerator[Agent]:
    server = StdioServerParameters(command=command, args=list(arguments), env=environment, cwd=folder)
    async with Client(server, read_timeout_seconds=20) as client:
        yield Agent(client)


async def test_the_two_lines_give_an_existing_tool_a_background(environment: dict[str, str]) -> None:
    async with agent_of(environment, sys.executable, str(EXAMPLES / "two_lines.py")) as agent:
        assert await agent.call("slow_report", topic="rain") == {"result": "Everything about rain."}
        ticket = await agent.call(
            "initiate_background_task", operation_type="slow_report", parameters={"topic": "snow"}
        )
        task = await agent.end_of(ticket["task_ref"])
        assert task["result"] == {"result": "Everything about snow."}


async def test_the_operations_example_reports_asks_stops_and_answers(environment: dict[str, str]) -> None:
    async with agent_of(environment, sys.executable, str(EXAMPLES / "operations.py")) as agent:
        assert await agent.call("opening_hours", day="Sunday") == "closed"

        summary = await agent.call("summarise", pages=["a slow tool", "a ticket"])
        assert (await agent.end_of(summary["task_ref"]))["result"] == {"pages": 2, "words": 5}

        question = await agent.call("publish", title="Rain")
        asking = await agent.end_of(question["task_ref"])
        assert asking["status"] == "input_required"
        (key,) = asking["input_requests"]
        await agent.call(
            "provide_task_input", task_ref=question["task_ref"], responses={key: {"action": "accept", "content": {}}}
        )
        assert (await agent.end_of(question["task_ref"]))["result"] == "published"

        count = await agent.call("count_down", start=600)
        cancelled = await agent.call("cancel_background_task", task_ref=count["task_ref"])
        assert cancelled["status"] == "cancelled"


def test_the_quickstart_works_as_typed(tmp_path: Path, environment: dict[str, str]) -> None:
    shutil.copytree(EXAMPLES / "serve", tmp_path / "office")
    commands = [
        line.removeprefix("$ ")
        for block in blocks(DOCS / "quickstart.md")
        if block.marker == "run"
        for line in block.code.splitlines()
    ]
    assert len(commands) >= 3
    said = ""
    for command in commands:
        done = subprocess.run(
            shlex.split(command),
            cwd=tmp_path / "office",
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said += done.stdout
    # Once as it is built, and once as it is there already.
    assert said.count("completed: {'topic': 'rain', 'pages': 3}") == 2


def test_the_quickstart_shows_that_a_killed_server_loses_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    office = tmp_path / "office"
    shutil.copytree(EXAMPLES / "serve", office)
    start, kill = block(DOCS / "quickstart.md", "kill").code.splitlines()
    again, show = block(DOCS / "quickstart.md", "again").code.splitlines()
    order = start.removeprefix("$ ").removesuffix(" &").split()
    assert kill == "$ pkill -9 -P $!"
    assert again == f"$ {' '.join(order)}"

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=office, env=environment, capture_output=True, text=True, timeout=90, check=True
        )

    with subprocess.Popen(
        order, cwd=office, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as agent:
        assert agent.stdout is not None
        ticket = agent.stdout.readline().split()[1]
        subprocess.run(["pkill", "-9", "-P", str(agent.pid)], check=True)
    assert agent.returncode != 0
    ordered = run(order)
    assert f"ticket: {ticket} " in ordered.stdout
    assert "completed: {'topic': 'rain', 'pages': 10}" in ordered.stdout
    shown = run(show.removeprefix("$ ").replace("TASK_REF", ticket[:6]).split()).stdout
    assert re.search(r"^attempt +1 of 3$", shown, re.MULTILINE)


async def test_the_served_command_gives_a_checksum(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "office"
    shutil.copytree(EXAMPLES / "serve", folder)
    async with agent_of(environment, str(BIN / "raincheck"), "serve", "raincheck.toml", folder=folder) as agent:
        assert "reports.py" in await agent.call("checksum", file="reports.py")


@pytest.mark.parametrize("name", ["cursor.mcp.json", "vscode.mcp.json"])
async def test_a_clients_configuration_starts_the_server(
    name: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    shutil.copytree(EXAMPLES / "serve", tmp_path / "office")
    configuration = json.loads((CLIENTS / name).read_text(encoding="utf-8"))
    servers = configuration["servers" if name.startswith("vscode") else "mcpServers"]
    server = servers["reports"]
    arguments = [each.replace("/path/to", str(tmp_path / "office")) for each in server["args"]]
    command = BIN / server["command"]
    assert command.exists()
    async with agent_of(environment, str(command), *arguments) as agent:
        tools = {tool.name for tool in (await agent.client.list_tools()).tools}
        assert {"report", "checksum", "initiate_background_task"} <= tools


def test_the_commands_for_claude_code_start_the_same_server() -> None:
    lines = (CLIENTS / "claude-code.sh").read_text(encoding="utf-8").splitlines()
    commands = [shlex.split(line) for line in lines if line and not line.startswith("#")]
    started = json.loads((CLIENTS / "cursor.mcp.json").read_text(encoding="utf-8"))["mcpServers"]["reports"]
    for command in commands:
        assert command[:3] == ["claude", "mcp", "add"]
    assert commands[0][3:] == ["reports", "--", started["command"], *started["args"]]
    assert commands[1][3:6] == ["--transport", "http", "reports"]
    assert re.fullmatch(r"http://127\.0\.0\.1:8000/mcp", commands[1][6])


async def test_the_asking_example_asks_in_all_three_ways(environment: dict[str, str]) -> None:
    answers = {
        "report": ({"name": "Ada"}, "A report for Ada."),
        "clean_up": ({"sure": True}, "7 files deleted"),
        "slow_paint": ({"colour": "green"}, "painted green"),
    }
    async with agent_of(environment, sys.executable, str(EXAMPLES / "asking.py")) as agent:
        for tool, (content, expected) in answers.items():
            ticket = await agent.call(tool, **({"folder": "/tmp/old"} if tool == "clean_up" else {}))
            status = await agent.end_of(ticket["task_ref"])
            assert status["status"] == "input_required"
            responses = {key: {"action": "accept", "content": content} for key in status["input_requests"]}
            await agent.call("provide_task_input", task_ref=ticket["task_ref"], responses=responses)
            result = (await agent.end_of(ticket["task_ref"]))["result"]
            assert result in (expected, {"result": expected})


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_example_of_a_test_passes_and_keeps_nothing(mode: str, tmp_path: Path, environment: dict[str, str]) -> None:
    for name in ("operations.py", "test_office.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-o",
            f"asyncio_mode={mode}",
            "-p",
            "no:cacheprovider",
            "test_office.py",
        ],
        cwd=tmp_path,
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert not (tmp_path / "state").exists()
    assert list(home.iterdir()) == []
