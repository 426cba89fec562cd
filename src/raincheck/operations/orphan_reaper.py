"""The orphan reaper: ends the child processes of a server that died or lost the lease of their task.

One small process, started before the first child: it holds the reading end of a pipe whose writing end only this
process has. The kernel closes that end when the process dies, however it dies (`kill -9`, a crash, out of memory),
and the orphan reaper then ends every group that was reported to it. A child that was started a moment before, too late
for that, is found by a mark in its environment (where there is a /proc); so is one that left its group. Chosen over
PR_SET_PDEATHSIG, which reaches the direct child alone, is tied to the thread that started it, needs Python code
between fork and exec, and exists on Linux only.

A server may also live and yet have lost its right: frozen alone, or its event loop hung. The orphan reaper is
neither, and ends a group whose lease is over unless it was told of its renewal: SIGTERM a tenth of the lease before its
end, SIGKILL half of that later, so that the group is gone when another worker may start the task again.

The orphan reaper ends when its work is done, and its arguments name the process it guards: a process that takes over a
dead one's tasks sees by it whether children of that process may still run (`reaper_running`).
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from raincheck.operations.environment import INHERITED, INTERPRETER, inherited

_logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("orphan_reaper_main.py")
_MARK = "RAINCHECK_ORPHAN_REAPER"
_NAME = "raincheck-reaper"
_NEVER = float("inf")


class OrphanReaper:
    """The orphan reaper's process and what it watches. Thread-safe; not shared with forked copies of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[int, tuple[float, float]] = {}
        self._ended: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = secrets.token_hex(16)

    @property
    def pid(self) -> int | None:
        """The process id of the orphan reaper, None before the first group."""
        return self._process.pid if self._process else None

    def mark(self) -> dict[str, str]:
        """The variable that the environment of every child must have; starts the orphan reaper if need be."""
        with self._lock:
            self._tell("")
        return {_MARK: self._mark}

    @contextmanager
    def watching(self, group: int) -> Generator[None]:
        """Have this process group ended, SIGTERM first and SIGKILL a second later, if this process dies meanwhile."""
        with self._lock:
            self._watch(group, _NEVER, 0.0)
        try:
            yield
        finally:
            with self._lock:
                self._groups.pop(group, None)
                self._ended.discard(group)
                self._tell(f"forget {group}\n")

    def allow(self, group: int, until: float, grace_seconds: float) -> None:
        """Have a group ended at `until` (`raincheck.timing.clock`), unless a later time is told before; from any
        thread.

        Args:
            grace_seconds: From SIGTERM to SIGKILL.
        """
        with self._lock:
            # Else it has ended meanwhile, and its id is free for another one.
            if group in self._groups:
                self._watch(group, until, grace_seconds)

    def _watch(self, group: int, until: float, grace_seconds: float) -> None:
        self._groups[group] = (until, grace_seconds)
        self._tell(_watch(group, until, grace_seconds))

    def ended(self, group: int) -> bool:
        """Whether the group was ended because its time was over."""
        with self._lock:
            said = self._process.stdout if self._process else None
            with suppress(BlockingIOError, ValueError):
                while said is not None and (data := os.read(said.fileno(), 65536)):
                    self._ended |= {int(line) for line in data.split()} & self._groups.keys()
            return group in self._ended

    def close(self) -> None:
        """End the orphan reaper. What it watches is no longer guarded."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            _close_pipes(process)
            process.wait()

    def _tell(self, line: str) -> None:
        try:
            process = self._process
            if process is None or process.stdin is None or process.poll() is not None:
                self._start()
            elif process.stdin.write(line.encode()) != len(line):
                # It stands still, and has read nothing for long: at the end of its pipe it would end what it watches.
                process.kill()
                process.wait()
                self._start()
        except OSError as error:
            # The work is sound without an orphan reaper; only a later crash of the server would leave it running.
            _logger.warning(
                "no orphan reaper for child processes, which would outlive a crash of this server: %s", error
            )

    def _start(self) -> None:
        if self._process is not None:
            _close_pipes(self._process)
        self._process = subprocess.Popen(  # noqa: S603 - a constant
            [sys.executable, "-I", "-S", str(_PROGRAM), _NAME, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            cwd="/",
            # Without the mark of a server that this one may be a child of: the shell outlives both.
            env=inherited((*INHERITED, *INTERPRETER)),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        lines = [f"mark {_MARK}={self._mark}\n", *(_watch(group, *rights) for group, rights in self._groups.items())]
        self._process.stdin.write("".join(lines).encode())
        # An orphan reaper that stands still must not keep this process waiting.
        for pipe in (self._process.stdin, self._process.stdout):
            os.set_blocking(pipe.fileno(), False)


def _watch(group: int, until: float, grace_seconds: float) -> str:
    return f"watch {group} {until!r} {grace_seconds!r}\n"


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def reaper_running(pid: int) -> bool | None:
    """Whether the orphan reaper of that process runs: after the process's death, until its children are ended.

    None where the platform does not tell: no /proc, or one that hides other users' processes (hidepid).
    """
    proc = Path("/proc")
    try:
        proc.joinpath("1", "cmdline").read_bytes()
        entries = [entry for entry in os.listdir(proc) if entry.isdigit()]
    except OSError:
        return None
    wanted = f"{_NAME}\0{pid}\0".encode()
    for entry in entries:
        try:
            if proc.joinpath(entry, "cmdline").read_bytes().endswith(wanted):
                return True
        except OSError:
            continue
    return False


REAPER = OrphanReaper()
"""The orphan reaper of this process."""

atexit.register(REAPER.close)


def _forked() -> None:
    # The copy must neither speak to its parent's orphan reaper nor hold its pipe open.
    process = REAPER._process  # pyright: ignore[reportPrivateUsage]
    REAPER.__init__()
    if process is not None:
        _close_pipes(process)
        process.returncode = 0


os.register_at_fork(after_in_child=_forked)
