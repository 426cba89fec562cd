"""Callers with a token, over each transport and protocol version, that see every status and every message."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin

import httpx2

from support.serving import PROTOCOL, Caller
from support.waiting import PATIENCE

__all__ = ["FUNCTIONS", "TOML", "LegacyCaller", "ModernCaller", "SseCaller", "bearer", "legacy", "opening", "over_sse"]

TASKS = "io.modelcontextprotocol/tasks"
LEGACY = "2025-11-25"
ACCEPT = {"accept": "application/json, text/event-stream"}
TOML = """
[operations.say]
kind = "python"
target = "ops:say"
description = "Say it again."
mode = "task"

[operations.ask]
kind = "python"
target = "ops:ask"
description = "Ask the user."
mode = "task"
"""
FUNCTIONS = """
from raincheck import TaskContext

def say(word: str) -> str:
    return word

async def ask(context: TaskContext) -> dict:
    return await context.elicit("Go on?", {"type": "object", "properties": {"yes": {"type": "boolean"}}})
"""


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}


def opening(**params: Any) -> dict[str, Any]:
    """An `initialize` request."""
    info = {"name": "tests", "version": "1"}
    plain = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": info}
    return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {**plain, **params}}


class ModernCaller(Caller):
    """Protocol 2026-07-28 over streamable HTTP, with the tasks extension declared for the task methods."""

    def __init__(self, client: httpx2.AsyncClient, url: str, token: str | None) -> None:
        self._client = client
        self._url = url
        self._token = token

    async def send(
        self, method: str, params: Mapping[str, Any], name: str | None = None, *, tasks: bool = False
    ) -> httpx2.Response:
        declared: dict[str, Any] = {"extensions": {TASKS: {}}} if tasks else {}
        meta: dict[str, Any] = {
            "io.modelcontextprotocol/protocolVersion": PROTOCOL,
            "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": declared,
        }
        headers = {**ACCEPT, **bearer(self._token), "mcp-protocol-version": PROTOCOL, "mcp-method": method}
        if name is not None:
            headers["mcp-name"] = name
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        return await self._client.post(self._url, json=message, headers=headers)

    async def request(self, method: str, params: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
        """See `Caller`."""
        return self.result_of((await self.send(method, params, name)).json())

    async def about(self, method: str, task_ref: str, **params: Any) -> dict[str, Any]:
        """The whole answer to a method of the tasks extension."""
        return (await self.send(method, {"taskId": task_ref, **params}, task_ref, tasks=True)).json()

    async def listened(self, task_ref: str) -> list[dict[str, Any]]:
        """Every message of a listen stream about that task, to its end."""
        answer = await self.send("subscriptions/listen", {"notifications": {"taskIds": [task_ref]}}, tasks=True)
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
        return [
            json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:") and line[5:].strip()
        ]


class LegacyCaller:
    """A session of protocol 2025-11-25 over streamable HTTP."""

    def __init__(self, client: httpx2.AsyncClient, url: str, token: str | None) -> None:
        self._client = client
        self._url = url
        self._ids = itertools.count(2)
        self.headers = {**ACCEPT, **bearer(token)}

    async def open(self) -> None:
        answer = await self._client.post(self._url, json=opening(), headers=self.headers)
        assert answer.status_code == 200, answer.text
        self.headers |= {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": LEGACY}
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await self._client.post(self._url, json=initialized, headers=self.headers)).status_code == 202

    async def post(self, method: str, params: Mapping[str, Any], **headers: str) -> httpx2.Response:
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": dict(params)}
        return await self._client.post(self._url, json=message, headers={**self.headers, **headers})

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer, without its id."""
        # A stream, so that the server could ask something before it answers; the answer is its last event.
        lines = (await self.post(method, params)).text.splitlines()
        answer: dict[str, Any] = json.loads([line for line in lines if line.startswith("data: {")][-1][6:])
        return {key: value for key, value in answer.items() if key != "id"}


class SseCaller:
    """A session of protocol 2025-11-25 over SSE."""

    def __init__(self, client: httpx2.AsyncClient, token: str | None) -> None:
        self._client = client
        self._ids = itertools.count(2)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.headers = bearer(token)
        self.endpoint = ""

    async def read(self, response: httpx2.Response, url: str, opened: asyncio.Event) -> None:
        event = ""
        async for line in response.aiter_lines():
            if line.startswith("event:"):
                event = line[6:].strip()
            elif line.startswith("data:") and event == "endpoint":
                self.endpoint = urljoin(url, line[5:].strip())
                opened.set()
            elif line.startswith("data:"):
                message = json.loads(line[5:])
                if (answer := self._answers.pop(message.get("id", 0), None)) is not None:
                    answer.set_result(message)

    async def post(self, message: Mapping[str, Any], **headers: str) -> httpx2.Response:
        return await self._client.post(self.endpoint, json=message, headers={**self.headers, **headers})

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer, without its id."""
        number = 1 if method == "initialize" else next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        answer = self._answers[number]
        sent = await self.post({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        assert sent.status_code == 202, sent.text
        message = await asyncio.wait_for(answer, PATIENCE)
        return {key: value for key, value in message.items() if key != "id"}


@asynccontextmanager
async def legacy(client: httpx2.AsyncClient, url: str, token: str | None) -> AsyncGenerator[LegacyCaller]:
    caller = LegacyCaller(client, url, token)
    await caller.open()
    yield caller


@asynccontextmanager
async def over_sse(client: httpx2.AsyncClient, url: str, token: str | None) -> AsyncGenerator[SseCaller]:
    caller = SseCaller(client, token)
    async with client.stream("GET", url, headers=caller.headers) as response:
        assert response.status_code == 200
        opened = asyncio.Event()
        reading = asyncio.create_task(caller.read(response, url, opened))
        try:
            await asyncio.wait_for(opened.wait(), PATIENCE)
            await caller.ask("initialize", **opening()["params"])
            await caller.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
            yield caller
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
