"""Who is measured, and how each is started: over HTTP or stdio, in a folder of its own that a restart finds again."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.listing import first_listing
from benchmarks.processes import BenchmarkError, Child, free_port, load, wait_until_serving

__all__ = ["Contestant", "Floor", "Raincheck", "Rival", "Server", "listing_seconds", "rival_python"]

HERE = Path(__file__).resolve().parent
SERVERS = HERE / "servers"

BENCH_TOML = """\
[server]
name = "bench"
[state]
provider = "sqlite"
url = "tasks.db"
{execution}
[operations.noop]
kind = "python"
target = "bench_operations:noop"
description = "Do nothing."
mode = "task"
[operations.nap]
kind = "python"
target = "bench_operations:nap"
description = "Sleep."
mode = "task"
on_worker_lost = "retry"
"""


class Contestant:
    """How to start one contestant.

    Attributes:
        key: Its short name.
        title: Its column in the results.
        dialect: How a client talks to it (`benchmarks.dialects`).
        durable: Whether what it acknowledged is meant to survive its process.
    """

    key = ""
    title = ""
    dialect = ""
    durable = False

    def command(self, folder: Path, port: int | None, concurrency: int | None) -> Sequence[str]:
        """The command that serves on `port`, or on stdio where it is None; files it needs are put into `folder`."""
        raise NotImplementedError

    def environment(self, concurrency: int | None) -> dict[str, str]:
        """Its environment variables beside the inherited ones."""
        return {}

    @contextlib.contextmanager
    def backing(self, folder: Path) -> Generator[None]:
        """What must run beside it."""
        yield

    def server(self, concurrency: int | None = None) -> Server:
        """A server of it over HTTP, running inside `with`; None is its default concurrency."""
        return Server(self, concurrency)


class Server:
    """One contestant serving over HTTP. Inside `with` it runs; it can be ended and started again on what it left."""

    def __init__(self, contestant: Contestant, concurrency: int | None = None) -> None:
        self.contestant = contestant
        self.port = free_port()
        self._concurrency = concurrency
        self._stack = contextlib.ExitStack()
        self.child: Child

    def __enter__(self) -> Server:
        try:
            self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            self._stack.enter_context(self.contestant.backing(self.folder))
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = self.contestant.command(self.folder, self.port, self._concurrency)
        self.child = Child(command, folder=self.folder, env=self.contestant.environment(self._concurrency))
        self._stack.callback(self.child.kill)
        wait_until_serving(self.child, self.port)

    def load(self, limit: float = 60.0, **order: Any) -> dict[str, Any]:
        """Have the load client do one order on it."""
        try:
            return load({"dialect": self.contestant.dialect, "port": self.port, **order}, limit)
        except BenchmarkError as error:
            raise BenchmarkError(f"{self.contestant.title}: {error}; server: {self.child.tail()}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class Floor(Contestant):
    """The official SDK with a no-op tool."""

    key = "floor"
    title = "floor"
    dialect = "floor"

    def command(self, folder: Path, port: int | None, concurrency: int | None) -> Sequence[str]:
        return [sys.executable, str(SERVERS / "floor.py"), "stdio" if port is None else str(port)]


class Rival(Contestant):
    """FastMCP with fastmcp-tasks, in memory or on a Redis with an append-only file."""

    dialect = "tasks-extension"

    def __init__(self, python: str, redis: str | None = None) -> None:
        self._python = python
        self._redis = redis
        self._redis_port = free_port() if redis else 0
        self.key = "rival-redis" if redis else "rival-memory"
        self.title = "rival, Redis" if redis else "rival, memory"
        self.durable = bool(redis)

    def command(self, folder: Path, port: int | None, concurrency: int | None) -> Sequence[str]:
        return [self._python, str(SERVERS / "rival.py"), "stdio" if port is None else str(port)]

    def environment(self, concurrency: int | None) -> dict[str, str]:
        url = f"redis://127.0.0.1:{self._redis_port}/0" if self._redis else "memory://"
        chosen = {} if concurrency is None else {"FASTMCP_DOCKET_CONCURRENCY": str(concurrency)}
        if concurrency and self._redis:
            # Its pool of connections is smaller than its concurrency may be, and it fails when they run out.
            url += f"?max_connections={4 * concurrency}"
        return {"FASTMCP_DOCKET_URL": url, "FASTMCP_CHECK_FOR_UPDATES": "off", **chosen}

    @contextlib.contextmanager
    def backing(self, folder: Path) -> Generator[None]:
        if self._redis is None:
            yield
            return
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        command = [self._redis, "--port", str(self._redis_port), "--dir", str(folder), *options]
        child = Child(command, folder=folder)
        try:
            _wait_for_port(child, self._redis_port)
            yield
        finally:
            child.kill()


class Raincheck(Contestant):
    """raincheck with the SQLite store, as it comes: durable with every acknowledgement."""

    key = "raincheck"
    title = "raincheck"
    dialect = "handle-tools"
    durable = True

    def command(self, folder: Path, port: int | None, concurrency: int | None) -> Sequence[str]:
        execution = "" if concurrency is None else f"[execution]\nmax_concurrency = {concurrency}"
        (folder / "bench.toml").write_text(BENCH_TOML.format(execution=execution))
        shutil.copy(SERVERS / "bench_operations.py", folder)
        serve = [sys.executable, "-m", "raincheck", "serve", "bench.toml"]
        if port is None:
            return [*serve, "--transport", "stdio"]
        return [*serve, "--transport", "streamable-http", "--host", "127.0.0.1", "--port", str(port)]


def listing_seconds(contestant: Contestant) -> float:
    """Seconds from the start of its process on stdio to the whole answer to the first `tools/list`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contestant.backing(Path(name)):
        folder = Path(name)
        command = contestant.command(folder, None, None)
        return first_listing(command, folder, env=contestant.environment(None)).wall


def rival_python(progress: Any) -> str:
    """The rival's own environment, made at first use; the path of its Python."""
    folder = HERE / ".venv-rival"
    python = folder / "bin" / "python"
    wanted = (HERE / "rival-requirements.txt").read_text()
    stamp = folder / "installed.txt"
    if not (stamp.exists() and stamp.read_text() == wanted):
        progress("making the rival's environment (once)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=120)
        install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", "rival-requirements.txt"]
        done = subprocess.run([str(python), *install], cwd=HERE, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise BenchmarkError(f"the rival could not be installed: {done.stderr[-1000:]}")
        stamp.write_text(wanted)
    return str(python)


def _wait_for_port(child: Child, port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end and child.popen.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise BenchmarkError(f"redis-server does not answer: {child.tail()}")
