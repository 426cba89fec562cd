"""Child processes: started in groups of their own, measured, and ended with certainty."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.wire import Call, envelope

__all__ = ["ROOT", "START_SECONDS", "BenchmarkError", "Child", "end_all", "free_port", "load", "wait_until_serving"]

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0


class BenchmarkError(Exception):
    """Something that is measured did not do what the measurement needs; the message ends with what it wrote."""


def free_port() -> int:
    """A loopback port that nobody uses now, and that no outgoing connection is given while a server restarts."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


_running: set[subprocess.Popen[bytes]] = set()
_ended = threading.Event()


def _started(popen: subprocess.Popen[bytes]) -> None:
    _running.add(popen)
    if _ended.is_set():
        end_all()
        raise BenchmarkError("the run was stopped")


def end_all() -> None:
    """Kill every process that is still running, and refuse new ones: the run is over, perhaps by Ctrl-C."""
    _ended.set()
    for popen in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)


class Child:
    """A process with its process group. What it writes to stderr goes to a file, for the message when it fails."""

    def __init__(
        self, command: Sequence[str], *, folder: Path, env: Mapping[str, str] | None = None, pipes: bool = False
    ) -> None:
        self.log = folder / f"stderr-{time.monotonic_ns()}.log"
        with self.log.open("wb") as stderr:
            self.popen = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **(env or {})},
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        _started(self.popen)

    def tail(self) -> str:
        """The end of what it wrote to stderr."""
        return self.log.read_text(errors="replace")[-1500:]

    def signal(self, number: int) -> None:
        """Send a signal to its group, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def kill(self) -> None:
        """`kill -9` of its group, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.popen.wait(10)
        _running.discard(self.popen)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def processes(self) -> list[psutil.Process]:
        """It and what it started."""
        process = psutil.Process(self.popen.pid)
        return [process, *process.children(recursive=True)]

    def resident_bytes(self) -> int:
        """Resident memory of it and what it started."""
        return sum(process.memory_info().rss for process in self.processes())

    def cpu_seconds(self) -> float:
        """Processor time so far, of it and what it started."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(each.user + each.system for each in times)


def wait_until_serving(child: Child, port: int) -> None:
    """Return once the server answers `tools/list`.

    Raises:
        BenchmarkError: It ended, or did not answer in time.
    """
    body = json.dumps(envelope(Call(method="tools/list"))).encode()
    head = (
        f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        "accept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\n"
        f"mcp-method: tools/list\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    answer = b""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if child.popen.poll() is not None:
            raise BenchmarkError(f"the server ended with {child.popen.returncode}: {child.tail()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(5)
            connection.sendall(head + body)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
            if answer.startswith(b"HTTP/1.1 200") and b'"tools"' in answer:
                return
        time.sleep(0.02)
    raise BenchmarkError(f"no tools/list in {START_SECONDS:.0f} s ({answer[:300]!r}): {child.tail()}")


def load(order: Mapping[str, Any], limit: float = 60.0) -> dict[str, Any]:
    """Have the load client do one order, in a process of its own, within `limit` seconds.

    Raises:
        BenchmarkError: It failed or took longer.
    """
    popen = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _started(popen)
        out, err = popen.communicate(json.dumps(order).encode(), limit)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"the load client did not end within {limit:.0f} s") from error
    finally:
        if popen.poll() is None:
            popen.kill()
            popen.communicate()
        _running.discard(popen)
    if popen.returncode:
        raise BenchmarkError(f"the load client failed: {err.decode(errors='replace')[-1500:]}")
    return json.loads(out)
