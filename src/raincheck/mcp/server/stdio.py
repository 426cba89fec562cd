"""MCP over this process's stdin and stdout, reserved for it."""

from __future__ import annotations

import os
from io import TextIOWrapper
from typing import Any, BinaryIO, NamedTuple

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.stdio import stdio_server


class Wire(NamedTuple):
    """The client's ends of stdin and stdout, on file descriptors of their own."""

    stdin: BinaryIO
    stdout: TextIOWrapper


def take_wire() -> Wire:
    """Take stdin and stdout for MCP, for the rest of the process's life.

    From now on file descriptor 0 is at its end and 1 is stderr: what a module prints when it is imported, or a task
    while the server starts or drains, misses the wire. The SDK's own diversion holds only while it serves.

    Raises:
        OSError: One of them is closed.
    """
    for taken in (0, 1):
        os.fstat(taken)
    # Where stderr is closed this becomes file descriptor 2, and stays.
    nothing = os.open(os.devnull, os.O_RDWR)
    stdin, stdout = os.dup(0), os.dup(1)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    if nothing > 2:
        os.close(nothing)
    # A thread may still be blocked in a read when the process ends, so they are never closed.
    return Wire(
        os.fdopen(stdin, "rb", closefd=False),
        TextIOWrapper(os.fdopen(stdout, "wb", closefd=False), encoding="utf-8"),
    )


async def run_on(wire: Wire, server: MCPServer[Any]) -> None:
    """Serve until stdin ends."""
    lowlevel = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]  the SDK has no public way with own streams
    # Lines of bytes: of what is no UTF-8 the sender hears (`raincheck.mcp.server.streams`).
    lines: Any = anyio.wrap_file(wire.stdin)
    async with stdio_server(lines, anyio.wrap_file(wire.stdout)) as (read, write):
        await lowlevel.run(read, write, lowlevel.create_initialization_options())
