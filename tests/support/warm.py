"""Starts the Pythons of the tests in the twentieth part of the time.

A server imports the MCP SDK for two seconds of a core, and the tests start hundreds of servers. So each pytest process
keeps one Python that has imported it all and does nothing else (warm_process.py), and `python -m raincheck …` and
`python SCRIPT …` are forks of it: processes of their own, children of the pytest process, with their own arguments,
folder, environment, pipes and session; they are waited for, killed and frozen like any other. What Python reads from
its environment as it starts is the same by construction: another start is a cold one, as is `python -c`.

A fork differs in what it had imported, in its memory, and in what /proc says of its command and environment. Tests
about those are marked `cold`. So are the tests of the command line's first words; and what a demo, a foreign client or
a script starts is not started by the tests and always cold.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["WARM_STARTS", "WarmStarts"]

_PROGRAM = Path(__file__).with_name("warm_process.py")
_TESTS = Path(__file__).parents[1]
_PR_SET_CHILD_SUBREAPER = 36
_SEARCH = "PYTHONPATH"
# Read by the interpreter, the loader or the C library as a process starts: too late in a fork.
_EARLY = ("PYTHON", "PYDANTIC", "LD_", "LC_", "LANG", "MALLOC_")
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
# What a fork does not do; with any other value the start is a cold one.
_PLAIN = {
    "executable": None,
    "preexec_fn": None,
    "close_fds": True,
    "pass_fds": (),
    "shell": False,
    "gid": None,
    "gids": None,
    "uid": None,
    "umask": -1,
    "process_group": -1,
}


class WarmStarts:
    """In the place of `Popen._execute_child`, through which asyncio and the MCP SDK start processes, too.

    Attributes:
        allowed: Whether the test that runs takes warm starts.
    """

    def __init__(self) -> None:
        self.allowed = False
        self._cold: Callable[..., None] | None = None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._asking: socket.socket | None = None
        self._ready = False

    def install(self) -> None:
        """From now on, warm starts where they are allowed; on Linux alone.

        The process that they are forks of imports meanwhile: a test that had to wait for it would stand still.
        """
        if not sys.platform.startswith("linux"):
            return
        cold: Any = getattr(subprocess.Popen, "_execute_child")  # noqa: B009
        names = cold.__code__.co_varnames[1 : cold.__code__.co_argcount]
        self._cold = cold

        def execute(popen: Any, *values: Any) -> None:
            asked = dict(zip(names, values, strict=True))
            start = _warm(asked) if self.allowed else None
            if start is None:
                cold(popen, *values)
                return
            popen.pid = self._start(start, asked)
            popen._child_created = True
            popen._close_pipe_fds(*(asked[name] for name in _PIPES))

        self._keep()
        setattr(subprocess.Popen, "_execute_child", execute)  # noqa: B010

    def uninstall(self) -> None:
        """Processes are started as ever; the one that was kept ends."""
        if self._cold is not None:
            setattr(subprocess.Popen, "_execute_child", self._cold)  # noqa: B010
            self._cold = None
        if self._asking is not None and self._process is not None:
            self._asking.close()
            self._process.kill()
            self._process.wait()
            self._asking = self._process = None

    def _start(self, start: Mapping[str, Any], asked: Mapping[str, Any]) -> int:
        pipes = (asked["p2cread"], asked["c2pwrite"], asked["errwrite"])
        descriptors = [number if pipe == -1 else pipe for number, pipe in enumerate(pipes)]
        asking = self._asking
        assert asking is not None
        with self._lock:
            if not self._ready:
                assert asking.recv(32) == b"ready", "the process that warm starts are forks of does not start"
                self._ready = True
            with _reaping_orphans():
                socket.send_fds(asking, [json.dumps(start).encode()], descriptors)
                answer = asking.recv(32)
        assert answer, "the process that warm starts are forks of has ended"
        return int(answer)

    def _keep(self) -> None:
        self._asking, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd="/",
            )


WARM_STARTS = pytest.StashKey[WarmStarts]()
"""Where pytest keeps this process's."""


def _warm(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the fork is told to be, None where only a cold start will do."""
    command: list[str] = [os.fspath(each) for each in asked["args"]]
    environment: dict[str, str] = dict(os.environ if asked["env"] is None else asked["env"])
    folder = os.fspath(asked["cwd"] or os.getcwd())
    fits = (
        all(asked[name] == value for name, value in _PLAIN.items())
        and len(command) > 1
        and command[0] == sys.executable
        and (command[1:3] == ["-m", "raincheck"] or _is_ours(command[1]))
        and _early(environment) == _early(os.environ)
        and os.path.isdir(folder)
    )
    if not fits:
        return None
    return {
        "arguments": command[1:],
        "folder": folder,
        "environment": environment,
        "search": list(filter(None, environment.get(_SEARCH, "").split(os.pathsep))),
        "session": asked["start_new_session"],
        "interruptible": signal.getsignal(signal.SIGINT) is not signal.SIG_IGN,
    }


def _is_ours(script: str) -> bool:
    return script.endswith(".py") and Path(script).is_relative_to(_TESTS)


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_EARLY) and name != _SEARCH}


@contextmanager
def _reaping_orphans() -> Generator[None]:
    """Whoever loses its parent in the block becomes a child of this process."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
