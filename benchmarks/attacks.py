"""What an attacker costs a server and its other callers: `python -m benchmarks.attacks`.

`raincheck serve` over streamable HTTP with two callers in [server.auth], on its own. Other callers (`ada`) call
at a steady pace, first alone, then under each attack, which comes from a process of its own as well. What counts is the
server's resident memory and the 99th percentile of the other callers' calls.

A row is one function of `ATTACKS`: it raises the attack, says `up()`, and keeps it up until it is cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.processes import ROOT, BenchmarkError, Child, end_all, free_port
from benchmarks.wire import Call, CallFailed, Connection, http_request

TOKENS: Mapping[str, str] = {"ada": "ada-" + "a" * 40, "mallory": "mallory-" + "m" * 40}
"""The callers that the server knows: the others, and an attacker who has an account."""

CONFIG = """\
[server]
name = "attacked"
transport = "streamable-http"
public_url = "http://127.0.0.1:{port}"
[server.auth.tokens]
ada = "${{ADA}}"
mallory = "${{MALLORY}}"
[state]
provider = "sqlite"
url = "{folder}/tasks.db"
[operations.noop]
kind = "python"
target = "attacked:noop"
description = "Nothing."
mode = "inline"
[operations.large]
kind = "python"
target = "attacked:large"
description = "A large result."
mode = "task"
max_result_bytes = 16777216
"""
OPERATIONS = """\
async def noop() -> str:
    return "done"


async def large(megabytes: int) -> str:
    return "x" * (megabytes * 1024 * 1024 - 1024)
"""

_INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "mallory", "version": "1"},
    },
}

CALLERS = 8
PAUSE_SECONDS = 0.02
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The server under attack, and the token of the attacker who has one."""

    port: int
    token: str

    async def hold(self, number: int, first: bytes) -> None:
        """Keep so many connections open on which that was sent; those that the server ends are opened again."""

        async def one() -> None:
            while True:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.write(first)
                    try:
                        while await reader.read(65536):
                            pass
                    finally:
                        writer.close()
                await asyncio.sleep(0.5)

        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(one())

    async def repeat(self, number: int, head: bytes, body_bytes: int) -> None:
        """Keep so many requests with large bodies under way; what the server answers is not looked at."""
        piece = b" " * 65536

        async def one() -> None:
            while True:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    try:
                        writer.write(head)
                        for _ in range(body_bytes // len(piece)):
                            writer.write(piece)
                            await writer.drain()
                        await reader.read(65536)
                    finally:
                        writer.close()
                await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(one())


def _head(target: Target, more: str) -> bytes:
    """The beginning of a request's head, by the caller with a token."""
    return (
        f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{target.port}\r\ncontent-type: application/json\r\n"
        f"accept: application/json, text/event-stream\r\nauthorization: Bearer {target.token}\r\n{more}"
    ).encode()


Attack = Callable[[Target, Callable[[], None]], Awaitable[None]]


async def idle(target: Target, up: Callable[[], None]) -> None:
    """1,000 connections that send nothing, and 200 that send half a head."""
    half = b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nx-more: "
    async with asyncio.TaskGroup() as group:
        group.create_task(target.hold(1000, b""))
        group.create_task(target.hold(200, half))
        await asyncio.sleep(2)
        up()


async def callback_bodies(target: Target, up: Callable[[], None]) -> None:
    """40 callers of /callbacks/ without a token that is known, each with a body of 16 MiB."""
    head = (
        f"POST /callbacks/{'x' * 43} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {16 * MEBIBYTE}\r\n\r\n"
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(target.repeat(40, head.encode(), 16 * MEBIBYTE))
        await asyncio.sleep(2)
        up()


async def large_bodies(target: Target, up: Callable[[], None]) -> None:
    """40 calls of 4 MiB by a caller with a token."""
    head = http_request(Call(method="tools/list"), target.port, target.token).split(b"content-length:")[0]
    head += f"content-length: {4 * MEBIBYTE}\r\n\r\n".encode()
    async with asyncio.TaskGroup() as group:
        group.create_task(target.repeat(40, head, 4 * MEBIBYTE))
        await asyncio.sleep(2)
        up()


async def sessions(target: Target, up: Callable[[], None]) -> None:
    """10,000 sessions that a caller with a token opened and never ended, 20 at a time; and it goes on."""
    await _open_sessions(target, 10_000, up)


async def opening(target: Target, up: Callable[[], None]) -> None:
    """The same, from its beginning."""
    await _open_sessions(target, 1, up)


async def _open_sessions(target: Target, number: int, up: Callable[[], None]) -> None:
    opened, body = 0, json.dumps(_INITIALIZE).encode()
    request = _head(target, "") + f"content-length: {len(body)}\r\n\r\n".encode() + body

    async def one() -> None:
        nonlocal opened
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
                try:
                    writer.write(request)
                    await reader.read(65536)
                finally:
                    writer.close()
            opened += 1
            if opened == number:
                up()

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(one())


async def readers(target: Target, up: Callable[[], None]) -> None:
    """30 readers, with a token, of a result of 16 MB, whole and in the largest pages, who take nothing of it."""
    connection = await Connection.open(target.port, target.token)
    begun = Call(method="tools/call", name="large", params={"name": "large", "arguments": {"megabytes": 16}})
    ref = json.loads((await connection.call(begun))["content"][0]["text"])["task_ref"]
    waiting = {"name": "resolve_task_status", "arguments": {"task_ref": ref, "wait_seconds": 20}}
    await connection.call(Call(method="tools/call", name="resolve_task_status", params=waiting))
    uri = f"raincheck://tasks/{ref}/result"
    wanted = [uri, *(f"{uri}?offset={offset}&length={MEBIBYTE}" for offset in range(0, 16 * MEBIBYTE, MEBIBYTE))]
    requests = b"".join(
        http_request(Call(method="resources/read", name=each, params={"uri": each}), target.port, target.token)
        for each in wanted
    )

    async def one() -> None:
        while True:
            with contextlib.suppress(OSError):
                # What nobody takes from the stream it takes from its connection no further than twice its limit.
                _, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=1024)
                writer.write(requests)
                await asyncio.sleep(10)
                writer.transport.abort()

    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(one())
        await asyncio.sleep(3)
        up()


async def all_of_them(target: Target, up: Callable[[], None]) -> None:
    """Those above at once."""
    async with asyncio.TaskGroup() as group:
        for attack in (idle, callback_bodies, large_bodies, sessions, readers):
            group.create_task(_raised(attack, target))
        await asyncio.sleep(3)
        up()


async def _raised(attack: Attack, target: Target) -> None:
    await attack(target, lambda: None)


ATTACKS: Mapping[str, Attack] = {
    "idle": idle,
    "callback bodies": callback_bodies,
    "large bodies": large_bodies,
    "sessions": sessions,
    "opening": opening,
    "readers": readers,
    "all of them": all_of_them,
}


# The measuring side.


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What one row cost: milliseconds and MiB."""

    row: str
    calls: int
    failed: int
    p50_ms: float
    p99_ms: float
    quiet_p99_ms: float
    resident_mib: float
    quiet_resident_mib: float


@contextmanager
def attacked_server() -> Generator[tuple[Child, int]]:
    """A server of its own, and its port."""
    with tempfile.TemporaryDirectory(prefix="attacked-") as name:
        folder, port = Path(name), free_port()
        (folder / "raincheck.toml").write_text(CONFIG.format(folder=folder, port=port))
        (folder / "attacked.py").write_text(OPERATIONS)
        command = [sys.executable, "-m", "raincheck", "serve", "--port", str(port)]
        server = Child(command, folder=folder, env={name.upper(): token for name, token in TOKENS.items()})
        try:
            yield server, port
        finally:
            server.kill()


@contextmanager
def under(row: str, port: int) -> Generator[None]:
    """That attack goes on, from a process of its own, while the block runs."""
    command = [sys.executable, "-m", "benchmarks.attacks", "--attack", row, "--port", str(port)]
    popen = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert popen.stdout is not None
        if popen.stdout.readline() != b"up\n":
            raise BenchmarkError(f"the attack {row!r} could not be raised")
        yield
    finally:
        popen.kill()
        popen.wait(10)


async def _caller(connection: Connection, until: float, taken: list[float]) -> int:
    call, failed = Call(method="tools/call", name="noop", params={"name": "noop", "arguments": {}}), 0
    while time.perf_counter() < until:
        began = time.perf_counter()
        try:
            await connection.call(call)
            taken.append((time.perf_counter() - began) * 1000)
        except (CallFailed, OSError):
            failed += 1
            return failed
        await asyncio.sleep(PAUSE_SECONDS)
    return failed


async def measured(server: Child, port: int, seconds: float) -> tuple[list[float], int, float]:
    """The other callers' calls in milliseconds, how many of them failed, and the largest resident memory in MiB."""
    taken: list[float] = []
    connections = [await Connection.open(port, TOKENS["ada"]) for _ in range(CALLERS)]
    until = time.perf_counter() + seconds
    calling = [asyncio.create_task(_caller(each, until, taken)) for each in connections]
    largest = 0
    while not all(task.done() for task in calling):
        largest = max(largest, server.resident_bytes())
        await asyncio.wait(calling, timeout=0.25)
    for each in connections:
        each.close()
    return taken, sum(task.result() for task in calling), largest / MEBIBYTE


async def _ready(server: Child, port: int) -> None:
    for _ in range(1500):
        if server.popen.poll() is not None:
            raise BenchmarkError(f"the server ended: {server.tail()}")
        with contextlib.suppress(OSError):
            (await Connection.open(port)).close()
            return
        await asyncio.sleep(0.02)
    raise BenchmarkError(f"the server does not listen: {server.tail()}")


def p99(taken: list[float]) -> float:
    """Its 99th percentile."""
    return statistics.quantiles(taken, n=100)[98] if len(taken) > 1 else float("nan")


def measure(row: str, seconds: float) -> Figures:
    """One row, on a server of its own."""
    with attacked_server() as (server, port):
        asyncio.run(_ready(server, port))
        asyncio.run(measured(server, port, 1.0))
        quiet, _, quiet_resident = asyncio.run(measured(server, port, seconds))
        with under(row, port):
            taken, failed, resident = asyncio.run(measured(server, port, seconds))
    return Figures(
        row=row,
        calls=len(taken),
        failed=failed,
        p50_ms=round(statistics.median(taken), 2) if taken else float("nan"),
        p99_ms=round(p99(taken), 2),
        quiet_p99_ms=round(p99(quiet), 2),
        resident_mib=round(resident, 1),
        quiet_resident_mib=round(quiet_resident, 1),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--only", action="append", metavar="ROW", choices=list(ATTACKS), help="one of them")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each row is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--attack", choices=list(ATTACKS), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _up() -> None:
    sys.stdout.write("up\n")
    sys.stdout.flush()


async def _attack(row: str, port: int) -> None:
    """Keep the attack up until the measuring side kills this process or is gone itself."""
    attacking = asyncio.ensure_future(ATTACKS[row](Target(port=port, token=TOKENS["mallory"]), _up))
    gone = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait({attacking, gone}, return_when=asyncio.FIRST_COMPLETED)


def main() -> int:
    """Measure the rows. 0: measured; 1: something could not be."""
    arguments = _arguments()
    if arguments.attack:
        asyncio.run(_attack(arguments.attack, arguments.port))
        return 0
    figures: list[Figures] = []
    try:
        for row in arguments.only or ATTACKS:
            each = measure(row, arguments.seconds)
            figures.append(each)
            print(
                f"{row:16} p99 {each.quiet_p99_ms:8.2f} -> {each.p99_ms:8.2f} ms   resident "
                f"{each.quiet_resident_mib:6.1f} -> {each.resident_mib:6.1f} MiB   "
                f"{each.calls} calls, {each.failed} callers cut off",
                flush=True,
            )
    except BenchmarkError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        end_all()
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in figures], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
