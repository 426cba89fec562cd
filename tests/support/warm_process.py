"""Becomes, again and again, a Python that has imported what a server imports (see warm.py, which starts this program).

`python warm_process.py DESCRIPTOR`: each message on that socket is a Python to start; the answer is its process id.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

MODULES = (
    "mcp.client.stdio",
    "mcp.client.streamable_http",
    "raincheck.cli.main",
    "raincheck.cli.serve",
    "raincheck.cli.worker",
    "raincheck.client",
    "raincheck.composition.adapters",
    "raincheck.engines.docket.engine",
    "raincheck.engines.procrastinate.engine",
    "raincheck.fastmcp",
    "raincheck.mcp.sdk_host",
    "raincheck.mcp.server.http_app",
    "raincheck.mcp.server.serve",
    "raincheck.mcp.server.stdio",
    "raincheck.stores.dynamodb.store",
    "raincheck.stores.postgres.store",
    "raincheck.stores.redis.store",
    "raincheck.stores.sqlite.store",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)


def next_start(asking: socket.socket) -> Mapping[str, Any]:
    """What to be: returns in the new process alone, once for each message. The first process ends with the socket."""
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(asking, 2**20, 3)
        except ConnectionError:
            os._exit(0)
        if not message:
            os._exit(0)
        assert threading.active_count() == 1, threading.enumerate()
        read, write = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child == 0:
                os.close(read)
                os.close(write)
                asking.close()
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                return json.loads(message)
            # Its parent from now on is the pytest process, which is the reaper of orphans for this moment.
            os.write(write, str(child).encode())
            os._exit(0)
        os.close(write)
        os.waitpid(between, 0)
        child_id = os.read(read, 32)
        for descriptor in (read, *descriptors):
            os.close(descriptor)
        asking.send(child_id)


def become(start: Mapping[str, Any]) -> None:
    """Be that Python, up to its program."""
    if start["session"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler if start["interruptible"] else signal.SIG_IGN)
    os.chdir(start["folder"])
    os.environ.clear()
    os.environ.update(start["environment"])
    time.tzset()
    for number, (name, mode) in enumerate((("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb"))):
        stream = stream_like(getattr(sys, name), number, mode)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.orig_argv[:] = [sys.executable, *start["arguments"]]


def stream_like(ours: io.TextIOWrapper, number: int, mode: str) -> io.TextIOWrapper:
    """The same over what the descriptor is now: whether it is a terminal, or has places, is asked once."""
    raw = io.FileIO(number, mode, closefd=False)
    raw.name = ours.name  # pyright: ignore[reportAttributeAccessIssue]
    kind: Any = type(ours.buffer)  # none of its own with PYTHONUNBUFFERED
    buffer = raw if kind is io.FileIO else kind(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=ours.encoding,
        errors=ours.errors,
        line_buffering=not ours.write_through and (number == 2 or raw.isatty()),
        write_through=ours.write_through,
    )


def run(arguments: list[str], search: list[str]) -> None:
    """`python ARGUMENTS`: `-m MODULE …` or `FILE …`."""
    if arguments[0] == "-m":
        sys.path[:1] = [os.getcwd(), *search]
        sys.argv[:] = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[:1] = [os.path.dirname(os.path.realpath(arguments[0])), *search]
        sys.argv[:] = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    for _name in MODULES:
        # Not every environment has every extra.
        with contextlib.suppress(ImportError):
            importlib.import_module(_name)
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as _asking:
        _asking.send(b"ready")
        _start = next_start(_asking)
    become(_start)
    run(_start["arguments"], _start["search"])
