"""The server under test: one operation for each thing that a task can do.

Run as a process of its own: `python operations.py http|stdio STORE`. What waits for a word of the test waits for a file
of that name beside the store.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent
from pydantic import AnyHttpUrl

from raincheck import OperationFailed, Policy, TaskContext
from raincheck.config.settings import Settings
from raincheck.mcp.sdk_host import Raincheck

__all__ = ["NAME", "PRINCIPALS", "make_server"]

NAME: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
PRINCIPALS = ("alice", "bob")
"""Who has a token, which is its name; for a server that asks for tokens."""


class _Doorkeeper:
    async def verify_token(self, token: str) -> AccessToken | None:
        return AccessToken(token=token, client_id=f"app-of-{token}", scopes=[]) if token in PRINCIPALS else None


def make_server(store: Path, *, tokens: bool = False, workers: int = 50) -> tuple[MCPServer[Any], Raincheck]:
    """The server, not yet running; with `tokens` only `PRINCIPALS` may call; without workers it only accepts."""
    execution = {"lease_seconds": 1, "drain_seconds": 0, "max_concurrency": workers}
    settings = Settings.model_validate({"execution": execution, "polling": {"initial_interval_ms": 50}})
    rc = Raincheck(tools="adopted_*", store=store, settings=settings, policy=Policy(mode="task"))
    auth: dict[str, Any] = {}
    if tokens:
        issuer = AnyHttpUrl("http://127.0.0.1/issuer")
        auth = {
            "token_verifier": _Doorkeeper(),
            "auth": AuthSettings(issuer_url=issuer, resource_server_url=None),
        }
    server = MCPServer[Any]("spec", version="1", extensions=[rc], lifespan=rc.lifespan, log_level="WARNING", **auth)
    _add_running(rc, store.parent)
    _add_ending(rc)
    _add_asking(rc)

    @server.tool()
    def plain() -> str:
        """No operation."""
        return "plain"

    @server.tool()
    def adopted_whole() -> CallToolResult:
        """An existing tool with everything a result may have."""
        text = TextContent(type="text", text="see the structure")
        return CallToolResult.model_validate({"content": [text], "structuredContent": {"n": 1}, "_meta": {"a/b": 1}})

    return server, rc


def _add_running(rc: Raincheck, folder: Path) -> None:
    async def released(name: str) -> None:
        while not (folder / name).exists():
            await asyncio.sleep(0.02)

    async def counted(name: str) -> None:
        with (folder / f"{name}.starts").open("a") as starts:
            starts.write(".")
        await released(name)

    @rc.operation(mode="task", ttl_seconds=60)
    async def hold(name: str) -> dict[str, str]:
        """Waits for the test's word."""
        await counted(name)
        return {"held": name}

    @rc.operation(mode="task", on_worker_lost="retry")
    async def hold_again(name: str, context: TaskContext) -> dict[str, int]:
        """Waits for the test's word, and may run again."""
        await counted(name)
        return {"attempt": context.attempt}

    @rc.operation(mode="task")
    async def steps(name: str, context: TaskContext) -> str:
        """Reports progress, then waits for the test's word."""
        await context.progress(0.25, "begun")
        await released(name)
        return "stepped"

    @rc.operation(mode="auto", inline_wait_seconds=1)
    async def auto(name: str = "") -> dict[str, str]:
        """A result at once, or after the test's word."""
        if name:
            await released(name)
        return {"auto": name}

    @rc.operation(mode="task")
    def soon() -> dict[str, bool]:
        """A task that ends at once."""
        return {"soon": True}

    @rc.operation(mode="inline")
    def look_up() -> str:
        """Never a task."""
        return "found"

    @rc.operation(mode="task", without_tasks="refuse")
    def tasks_only() -> str:
        """Only for clients with tasks."""
        return "done"

    @rc.operation(mode="task", ttl_seconds=0.3)
    def brief() -> str:
        """Soon forgotten."""
        return "brief"


def _add_ending(rc: Raincheck) -> None:
    @rc.operation(mode="task")
    def tool_error() -> str:
        """Reports an error of its own."""
        raise OperationFailed("no such quarter", details={"quarter": 5})

    @rc.operation(mode="task")
    async def protocol_error() -> str:
        """Ends in a JSON-RPC error."""
        raise MCPError(-32050, "the stars are wrong", {"phase": "new moon"})

    @rc.operation(mode="task", timeout_seconds=0.1)
    async def overruns() -> None:
        """Takes too long."""
        await asyncio.sleep(60)


def _add_asking(rc: Raincheck) -> None:
    def content(answer: Mapping[str, Any]) -> Any:
        return answer.get("content") or answer["action"]

    @rc.operation(mode="task")
    async def ask_two(context: TaskContext) -> dict[str, Any]:
        """Asks two things at once."""
        answers = await asyncio.gather(context.elicit("First name?", NAME), context.elicit("Last name?", NAME))
        return {"names": [content(answer) for answer in answers]}

    @rc.operation(mode="task", on_worker_lost="retry")
    async def ask_in_turn(context: TaskContext) -> dict[str, Any]:
        """Asks one thing after another, and may run again."""
        first = await context.elicit("First name?", NAME)
        last = await context.elicit("Last name?", NAME)
        return {"names": [content(first), content(last)], "attempt": context.attempt}

    @rc.operation(mode="task")
    async def sampled(context: TaskContext) -> Any:
        """Asks the client's model."""
        message = {"role": "user", "content": {"type": "text", "text": "Greet."}}
        answer = await context.sample({"messages": [message], "maxTokens": 10})
        return {"said": answer["content"]["text"]}

    @rc.operation(mode="task", without_tasks="wait")
    async def ask_while_waiting(context: TaskContext) -> Any:
        """Asks once, and the call waits for the result."""
        return {"hello": content(await context.elicit("Who?", NAME))}

    @rc.operation(mode="task", ask_first={"who": {"mode": "form", "message": "Who?", "requestedSchema": NAME}})
    async def ask_before(context: TaskContext) -> Any:
        """Asks before it becomes a task, where it can."""
        return {"hello": content(context.answers["who"])}


async def _main(transport: str, store: Path) -> None:
    server, _ = make_server(store)
    if transport == "stdio":
        await server.run_stdio_async()
        return
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    app = server.streamable_http_app()
    await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2])))
