"""The smallest agent host: asks the scripted model, calls what it wants called, and hands the answers back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import StdioServerParameters
from mcp.client import Client
from mcp_types import CallToolResult, TextContent, TextResourceContents

from benchmarks.agents.workplace import McpServer

__all__ = ["TinyHost", "connected"]

_MOST_TURNS = 40
_SECONDS = 30.0
_READ = "read_mcp_resource"


class TinyHost:
    """A host connected to one MCP server.

    Args:
        client: The connection.
        model_url: Where Chat Completions are.
    """

    def __init__(self, client: Client, model_url: str) -> None:
        self._client = client
        self._model_url = model_url

    async def converse(self, prompt: str) -> str:
        """The model's last words."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
        tools = await self._tools()
        async with httpx2.AsyncClient(timeout=_SECONDS) as http:
            for _ in range(_MOST_TURNS):
                body = {"model": "any", "messages": messages, "tools": tools}
                answer = (await http.post(f"{self._model_url}/v1/chat/completions", json=body)).json()
                message: dict[str, Any] = answer["choices"][0]["message"]
                messages.append(message)
                calls: list[dict[str, Any]] = message.get("tool_calls") or []
                if not calls:
                    return message["content"]
                for call in calls:
                    said = await self._call(call["function"]["name"], json.loads(call["function"]["arguments"]))
                    messages.append({"role": "tool", "tool_call_id": call["id"], "content": said})
        raise AssertionError(f"no end after {_MOST_TURNS} turns: {messages[-2:]}")

    async def _tools(self) -> list[dict[str, Any]]:
        offered = [
            {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
            for tool in (await self._client.list_tools()).tools
        ]
        schema = {"type": "object", "properties": {"uri": {"type": "string"}}}
        offered.append({"name": _READ, "description": "Read a resource.", "parameters": schema})
        return [{"type": "function", "function": each} for each in offered]

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        if name == _READ:
            contents = (await self._client.read_resource(arguments["uri"])).contents
            return "".join(each.text for each in contents if isinstance(each, TextResourceContents))
        result = await self._client.call_tool(name, arguments)
        assert isinstance(result, CallToolResult)
        return "\n".join(each.text for each in result.content if isinstance(each, TextContent))


@asynccontextmanager
async def connected(mcp: McpServer, model_port: int) -> AsyncGenerator[TinyHost]:
    """A host, while the block runs."""
    if mcp.url:
        server: str | StdioServerParameters = mcp.url
    else:
        command, *arguments = mcp.command
        server = StdioServerParameters(command=command, args=arguments, env=dict(mcp.env))
    async with Client(server, read_timeout_seconds=_SECONDS) as client:
        yield TinyHost(client, f"http://127.0.0.1:{model_port}")
