"""A server in the test's own process, and raw clients of it: over streamable HTTP, and over streams like stdio's."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.shared.memory import MessageStream, create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from spec.channels import Answer, Channel, HttpChannel, Message

from raincheck.mcp.sdk_host import Raincheck
from raincheck.mcp.server.http_app import http_app
from support.waiting import PATIENCE

__all__ = ["Heard", "Peer", "in_memory", "over_http", "port_of"]

_ids = itertools.count(1)


class Heard(NamedTuple):
    """What one request was answered.

    Attributes:
        result: The result.
        progress: The params of each `notifications/progress` before it.
        content_type: The answer's, over HTTP.
    """

    result: dict[str, Any]
    progress: list[dict[str, Any]]
    content_type: str


class Peer:
    """A client of one era, over a channel.

    Args:
        channel: The way to the server.
        modern: Whether it speaks protocol 2026-07-28, else 2025-11-25 (call `connect` first).
        name: How it calls itself.
        capabilities: What it declares.
    """

    def __init__(
        self, channel: Channel, *, modern: bool, name: str = "raw", capabilities: Mapping[str, Any] | None = None
    ) -> None:
        self.channel = channel
        self._modern = modern
        self._info = {"name": name, "version": "1"}
        self._capabilities = dict(capabilities or {})
        self._headers: dict[str, str] = {"mcp-protocol-version": "2026-07-28" if modern else "2025-11-25"}

    async def connect(self) -> Peer:
        """Do the handshake of the older protocol."""
        if not self._modern:
            params = {
                "protocolVersion": "2025-11-25",
                "capabilities": self._capabilities,
                "clientInfo": self._info,
            }
            found = await self.channel.exchange(
                {"jsonrpc": "2.0", "id": next(_ids), "method": "initialize", "params": params}
            )
            if "mcp-session-id" in found.headers:
                self._headers["mcp-session-id"] = found.headers["mcp-session-id"]
            await self.channel.tell({"jsonrpc": "2.0", "method": "notifications/initialized"}, self._headers)
        return self

    async def call(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, token: str | None = None, **headers: str
    ) -> Heard:
        """Call a tool, with a `progressToken` where one is given, and over HTTP with more `headers`."""
        found = await self.send("tools/call", {"name": tool, "arguments": dict(arguments or {})}, token, **headers)
        assert "result" in found.message, found.message
        told: list[dict[str, Any]] = []
        while not self.channel.incoming.empty():
            message = self.channel.incoming.get_nowait()
            assert message["method"] == "notifications/progress", message
            told.append(message["params"])
        return Heard(found.message["result"], told, found.headers.get("content-type", ""))

    async def send(self, method: str, params: Mapping[str, Any], token: str | None = None, **headers: str) -> Answer:
        """The answer to a request."""
        meta: dict[str, Any] = {} if token is None else {"progressToken": token}
        more = dict(self._headers)
        if self._modern:
            meta["io.modelcontextprotocol/protocolVersion"] = "2026-07-28"
            meta["io.modelcontextprotocol/clientInfo"] = self._info
            meta["io.modelcontextprotocol/clientCapabilities"] = self._capabilities
            more |= {"mcp-method": method, "mcp-name": str(params.get("name"))}
        message: Message = {
            "jsonrpc": "2.0",
            "id": next(_ids),
            "method": method,
            "params": {**params, "_meta": meta} if meta else dict(params),
        }
        return await self.channel.exchange(message, {**more, **headers})

    async def structured(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The structured content of a tool's answer."""
        return (await self.call(tool, arguments)).result["structuredContent"]

    async def respond(self, request: Message, result: Mapping[str, Any]) -> None:
        """Answer a request of the server."""
        await self.channel.tell({"jsonrpc": "2.0", "id": request["id"], "result": dict(result)}, self._headers)


class _MemoryChannel(Channel):
    """Streams of messages, as stdio carries them."""

    def __init__(self, streams: MessageStream) -> None:
        super().__init__()
        self._incoming, self._outgoing = streams
        self._waiting: dict[Any, asyncio.Future[Message]] = {}
        self.reader = asyncio.create_task(self._read())

    async def exchange(self, message: Message, headers: Mapping[str, str] | None = None) -> Answer:
        answer = self._waiting[message["id"]] = asyncio.get_running_loop().create_future()
        await self.tell(message)
        return Answer(200, {}, await asyncio.wait_for(answer, PATIENCE))

    async def tell(self, message: Message, headers: Mapping[str, str] | None = None) -> None:
        await self._outgoing.send(SessionMessage(jsonrpc_message_adapter.validate_python(message)))

    async def _read(self) -> None:
        async for each in self._incoming:
            assert isinstance(each, SessionMessage)
            message: Message = each.message.model_dump(by_alias=True, mode="json", exclude_none=True)
            waiting = None if "method" in message else self._waiting.pop(message.get("id"), None)
            if waiting is None:
                self.incoming.put_nowait(message)
            elif not waiting.done():
                waiting.set_result(message)


@asynccontextmanager
async def in_memory(server: MCPServer[Any], rc: Raincheck) -> AsyncGenerator[Channel]:
    """A channel to a server whose messages go over streams, as on stdio, while the block runs."""
    async with rc.running(), create_client_server_memory_streams() as (ours, theirs):
        lowlevel = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]  as `run_stdio_async` does it
        serving = asyncio.create_task(lowlevel.run(*theirs, lowlevel.create_initialization_options()))
        channel = _MemoryChannel(ours)
        try:
            yield channel
        finally:
            for task in (channel.reader, serving):
                task.cancel()
            await asyncio.gather(channel.reader, serving, return_exceptions=True)


@asynccontextmanager
async def port_of(server: MCPServer[Any], rc: Raincheck) -> AsyncGenerator[int]:
    """The port of a server on streamable HTTP, as `raincheck serve` serves it, while the block runs."""
    app = http_app(server, host="127.0.0.1")
    web = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="on"))
    async with rc.running():
        serving = asyncio.create_task(web.serve())
        async with asyncio.timeout(PATIENCE):
            while not web.started:
                await asyncio.sleep(0.01)
        try:
            yield web.servers[0].sockets[0].getsockname()[1]
        finally:
            web.should_exit = True
            await serving


@asynccontextmanager
async def over_http(server: MCPServer[Any], rc: Raincheck) -> AsyncGenerator[Channel]:
    """A channel to a server on streamable HTTP while the block runs."""
    async with port_of(server, rc) as port:
        channel = HttpChannel(f"http://127.0.0.1:{port}/mcp")
        try:
            yield channel
        finally:
            await channel.close()
