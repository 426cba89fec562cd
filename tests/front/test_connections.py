"""Connections that send nothing, half of something, or take nothing: others are served, and nothing of it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
from front.wire import call, head, of_call, wired

from raincheck.runtime.health import Health, answering
from support.serving import HttpServer, Workplace, calling

FUNCTIONS = """
def say(word: str) -> str:
    return word
"""
TOML = """
[operations.say]
kind = "python"
target = "ops:say"
mode = "inline"
"""
HALF = b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\nx-more: "


def place(folder: Path, server: str = "") -> Workplace:
    return Workplace(folder, f"[server]\n{server}\n{TOML}", FUNCTIONS)


async def spoken_to(server: HttpServer, seconds: float = 15.0) -> None:
    """A new caller is answered."""
    async with asyncio.timeout(seconds), calling(server.port) as caller:
        assert len((await caller.request("tools/list", {}))["tools"]) > 1


@contextmanager
def soft_limit(descriptors: int) -> Generator[None]:
    """Processes that are started meanwhile may open so many, unless they ask for more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connections(server: HttpServer) -> int:
    return sum(each.status == "ESTABLISHED" for each in psutil.Process(server.pid).net_connections("tcp"))


async def test_half_requests_beyond_the_usual_limit_lock_nobody_out(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        with soft_limit(128):
            server = await stack.enter_async_context(place(tmp_path).http())
        await stack.enter_async_context(wired(server.port, *[HALF] * 200))
        await spoken_to(server)
        assert len(server.log) < 4000


async def test_out_of_descriptors_is_one_line_and_over_when_there_are_some_again(tmp_path: Path) -> None:
    async with place(tmp_path).http() as server:
        process = psutil.Process(server.pid)
        most = process.num_fds() + 10
        process.rlimit(psutil.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        async with wired(server.port, *[b""] * 60):
            async with asyncio.timeout(20):
                while "cannot accept connections" not in server.log:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(2.5)  # It tries again every second.
            assert server.log.count("cannot accept connections") == 1
            assert len(server.log) < 4000, server.log[-1000:]
        await spoken_to(server)


async def test_a_new_connection_takes_the_place_of_one_that_shows_nothing(tmp_path: Path) -> None:
    bounds = "max_connections = 30\nmax_connections_per_address = 30"
    async with place(tmp_path, bounds).http() as server:
        slow = head("/mcp", *of_call("say"), "content-length: 200") + b"{"
        async with wired(server.port, slow) as (working,):
            await spoken_to(server)  # By then its head was read.
            async with wired(server.port, *[HALF, b""] * 40):
                await spoken_to(server)
                async with asyncio.timeout(15):
                    while connections(server) > 30:
                        await asyncio.sleep(0.1)
            # The one with a request under way kept its place.
            working.writer.write(b" " * 199)
            assert (await working.answer()).status == 400
        async with wired(server.port, *[slow] * 30):
            async with asyncio.timeout(20):
                while connections(server) < 30:
                    await asyncio.sleep(0.05)
            async with wired(server.port, b"") as (refused,):
                assert (await refused.ended()).startswith(b"HTTP/1.1 503 ")


async def test_heads_and_bodies_that_do_not_come_are_given_up(tmp_path: Path) -> None:
    bounds = "head_timeout_seconds = 1\nbody_timeout_seconds = 1"
    async with place(tmp_path, bounds).http() as server:
        body = head("/mcp", *of_call("say"), "content-length: 200") + b"{"
        legacy = head("/mcp", "content-type: application/json", "content-length: 200") + b"{"
        done = call("say", {"word": "hi"})
        async with wired(server.port, HALF, b"", body, legacy, done + HALF) as wires:
            assert (await wires[4].answer()).status == 200
            silent, *others = [await wire.ended() for wire in (wires[1], wires[0], *wires[2:])]
            assert silent == b""
            assert [each[:13] for each in others] == [b"HTTP/1.1 408 "] * 4
        async with wired(server.port, body) as (dripping,):
            ending = asyncio.create_task(dripping.ended())
            while not ending.done():
                dripping.writer.write(b" ")
                await asyncio.sleep(0.1)
            await ending
        await spoken_to(server)
        assert "Traceback" not in server.log


async def test_who_takes_nothing_of_the_answers_is_left(tmp_path: Path) -> None:
    async with place(tmp_path, "write_timeout_seconds = 1").http() as server:
        loop, request = asyncio.get_running_loop(), call("say", {"word": "x" * 60_000})
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await loop.sock_connect(deaf, ("127.0.0.1", server.port))
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(30):
                while True:
                    await loop.sock_sendall(deaf, request)
        deaf.close()
        await spoken_to(server)


async def test_idle_connections_do_not_make_a_worker_look_dead() -> None:
    probe = head("/healthz", method="GET")
    async with answering(Health(), "127.0.0.1", 0) as port, wired(port, *[b""] * 80), wired(port, probe) as (asking,):
        assert (await asking.answer()).status == 200


async def test_lines_that_strangers_cause_are_few(tmp_path: Path) -> None:
    async with place(tmp_path).http() as server:
        for _ in range(40):
            async with wired(server.port, b"nonsense\r\n\r\n") as (wire,):
                assert (await wire.answer()).status == 400
        for host in range(40):
            async with wired(server.port, head("/mcp", "content-length: 5", host=f"h{host}.example.com")) as (wire,):
                assert (await wire.answer()).status == 421
        # Those that hang up within their body.
        for first in (head("/mcp", *of_call("say"), "content-length: 200"), head("/mcp", "content-length: 200")):
            for _ in range(10):
                async with wired(server.port, first + b"{"):
                    await asyncio.sleep(0.02)
        await spoken_to(server)
        assert server.log.count("Invalid HTTP request") <= 5
        assert server.log.count("more of this kind") == 1
        assert "Traceback" not in server.log
        assert len(server.log) < 4000
