"""Real clients, each in its own environment, against one real `raincheck serve`: list, call, cancel, answer.

docs/which-client.md tells what is found here; a test holds its table to `ROWS`.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clients_real.running import PROGRAMS, run, seen_by
from docs.pages import DOCS

from support.environments import FASTMCP, node_environment, python_environment

# The first one of a kind makes its environment.
pytestmark = pytest.mark.timeout(600)

MODERN, CORE = "2026-07-28", "2025-11-25"
EXT_TASKS = ("@modelcontextprotocol/ext-tasks@0.2.2", "@modelcontextprotocol/client@2.4.0", "node@22")
INSPECTOR = ("@modelcontextprotocol/inspector@2.12.0", "node@22")

TOOLS = {"slow", "endless", "confirm", "quick", "initiate_background_task", "resolve_task_status"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the page's table: a client, its version, what it gets, and whether it answers a task's question."""

    client: str
    version: str
    protocol: str
    surface: str
    answers: str = "yes"


HANDLES, EXTENSION, CORE_TASKS = "handle tools", "tasks extension", "core tasks"

ROWS = {
    "sdk2-plain": Row(client="Python SDK `Client`", version="2.3.0", protocol=MODERN, surface=HANDLES),
    "sdk2-driver": Row(
        client="Python SDK `Client` with `raincheck.client.TasksExtension`",
        version="2.3.0",
        protocol=MODERN,
        surface=EXTENSION,
    ),
    "sdk1-plain": Row(client="Python SDK `ClientSession`", version="1.30.0", protocol=CORE, surface=HANDLES),
    "sdk1-tasks": Row(
        client="Python SDK `ClientSession`, `session.experimental`", version="1.30.0", protocol=CORE, surface=CORE_TASKS
    ),
    "sdk1-oldest": Row(
        client="Python SDK `ClientSession`, `session.experimental`", version="1.27.0", protocol=CORE, surface=CORE_TASKS
    ),
    "fastmcp-plain": Row(client="FastMCP `Client`", version="4.1.2", protocol=MODERN, surface=HANDLES),
    "fastmcp-tasks": Row(
        client="FastMCP `Client` with `fastmcp_tasks`", version="4.1.2", protocol=MODERN, surface=EXTENSION
    ),
    "ext-modern": Row(
        client="`@modelcontextprotocol/ext-tasks` over the TypeScript SDK",
        version="0.2.2",
        protocol=MODERN,
        surface=EXTENSION,
    ),
    "ext-legacy": Row(
        client="`@modelcontextprotocol/ext-tasks` over the TypeScript SDK",
        version="0.2.2",
        protocol=CORE,
        surface=CORE_TASKS,
        answers="by the handle tools",
    ),
    "inspector-modern": Row(
        client="MCP Inspector `--cli` and `mcpdo`, modern era", version="2.12.0", protocol=MODERN, surface=EXTENSION
    ),
    "inspector-legacy": Row(
        client="MCP Inspector `--cli`, legacy era", version="2.12.0", protocol=CORE, surface=HANDLES
    ),
}


def check(name: str, seen: dict[str, Any]) -> None:
    row = ROWS[name]
    assert set(seen["tools"]) >= TOOLS
    assert seen["version"] == row.version
    assert seen["protocol"] == row.protocol
    assert seen["slow"] == {"word": "rain"}
    assert seen["cancelled"] == "cancelled"
    if row.answers == "yes":
        assert seen["answered"] == "accept: True"


@pytest.mark.parametrize("name", ["sdk2-plain", "sdk2-driver"])
async def test_the_python_sdk_2(name: str, office: dict[str, Any]) -> None:
    check(name, await seen_by(Path(sys.executable), "sdk2.py", office, name.removeprefix("sdk2-"), "auto"))


async def test_the_python_sdk_2_on_the_protocol_before(office: dict[str, Any]) -> None:
    seen = await seen_by(Path(sys.executable), "sdk2.py", office, "plain", "legacy")
    assert seen["protocol"] == CORE
    check("sdk2-plain", {**seen, "protocol": MODERN})


@pytest.mark.parametrize(
    ("name", "surface"), [("sdk1-plain", "plain"), ("sdk1-tasks", "tasks"), ("sdk1-oldest", "tasks")]
)
async def test_the_python_sdk_1(name: str, surface: str, office: dict[str, Any]) -> None:
    python = python_environment("mcp1", f"mcp=={ROWS[name].version}")
    check(name, await seen_by(python, "sdk1.py", office, surface))


@pytest.mark.parametrize("surface", ["plain", "tasks"])
async def test_fastmcp(surface: str, office: dict[str, Any]) -> None:
    python = python_environment("fastmcp", *FASTMCP)
    check(f"fastmcp-{surface}", await seen_by(python, "fastmcp_client.py", office, surface))


@pytest.mark.parametrize("era", ["modern", "auto", "legacy"])
async def test_ext_tasks_over_the_typescript_sdk(era: str, office: dict[str, Any]) -> None:
    folder = node_environment("ext-tasks", *EXT_TASKS)
    # A module finds its packages from where it stands.
    program = Path(shutil.copy(PROGRAMS / "ext_tasks.mjs", folder))
    seen = await seen_by(folder / "node_modules" / ".bin" / "node", str(program), office, era)
    check("ext-legacy" if era == "legacy" else "ext-modern", seen)
    assert seen["kind"] == "task"
    if era == "legacy":
        # Its `initialize` declared the extension; a call that asks for no task gets an ordinary result all the same.
        assert seen["plain"] == "queued"


class Inspector:
    """MCP Inspector: `--cli` is a process a call; `mcpdo` calls over a connection that its daemon keeps."""

    def __init__(self, office: dict[str, Any], home: Path) -> None:
        bin_folder = node_environment("inspector", *INSPECTOR) / "node_modules" / ".bin"
        self.node = bin_folder / "node"
        self.bin = bin_folder
        self._office = office
        self.env = {"HOME": str(home), "MCP_INSPECTOR_SECRET_STORE": "memory"}

    def _target(self) -> list[str]:
        if "url" in self._office:
            return ["--transport", "http", "--server-url", self._office["url"]]
        return ["--cwd", self._office["cwd"], *self._office["command"]]

    async def cli(self, era: str, method: str, *options: str) -> dict[str, Any]:
        flags = ["--protocol-era", era, "--format", "json", "--quiet", "--method", method, *options]
        command = [self.node, self.bin / "inspector", "--cli", *flags, *self._target()]
        return json.loads(await run(command, env=self.env))["result"]

    async def call(self, era: str, tool: str, **arguments: Any) -> dict[str, Any]:
        options = ("--tool-name", tool, "--tool-args-json", json.dumps(arguments))
        return await self.cli(era, "tools/call", *options)

    async def mcpdo(self, *words: str) -> dict[str, Any]:
        return json.loads(await run([self.node, self.bin / "mcpdo", "--format", "json", *words], env=self.env))

    async def connect(self) -> None:
        private = await run([self.node, self.bin / "mcpdo", "private"], env=self.env)
        for line in private.splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            self.env[name] = value.strip("'")
        await self.mcpdo("connect", "@office", "--era", "modern", *self._target())


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_inspectors_command_line(era: str, office: dict[str, Any], tmp_path: Path) -> None:
    inspector = Inspector(office, tmp_path)
    seen: dict[str, Any] = {"version": "2.12.0", "protocol": ROWS[f"inspector-{era}"].protocol}
    seen["tools"] = [tool["name"] for tool in (await inspector.cli(era, "tools/list"))["tools"]]

    async def look(ticket: dict[str, Any]) -> dict[str, Any]:
        looked = await inspector.call(era, "resolve_task_status", task_ref=ticket["task_ref"], wait_seconds=10)
        return looked["structuredContent"]

    answered = (await inspector.call(era, "slow", word="rain"))["structuredContent"]
    # Its `initialize` declares the extension in the legacy era too, and it could not read a `CreateTaskResult` there.
    seen["slow"] = answered if era == "modern" else (await look(answered))["result"]
    start = await inspector.call(era, "initiate_background_task", operation_type="endless")
    task_ref = start["structuredContent"]["task_ref"]
    cancelled = await inspector.call(era, "cancel_background_task", task_ref=task_ref)
    seen["cancelled"] = cancelled["structuredContent"]["status"]
    if "url" not in office:
        # On stdio each call has a server of its own, and a question ends with the server whose task asked it.
        check(f"inspector-{era}", {**seen, "answered": "accept: True"})
        return
    start = await inspector.call(era, "initiate_background_task", operation_type="confirm")
    asking = await look(start["structuredContent"])
    answers = {key: {"action": "accept", "content": {"sure": True}} for key in asking["input_requests"]}
    await inspector.call(era, "provide_task_input", task_ref=asking["task_ref"], responses=answers)
    seen["answered"] = (await look(asking))["result"]
    check(f"inspector-{era}", seen)


async def test_inspectors_connection_drives_tasks(office: dict[str, Any], tmp_path: Path) -> None:
    inspector = Inspector(office, tmp_path)
    try:
        await inspector.connect()
        on_office = ("--connection", "office")
        assert (await inspector.mcpdo(*on_office, "tools/call", "slow", "word:=rain"))["structuredContent"] == {
            "word": "rain"
        }
        pending = (await inspector.mcpdo(*on_office, "tools/call", "confirm"))["elicitationPending"]
        assert pending["message"] == "Are you sure?"
        answered = await inspector.mcpdo(*on_office, "elicitation/respond", pending["elicitationId"], "sure:=true")
        assert answered["content"][0]["text"] == "accept: True"
        # A task of the handle tools, by the extension's methods.
        start = await inspector.mcpdo(*on_office, "tools/call", "initiate_background_task", "operation_type:=endless")
        task_ref = start["structuredContent"]["task_ref"]
        assert (await inspector.mcpdo(*on_office, "tasks/get", task_ref))["task"]["status"] == "working"
        await inspector.mcpdo(*on_office, "tasks/cancel", task_ref)
        assert (await inspector.mcpdo(*on_office, "tasks/get", task_ref))["task"]["status"] == "cancelled"
    finally:
        await run([inspector.node, inspector.bin / "mcpdo", "daemon", "stop"], env=inspector.env)


def test_the_page_tells_what_was_found() -> None:
    page = (DOCS / "which-client.md").read_text(encoding="utf-8")
    rows = page.partition("<!-- tested -->")[2].partition("\n\n## ")[0].splitlines()
    assert [line for line in rows if "| 20" in line] == [
        f"| {row.client} {row.version} | {row.protocol} | {row.surface} | {row.answers} |" for row in ROWS.values()
    ]
