"""Two clients over a raw channel: one of 2026-07-28 with the tasks extension, one of 2025-11-25 with core tasks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from spec.channels import Answer, Channel, Message
from spec.shapes import check_answer

from support.waiting import PATIENCE

__all__ = ["ELICITS", "EXTENSION", "NOTHING", "TASKS", "Legacy", "Modern", "RpcError", "answer"]

EXTENSION = "io.modelcontextprotocol/tasks"
NOTHING: dict[str, Any] = {}
TASKS: dict[str, Any] = {"extensions": {EXTENSION: {}}}
ELICITS: dict[str, Any] = {"elicitation": {}, **TASKS}
_TERMINAL = ("completed", "failed", "cancelled")
_ids = itertools.count(1)


class RpcError(Exception):
    """The answer is a JSON-RPC error."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(f"HTTP {status}: {error}")
        self.status = status
        self.error = dict(error)
        self.code: int = error["code"]


def answer(name: str) -> dict[str, Any]:
    """What a user answers to a question for a name."""
    return {"action": "accept", "content": {"name": name}}


def _result(found: Answer) -> dict[str, Any]:
    if "error" in found.message:
        raise RpcError(found.status, found.message["error"])
    return found.message["result"]


class Modern:
    """A client of 2026-07-28: every request stands alone, without any discover before it.

    Args:
        channel: The way to the server.
        capabilities: What each request declares, unless it is told otherwise.
    """

    def __init__(self, channel: Channel, capabilities: Mapping[str, Any] = TASKS) -> None:
        self.channel = channel
        self._capabilities = capabilities

    def message(self, method: str, params: Mapping[str, Any], capabilities: Mapping[str, Any] | None = None) -> Message:
        """The request as it stands on the wire."""
        meta: dict[str, Any] = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": self._capabilities if capabilities is None else capabilities,
        }
        return {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": {**params, "_meta": meta}}

    @staticmethod
    def headers(message: Message) -> dict[str, str]:
        """The headers that mirror the request."""
        name = message["params"].get("taskId") or message["params"].get("name")
        named = {"mcp-name": name} if isinstance(name, str) else {}
        return {"mcp-protocol-version": "2026-07-28", "mcp-method": message["method"], **named}

    async def send(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        capabilities: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The result of a request, its shape checked; `headers` replace the right ones.

        Raises:
            RpcError: It is an error.
        """
        message = self.message(method, params or {}, capabilities)
        found = await self.channel.exchange(message, self.headers(message) if headers is None else headers)
        check_answer(message, found.message)
        return _result(found)

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None, **others: Any) -> dict[str, Any]:
        """The result of a tool; `others` are members of the params, or `capabilities`."""
        capabilities = others.pop("capabilities", None)
        params = {"name": tool, "arguments": dict(arguments or {}), **others}
        return await self.send("tools/call", params, capabilities=capabilities)

    async def start(self, tool: str, arguments: Mapping[str, Any] | None = None) -> str:
        """The id of the task that the call became."""
        created = await self.call(tool, arguments)
        assert created["resultType"] == "task", created
        return created["taskId"]

    async def get(self, task_id: str) -> dict[str, Any]:
        """The task as it is."""
        return await self.send("tasks/get", {"taskId": task_id})

    async def reaches(self, task_id: str, *statuses: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The task once it has one of these statuses, any terminal one if none is named."""
        wanted = statuses or _TERMINAL
        async with asyncio.timeout(seconds):
            while (task := await self.get(task_id))["status"] not in wanted:
                assert task["status"] not in _TERMINAL, task
                await asyncio.sleep(0.02)
        return task

    async def update(self, task_id: str, responses: Mapping[str, Any]) -> dict[str, Any]:
        """The acknowledgement of answers."""
        return await self.send("tasks/update", {"taskId": task_id, "inputResponses": dict(responses)})

    async def cancel(self, task_id: str) -> dict[str, Any]:
        """The acknowledgement of a cancel."""
        return await self.send("tasks/cancel", {"taskId": task_id})

    @asynccontextmanager
    async def listening(self, *task_ids: str, **kinds: Any) -> AsyncGenerator[Listening]:
        """A `subscriptions/listen` stream while the block runs; it has been acknowledged when the block begins."""
        message = self.message("subscriptions/listen", {"notifications": {"taskIds": list(task_ids), **kinds}})
        stream = Listening(self.channel, message)
        request = asyncio.create_task(self.channel.exchange(message, self.headers(message)))
        stream.ended = request
        try:
            stream.acknowledged = await stream.first()
            yield stream
        finally:
            if not request.done():
                if not self.channel.over_http:
                    cancelled = {"requestId": message["id"]}
                    await self.channel.tell(
                        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled}
                    )
                request.cancel()
                await asyncio.gather(request, return_exceptions=True)


class Listening:
    """An open listen stream.

    Attributes:
        acknowledged: Its first message.
        ended: The answer that ends it.
    """

    acknowledged: Message
    ended: asyncio.Task[Answer]

    def __init__(self, channel: Channel, request: Message) -> None:
        self._channel = channel
        self._request = request

    async def first(self) -> Message:
        """The first notification. What a stream before it was still told, and nobody read, is passed over."""
        while True:
            message = await self._channel.next()
            subscription = message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"]
            assert subscription <= self._request["id"]
            if subscription == self._request["id"]:
                check_answer(self._request, message)
                return message

    async def next(self) -> Message:
        """The next notification, its shape and its subscription checked."""
        message = await self._channel.next()
        check_answer(self._request, message)
        assert message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == self._request["id"]
        return message

    async def reaches(self, task_id: str, status: str) -> Message:
        """The params of the notification in which the task has that status; all before it are other ones."""
        while True:
            message = await self.next()
            assert message["method"] == "notifications/tasks"
            if (message["params"]["taskId"], message["params"]["status"]) == (task_id, status):
                return message["params"]


class Legacy:
    """A client of 2025-11-25; `connected` does the handshake."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.server: dict[str, Any] = {}
        self._headers = {"mcp-protocol-version": "2025-11-25"}

    async def connect(self, capabilities: Mapping[str, Any] | None = None) -> Legacy:
        """Do the handshake."""
        params: dict[str, Any] = {
            "protocolVersion": "2025-11-25",
            "capabilities": {"elicitation": {}, "sampling": {}} if capabilities is None else capabilities,
            "clientInfo": {"name": "raw", "version": "1"},
        }
        message: Message = {"jsonrpc": "2.0", "id": next(_ids), "method": "initialize", "params": params}
        found = await self.channel.exchange(message)
        self.server = _result(found)
        assert self.server["protocolVersion"] == "2025-11-25"
        if "mcp-session-id" in found.headers:
            self._headers["mcp-session-id"] = found.headers["mcp-session-id"]
        await self.channel.tell({"jsonrpc": "2.0", "method": "notifications/initialized"}, self._headers)
        return self

    async def send(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The result of a request.

        Raises:
            RpcError: It is an error.
        """
        message = {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": dict(params or {})}
        return _result(await self.channel.exchange(message, self._headers))

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None, **others: Any) -> dict[str, Any]:
        """The result of a tool; `task={}` asks for a task."""
        return await self.send("tools/call", {"name": tool, "arguments": dict(arguments or {}), **others})

    async def start(self, tool: str, arguments: Mapping[str, Any] | None = None, **task: Any) -> str:
        """The id of the task that the call became; `task` are its wishes (`ttl`)."""
        created = await self.call(tool, arguments, task=task)
        assert set(created) - {"_meta"} == {"task"}, created
        return created["task"]["taskId"]

    async def reaches(self, task_id: str, *statuses: str) -> dict[str, Any]:
        """The task once it has one of these statuses."""
        async with asyncio.timeout(PATIENCE):
            while (task := await self.send("tasks/get", {"taskId": task_id}))["status"] not in statuses:
                await asyncio.sleep(0.02)
        return task

    async def respond(self, request: Message, result: Mapping[str, Any]) -> None:
        """Answer a request of the server."""
        await self.channel.tell({"jsonrpc": "2.0", "id": request["id"], "result": dict(result)}, self._headers)

    async def refuse(self, request: Message, error: Mapping[str, Any]) -> None:
        """Answer a request of the server with an error."""
        await self.channel.tell({"jsonrpc": "2.0", "id": request["id"], "error": dict(error)}, self._headers)
