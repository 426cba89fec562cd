"""Real `raincheck serve` processes in a folder of their own, and callers that speak to them.

The callers are raw on purpose: they cost little beside the server, and see every byte. Requests are those of protocol
2026-07-28, each self-contained; the SDK's own client is in tests/proofs/test_clients.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from support.waiting import PATIENCE

__all__ = [
    "Caller",
    "HttpCaller",
    "HttpServer",
    "Process",
    "Refused",
    "RpcError",
    "StdioServer",
    "Workplace",
    "calling",
]

PROTOCOL = "2026-07-28"
_MARK = "PROOF_MARK"
_START_SECONDS = 60.0
_ADDRESS = re.compile(r"^raincheck: serving on (http://\S+?:(\d+)/\S+)$", re.MULTILINE)


class Refused(Exception):
    """The tool's answer has `isError`: the call was wrong, or a typed tool's operation failed."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(result)[:500])
        structured: dict[str, Any] = result.get("structuredContent") or {}
        self.error: dict[str, Any] = structured.get("error") or {}
        self.code: str | None = self.error.get("code")
        self.message: str = self.error.get("message") or ""


class RpcError(Exception):
    """The answer is a JSON-RPC error, or no JSON-RPC at all."""

    def __init__(self, code: int | None, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Caller:
    """An MCP client's calls of tools, over whatever `request` speaks."""

    async def request(self, method: str, params: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
        """The result of one request.

        Raises:
            RpcError: It is an error.
            OSError: The server went away before it answered.
        """
        raise NotImplementedError

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The structured content of a tool's answer.

        Raises:
            Refused: It has `isError`.
        """
        result = await self.request("tools/call", {"name": tool, "arguments": dict(arguments or {})}, tool)
        if result.get("isError"):
            raise Refused(result)
        structured: dict[str, Any] = result.get("structuredContent") or {}
        return structured

    async def submit(
        self, operation: str, parameters: Mapping[str, Any] | None = None, **others: Any
    ) -> dict[str, Any]:
        """The ticket for an operation, with every member."""
        arguments = {"operation_type": operation, "parameters": dict(parameters or {}), "detail": "full", **others}
        return await self.call("initiate_background_task", arguments)

    async def status(self, task_ref: str, wait_seconds: float = 0) -> dict[str, Any]:
        """The task as it is, or as it is when it ends within `wait_seconds`, with every member."""
        arguments = {"task_ref": task_ref, "wait_seconds": wait_seconds, "detail": "full"}
        return await self.call("resolve_task_status", arguments)

    async def settled(self, task_ref: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The task once it is terminal."""
        until = time.monotonic() + seconds
        while True:
            # The SDK answers with a stream of events what takes longer than fifteen seconds.
            status = await self.status(task_ref, min(10.0, max(0.1, until - time.monotonic())))
            if status["terminal"]:
                return status
            assert time.monotonic() < until, f"not settled within {seconds} s: {status}"

    async def run(self, operation: str, parameters: Mapping[str, Any] | None = None, **others: Any) -> dict[str, Any]:
        """Submit and wait for the end."""
        return await self.settled((await self.submit(operation, parameters, **others))["task_ref"])

    @staticmethod
    def envelope(request_id: int, method: str, params: Mapping[str, Any]) -> bytes:
        """The request on one line."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": PROTOCOL,
            "io.modelcontextprotocol/clientInfo": {"name": "proofs", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, "_meta": meta}}
        return json.dumps(message, separators=(",", ":")).encode()

    @staticmethod
    def result_of(message: Mapping[str, Any]) -> dict[str, Any]:
        """The result in a JSON-RPC answer, or the error raised."""
        if "result" not in message:
            error: dict[str, Any] = message.get("error") or {}
            raise RpcError(error.get("code"), str(error.get("message", message)))
        return message["result"]


_Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpCaller(Caller):
    """Calls over streamable HTTP; keeps as many connections as there are calls at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Pipe] = []

    async def connect(self, connections: int) -> None:
        """Open so many connections now, so that the first calls need not."""
        self._idle += await asyncio.gather(*(self._open() for _ in range(connections)))

    def _take_idle(self) -> _Pipe | None:
        while self._idle:
            pipe = self._idle.pop()
            if not pipe[0].at_eof():
                return pipe
            pipe[1].close()  # the server had no more patience with it
        return None

    async def _open(self) -> _Pipe:
        return await asyncio.open_connection("127.0.0.1", self._port, limit=2**24)

    async def request(self, method: str, params: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
        """See `Caller`."""
        body = self.envelope(1, method, params)
        pipe = self._take_idle() or await self._open()
        try:
            status, answer = await self._exchange(pipe, body, method, name)
        except BaseException:
            pipe[1].close()
            raise
        self._idle.append(pipe)
        try:
            return self.result_of(json.loads(answer))
        except json.JSONDecodeError:
            raise RpcError(None, f"HTTP {status}: {answer[:300]!r}") from None

    async def _exchange(self, pipe: _Pipe, body: bytes, method: str, name: str | None) -> tuple[int, bytes]:
        reader, writer = pipe
        named = f"mcp-name: {name}\r\n" if name else ""
        head = (
            f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\ncontent-type: application/json\r\n"
            f"accept: application/json, text/event-stream\r\nmcp-protocol-version: {PROTOCOL}\r\n"
            f"mcp-method: {method}\r\n{named}content-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        try:
            headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"content-length: (\d+)", headers)
            if length is None:
                raise RpcError(None, f"HTTP {headers[9:12]} without a length")
            return int(headers[9:12]), await reader.readexactly(int(length[1]))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the server went away before it answered") from error

    async def close(self) -> None:
        """Close every connection."""
        for _, writer in self._idle:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self._idle.clear()


class Process:
    """A child process with its process group; its stderr is a file, `log`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, mark: str) -> None:
        self._process = process
        self._log = log
        self._mark = mark

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def rss(self) -> int:
        """Its resident memory in bytes."""
        return psutil.Process(self.pid).memory_info().rss

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        """`kill -9`, and wait until it is dead."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def exited(self, seconds: float = PATIENCE) -> int:
        """Its exit code."""
        try:
            return await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            raise AssertionError(f"still running after {seconds} s; it wrote:\n{self.log[-2000:]}") from None

    def left_behind(self) -> list[str]:
        """Every process that it started, directly or not, and that still runs; itself included."""
        found: list[str] = []
        # What /proc says of a warm start's environment is not its own.
        itself = [psutil.Process(self.pid)] if psutil.pid_exists(self.pid) and self._process.returncode is None else []
        for process in {*_living(itself), *_marked(self._mark)}:
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return found

    async def end(self) -> None:
        """Make sure that it and whatever it started is gone."""
        await self.kill()
        for process in _marked(self._mark):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        # A descendant may have held a pipe open; without this the transport would be collected unclosed.
        transport: Any = getattr(self._process, "_transport")  # noqa: B009
        transport.close()


def _json_rpc(line: bytes) -> dict[str, Any] | None:
    try:
        message: Any = json.loads(line)
        return message if message["jsonrpc"] == "2.0" and ("id" in message or "method" in message) else None
    except (ValueError, TypeError, KeyError):
        return None


def _marked(mark: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_MARK) == mark:
                found.append(process)
    return _living(found)


def _living(processes: list[psutil.Process]) -> list[psutil.Process]:
    living: list[psutil.Process] = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living


class HttpServer(Process):
    """A server on streamable HTTP or SSE."""

    url: str = ""
    port: int = 0

    async def listening(self) -> None:
        until = time.monotonic() + _START_SECONDS
        while (found := _ADDRESS.search(self.log)) is None:
            if self._process.returncode is not None or time.monotonic() > until:
                raise AssertionError(f"did not start ({self._process.returncode}); it wrote:\n{self.log[-3000:]}")
            await asyncio.sleep(0.01)
        self.url, self.port = found[1], int(found[2])


class StdioServer(Process, Caller):
    """A server on stdio, and its caller.

    Attributes:
        lines: Every line that it wrote to stdout.
        stray: Those that are no JSON-RPC message.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path, mark: str) -> None:
        super().__init__(process, log, mark)
        self.lines: list[bytes] = []
        self.stray: list[bytes] = []
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())

    async def request(self, method: str, params: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
        """See `Caller`."""
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self.write(self.envelope(number, method, params) + b"\n")
        return self.result_of(await answer)

    def write(self, data: bytes) -> None:
        """Write to its stdin."""
        if self._reader.done():
            raise ConnectionResetError("the server is gone")
        assert self._process.stdin is not None
        self._process.stdin.write(data)

    def close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def hang_up(self) -> None:
        """Close both pipes at once, as the death of the client does."""
        self.close_stdin()
        transport: Any = getattr(self._process, "_transport")  # noqa: B009
        transport.get_pipe_transport(1).close()

    async def drained(self) -> None:
        """Wait until its stdout has ended."""
        await asyncio.wait_for(asyncio.shield(self._reader), PATIENCE)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.lines.append(line)
            message = _json_rpc(line)
            if message is None:
                self.stray.append(line)
            elif (answer := self._waiting.pop(message.get("id", 0), None)) is not None and not answer.done():
                answer.set_result(message)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the server went away before it answered"))
        self._waiting.clear()

    async def end(self) -> None:
        """See `Process`."""
        await super().end()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        for answer in self._waiting.values():
            answer.cancel()


class Workplace:
    """A folder with a raincheck.toml and the Python functions that it names, and its state file.

    Args:
        folder: An empty folder.
        toml: The configuration file.
        functions: The module `ops`.
    """

    def __init__(self, folder: Path, toml: str, functions: str = "") -> None:
        self.folder = folder
        self.database = folder / "state" / "tasks.db"
        self.database.parent.mkdir()
        self.history = folder / "history.jsonl"
        (folder / "raincheck.toml").write_text(toml)
        (folder / "ops.py").write_text(functions)

    def environment(self, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAINCHECK", "PYTEST"))}
        own = {"RAINCHECK_STATE__URL": str(self.database), "HISTORY": str(self.history), _MARK: uuid.uuid4().hex}
        # What children of a server need, and what they are found by.
        # Its tasks are its own, unless a test is about the local worker.
        own["RAINCHECK_EXECUTION__OUTLIVE_CLIENT"] = "false"
        own["RAINCHECK_EXECUTION__INHERIT"] = json.dumps(["HISTORY", _MARK])
        return {**clean, **own, **more}

    @asynccontextmanager
    async def command(self, *arguments: str, env: Mapping[str, str] | None = None) -> AsyncGenerator[Process]:
        """`raincheck …` while the block runs, without stdin and stdout."""
        process, log, mark = await self._start(arguments, env or {}, asyncio.subprocess.DEVNULL)
        running = Process(process, log, mark)
        try:
            yield running
        finally:
            await running.end()

    @asynccontextmanager
    async def http(
        self, *arguments: str, port: int = 0, transport: str = "streamable-http", env: Mapping[str, str] | None = None
    ) -> AsyncGenerator[HttpServer]:
        """`raincheck serve` over HTTP while the block runs; it listens when the block begins."""
        command = ("serve", "--transport", transport, "--port", str(port), *arguments)
        process, log, mark = await self._start(command, env or {}, asyncio.subprocess.DEVNULL)
        server = HttpServer(process, log, mark)
        try:
            await server.listening()
            yield server
        finally:
            await server.end()

    @asynccontextmanager
    async def stdio(self, *arguments: str, env: Mapping[str, str] | None = None) -> AsyncGenerator[StdioServer]:
        """`raincheck serve` on stdio while the block runs."""
        async with self.script("-m", "raincheck", "serve", *arguments, env=env) as server:
            yield server

    @asynccontextmanager
    async def script(self, *arguments: str, env: Mapping[str, str] | None = None) -> AsyncGenerator[StdioServer]:
        """Python with these arguments, an MCP server on stdio, while the block runs."""
        process, log, mark = await self._start(arguments, env or {}, asyncio.subprocess.PIPE, python=True)
        server = StdioServer(process, log, mark)
        try:
            yield server
        finally:
            await server.end()

    @asynccontextmanager
    async def served(self, transport: str, **env: str) -> AsyncGenerator[tuple[Process, Caller]]:
        """A server on "stdio" or "streamable-http", and a caller of it."""
        async with AsyncExitStack() as stack:
            if transport == "stdio":
                server = await stack.enter_async_context(self.stdio(env=env))
                yield server, server
            else:
                over_http = await stack.enter_async_context(self.http(env=env))
                yield over_http, await stack.enter_async_context(calling(over_http.port))

    async def raincheck(self, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """Run `raincheck …` to its end: exit code, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "raincheck", *arguments),
            cwd=self.folder,
            env=self.environment(**(env or {})),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), 60)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def _start(
        self, arguments: tuple[str, ...], env: Mapping[str, str], pipes: int, *, python: bool = False
    ) -> tuple[asyncio.subprocess.Process, Path, str]:
        environment = self.environment(**env)
        log = self.folder / f"stderr-{time.monotonic_ns()}.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *(() if python else ("-m", "raincheck")), *arguments),
                cwd=self.folder,
                env=environment,
                stdin=pipes,
                stdout=pipes,
                stderr=stderr,
                start_new_session=True,
                limit=2**24,
            )
        return process, log, environment[_MARK]


@asynccontextmanager
async def calling(port: int) -> AsyncGenerator[HttpCaller]:
    """A caller while the block runs."""
    caller = HttpCaller(port)
    try:
        yield caller
    finally:
        await caller.close()
