"""What the private servers have in common: a free port, a process, its death and its return."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

__all__ = ["Server", "free_port", "needed"]

_SECONDS = 60.0


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def needed(missing: str | None) -> None:
    """Skip, with one visible line, where a backend is missing on a laptop; fail in CI, which installs what it needs."""
    if missing is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have this backend: {missing}")
    pytest.skip(f"backend not installed: {missing}")


class Server:
    """A server process on a loopback port: started, killed, frozen and started again on the same data.

    Attributes:
        folder: Its data; removed by `close`.
        port: The same over restarts.
        environment: What it has in its environment beside this process's.
    """

    allowed: ClassVar[bool] = True
    """Whether the tests that run may start one: those of `make test` may not."""

    def __init__(self) -> None:
        assert self.allowed, "a test that starts a server waits for `make test-all`: name it in tests/tiers.py"
        self.environment: dict[str, str] = {}
        self.folder = Path(tempfile.mkdtemp(prefix=f"raincheck-{type(self).__name__.lower()}-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for `url` in [state]."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it answers."""
        raise NotImplementedError

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Shut it down in order."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: it takes connections and answers nothing."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its data. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, command: Sequence[str], *, user: str | None = None, cwd: Path | None = None) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=user,
                cwd=cwd,
                env={**os.environ, **self.environment},
            )

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if number is signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)

    def _wait(self, answers: Callable[[], bool]) -> None:
        until = time.monotonic() + _SECONDS
        while not answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{type(self).__name__} does not start:\n{self.log[-3000:]}")
            time.sleep(0.02)

    @property
    def log(self) -> str:
        """What it said."""
        return (self.folder / "server.log").read_text(errors="replace")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
