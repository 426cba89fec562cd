"""The server that the official conformance suite is run against: the fixture tools its scenarios ask for.

Run: `make conformance-server PORT=N` (0: any free port, printed).
"""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR

from raincheck import OperationFailed, Policy, TaskContext
from raincheck.mcp.sdk_host import Raincheck

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a script, also outside of pytest

from conformance.events import Events
from conformance.general_tools import ADOPTED, add_general_tools
from conformance.input_tools import add_input_tools

NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def make_server(store: Path) -> MCPServer[Any]:
    """A server with the fixtures of the tasks scenarios, and of the general ones."""
    # However slow the machine is: the general scenarios want results, those of the tasks say `mode = "task"`.
    rc = Raincheck(tools=ADOPTED, store=store, policy=Policy(inline_wait_seconds=60))
    server = MCPServer[Any]("raincheck-conformance", version="1", extensions=[rc], lifespan=rc.lifespan)
    add_task_tools(server, rc)
    add_general_tools(server, rc)
    add_input_tools(server)
    return server


def add_task_tools(server: MCPServer[Any], rc: Raincheck) -> None:
    """The fixtures of the `tasks-*` scenarios."""

    @server.tool()
    def greet(name: str = "world") -> str:
        """Sync only."""
        return f"Hello, {name}!"

    @rc.operation(mode="task")
    async def slow_compute(seconds: float = 1.0, label: str = "") -> str:
        """Sleeps, then gives a result."""
        await asyncio.sleep(seconds)
        return f"computed {label} after {seconds:g} s"

    @rc.operation(mode="task", without_tasks="refuse")
    async def failing_job() -> str:
        """Always ends in a tool error."""
        await asyncio.sleep(1)
        raise OperationFailed("this job always fails")

    @rc.operation(mode="task")
    async def protocol_error_job() -> Any:
        """Always ends in a JSON-RPC error."""
        await asyncio.sleep(0.2)
        raise MCPError(INTERNAL_ERROR, "this job ends in a protocol error")

    @rc.operation(mode="task")
    async def confirm_delete(context: TaskContext, filename: str = "file") -> str:
        """Asks once."""
        schema = {"type": "object", "properties": {"confirm": {"type": "boolean"}}, "required": ["confirm"]}
        answer = await context.elicit(f"Delete {filename}?", schema)
        return f"deleted {filename}: {answer}"

    @rc.operation(mode="task")
    async def multi_input(context: TaskContext) -> str:
        """Asks two questions at once."""
        answers = await asyncio.gather(context.elicit("First name?", NAME), context.elicit("Last name?", NAME))
        return f"answers: {answers}"

    @rc.operation(mode="task", ask_first={"user_name": {"mode": "form", "message": "Who?", "requestedSchema": NAME}})
    async def test_tool_with_task(context: TaskContext) -> str:
        """Asks before it becomes a task."""
        return f"Hello, {context.answers['user_name'].get('content', {}).get('name')}!"


async def main(port: int) -> None:
    """Serve until the process is told to stop."""
    with tempfile.TemporaryDirectory() as folder:
        server = make_server(Path(folder, "tasks.db"))
        app = server.streamable_http_app(event_store=Events(), retry_interval=100)
        listener = socket.create_server(("127.0.0.1", port))
        print(f"serving on http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
