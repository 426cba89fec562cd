"""Raw channels to a server: JSON-RPC messages as they stand on the wire, over streamable HTTP and stdio."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import uvicorn
from mcp.server.mcpserver import MCPServer
from spec.operations import make_server

from support.serving import Workplace
from support.waiting import PATIENCE

__all__ = [
    "SCRIPT",
    "Answer",
    "Channel",
    "HttpChannel",
    "Message",
    "StdioChannel",
    "hosted",
    "hosting",
    "http",
    "http_process",
    "served_on_stdio",
    "stdio_process",
]

Message = dict[str, Any]
SCRIPT = Path(__file__).with_name("operations.py")


class Answer(NamedTuple):
    """The answer to one request: the HTTP status (200 on stdio), the headers, the JSON-RPC message."""

    status: int
    headers: Mapping[str, str]
    message: Message


class Channel:
    """One client's way to a server.

    Attributes:
        incoming: The server's requests and notifications, in order of arrival.
    """

    over_http = False

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()

    async def exchange(self, message: Message, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request and give its answer; what else comes goes to `incoming`."""
        raise NotImplementedError

    async def tell(self, message: Message, headers: Mapping[str, str] | None = None) -> None:
        """Send a notification, or the answer to a request of the server."""
        raise NotImplementedError

    async def next(self) -> Message:
        """The next of `incoming`."""
        return await asyncio.wait_for(self.incoming.get(), PATIENCE)


class HttpChannel(Channel):
    """Streamable HTTP; `token` is a bearer token."""

    over_http = True

    def __init__(self, url: str, token: str | None = None) -> None:
        super().__init__()
        self._url = url
        self._http = httpx2.AsyncClient(timeout=PATIENCE, trust_env=False)
        self._own = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
        if token is not None:
            self._own["authorization"] = f"Bearer {token}"

    async def exchange(self, message: Message, headers: Mapping[str, str] | None = None) -> Answer:
        sent = {**self._own, **(headers or {})}
        async with self._http.stream("POST", self._url, content=json.dumps(message), headers=sent) as response:
            found = dict(response.headers)
            if "text/event-stream" not in found.get("content-type", ""):
                text = (await response.aread()).decode()
                try:
                    return Answer(response.status_code, found, json.loads(text))
                except ValueError:
                    raise AssertionError(f"HTTP {response.status_code}: {text[:500]}") from None
            async for line in response.aiter_lines():
                if line.startswith("data:") and (text := line[5:].strip()):
                    incoming: Message = json.loads(text)
                    if "method" not in incoming and incoming.get("id") == message["id"]:
                        return Answer(response.status_code, found, incoming)
                    self.incoming.put_nowait(incoming)
        raise AssertionError("the stream ended without an answer")

    async def tell(self, message: Message, headers: Mapping[str, str] | None = None) -> None:
        response = await self._http.post(
            self._url, content=json.dumps(message), headers={**self._own, **(headers or {})}
        )
        assert response.status_code == 202, response.text

    async def close(self) -> None:
        await self._http.aclose()


class StdioChannel(Channel):
    """The stdin and stdout of a server."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        self._process = process
        self._waiting: dict[Any, asyncio.Future[Message]] = {}
        self._reader = asyncio.create_task(self._read())

    async def exchange(self, message: Message, headers: Mapping[str, str] | None = None) -> Answer:
        answer = self._waiting[message["id"]] = asyncio.get_running_loop().create_future()
        await self.tell(message)
        return Answer(200, {}, await asyncio.wait_for(answer, PATIENCE))

    async def tell(self, message: Message, headers: Mapping[str, str] | None = None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message: Message = json.loads(line)
            waiting = None if "method" in message else self._waiting.pop(message.get("id"), None)
            if waiting is None:
                self.incoming.put_nowait(message)
            elif not waiting.done():
                waiting.set_result(message)

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


@asynccontextmanager
async def hosted(store: Path, **options: Any) -> AsyncGenerator[str]:
    """A server on streamable HTTP in this process while the block runs; its URL."""
    server, _ = make_server(store, **options)
    async with hosting(server) as url:
        yield url


@asynccontextmanager
async def hosting(server: MCPServer[Any]) -> AsyncGenerator[str]:
    """That server on streamable HTTP in this process while the block runs; its URL."""
    config = uvicorn.Config(server.streamable_http_app(), port=0, log_config=None, timeout_graceful_shutdown=1)
    web = uvicorn.Server(config)
    web.capture_signals = contextlib.nullcontext  # pyright: ignore[reportAttributeAccessIssue]
    serving = asyncio.create_task(web.serve())
    try:
        async with asyncio.timeout(PATIENCE):
            while not web.started:
                assert not serving.done(), "the server did not start"
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}/mcp"
    finally:
        web.should_exit = True
        await serving


@asynccontextmanager
async def _process(
    log: Path, *arguments: str, folder: Path | None = None, env: Mapping[str, str] | None = None
) -> AsyncGenerator[asyncio.subprocess.Process]:
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env=env,
            limit=2**24,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        transport: Any = getattr(process, "_transport")  # noqa: B009  its pipes are still open
        transport.close()


@asynccontextmanager
async def http_process(store: Path) -> AsyncGenerator[str]:
    """A server on streamable HTTP in a process of its own, killed (-9) at the end of the block; its URL."""
    log = store.with_suffix(".log")
    async with _process(log, str(SCRIPT), "http", str(store)) as process:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().strip()
        assert url, log.read_text()[-3000:]
        yield url


@asynccontextmanager
async def stdio_process(store: Path) -> AsyncGenerator[StdioChannel]:
    """A channel to a server on stdio, killed (-9) at the end of the block."""
    async with (
        _process(store.with_suffix(".log"), str(SCRIPT), "stdio", str(store)) as process,
        _reading(process) as channel,
    ):
        yield channel


@asynccontextmanager
async def served_on_stdio(place: Workplace) -> AsyncGenerator[StdioChannel]:
    """A channel to `raincheck serve` in that place, killed (-9) at the end of the block."""
    arguments, environment = ("-m", "raincheck", "serve"), place.environment()
    async with (
        _process(place.folder / "serve.log", *arguments, folder=place.folder, env=environment) as process,
        _reading(process) as channel,
    ):
        yield channel


@asynccontextmanager
async def _reading(process: asyncio.subprocess.Process) -> AsyncGenerator[StdioChannel]:
    channel = StdioChannel(process)
    try:
        yield channel
    finally:
        await channel.close()


@asynccontextmanager
async def http(url: str, token: str | None = None) -> AsyncGenerator[HttpChannel]:
    """A channel over streamable HTTP while the block runs."""
    channel = HttpChannel(url, token)
    try:
        yield channel
    finally:
        await channel.close()
