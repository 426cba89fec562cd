"""An agent's side of the handle tools, through the SDK's own client: for the demo, and for trying a server out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from mcp.client import Client


class CallRefused(Exception):
    """The call was wrong or refused.

    Attributes:
        error: `{"code", "message", "retryable", "details"}`.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.error = dict(error)


class HandleCaller:
    """Calls the handle tools of a server that it is connected to."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def tools(self) -> list[str]:
        """The names of the server's tools."""
        return [tool.name for tool in (await self._client.list_tools()).tools]

    async def start(
        self,
        operation_type: str,
        parameters: Mapping[str, Any],
        *,
        max_wait_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """The ticket for an operation, by `initiate_background_task`.

        Raises:
            CallRefused: The server did not take the call.
        """
        arguments: dict[str, Any] = {
            "operation_type": operation_type,
            "parameters": dict(parameters),
            "detail": "full",
        }
        if max_wait_seconds is not None:
            arguments["max_wait_seconds"] = max_wait_seconds
        if idempotency_key is not None:
            arguments["idempotency_key"] = idempotency_key
        return await self._call("initiate_background_task", arguments)

    async def status(self, task_ref: str) -> dict[str, Any]:
        """The task as it is now, by `resolve_task_status`.

        Raises:
            CallRefused: There is no such task.
        """
        return await self._call("resolve_task_status", {"task_ref": task_ref, "wait_seconds": 0, "detail": "full"})

    async def _call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        result = await self._client.call_tool(tool, arguments)
        answer: dict[str, Any] = result.structured_content or {}
        if result.is_error:
            raise CallRefused(answer.get("error") or {"code": "internal", "message": f"{tool} failed"})
        return answer


@asynccontextmanager
async def connected(url: str, *, read_timeout_seconds: float = 15.0) -> AsyncGenerator[HandleCaller]:
    """A caller connected to the server at `url` (streamable HTTP) while the block runs."""
    async with Client(url, read_timeout_seconds=read_timeout_seconds) as client:
        yield HandleCaller(client)
