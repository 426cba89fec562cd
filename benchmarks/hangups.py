"""What a storm of clients that hang up costs a server: `python -m benchmarks.hangups`.

`raincheck serve` over streamable HTTP, a process of its own. In each storm every client asks for the status of one
task, to be held for 25 s, and closes its connection after five. Nothing of it may last: connections, memory that grows
from storm to storm, processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.contestants import SERVERS
from benchmarks.processes import Child, end_all, free_port, wait_until_serving
from benchmarks.wire import Call, envelope

CONFIG = """\
[server]
name = "hangups"
[state]
provider = "sqlite"
url = "{url}"
[operations.nap]
kind = "python"
target = "bench_operations:nap"
description = "Sleep."
mode = "task"
timeout_seconds = 3600
"""


def _request(tool: str, arguments: dict[str, object], client: str, port: int) -> bytes:
    message = envelope(Call(method="tools/call", params={"name": tool, "arguments": arguments}))
    message["params"]["_meta"]["io.modelcontextprotocol/clientInfo"] = {"name": client, "version": "1"}
    body = json.dumps(message).encode()
    head = (
        f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"accept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\n"
        f"mcp-method: tools/call\r\nmcp-name: {tool}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _ticket(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    arguments: dict[str, object] = {"operation_type": "nap", "parameters": {"seconds": 3000}}
    writer.write(_request("initiate_background_task", arguments, "storm", port))
    headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(headers.split("content-length: ")[1].split("\r\n")[0])
    answer = json.loads(await reader.readexactly(length))
    writer.close()
    return answer["result"]["structuredContent"]["task_ref"]


async def _leave(port: int, request: bytes, seconds: float) -> bool:
    """Whether it was held until it left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(seconds):
            await reader.read(1)
        return False
    except TimeoutError:
        return True
    finally:
        writer.close()


def _connections(child: Child) -> int:
    return sum(each.status == "ESTABLISHED" for each in child.processes()[0].net_connections("tcp"))


def _line(label: str, child: Child, more: str = "") -> None:
    print(
        f"{label:<28} resident {child.resident_bytes() / 2**20:6.1f} MiB, connections {_connections(child):5}, "
        f"processor {child.cpu_seconds():6.2f} s {more}"
    )


async def _storms(child: Child, port: int, clients: int, storms: int, seconds: float) -> None:
    ref = await _ticket(port)
    _line("before", child)
    for number in range(1, storms + 1):
        # A name of its own for each storm: what was learned of the last one would shorten its holds.
        request = _request("resolve_task_status", {"task_ref": ref, "wait_seconds": 25}, f"storm-{number}", port)
        held = await asyncio.gather(*(_leave(port, request, seconds) for _ in range(clients)))
        left = time.monotonic()
        while _connections(child) and time.monotonic() - left < 30:
            await asyncio.sleep(0.05)
        gone = time.monotonic() - left
        await asyncio.sleep(3)
        _line(f"after storm {number}", child, f"({sum(held)} of {clients} held; gone {gone:.1f} s after they left)")
    busy = child.cpu_seconds()
    await asyncio.sleep(10)
    print(f"processor time in the 10 s afterwards: {child.cpu_seconds() - busy:.2f} s")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--storms", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "raincheck.toml").write_text(CONFIG.format(url=folder / "tasks.db"))
        command = [sys.executable, "-m", "raincheck", "serve", "raincheck.toml"]
        flags = ["--transport", "streamable-http", "--port", str(port)]
        child = Child([*command, *flags], folder=folder, env={"PYTHONPATH": str(SERVERS)})
        try:
            wait_until_serving(child, port)
            asyncio.run(_storms(child, port, options.clients, options.storms, options.seconds))
        finally:
            end_all()


if __name__ == "__main__":
    main()
