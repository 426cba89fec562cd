"""Ends the child processes of a server that died without ending them itself (`kill -9`, a crash, out of memory).

One small shell, started before the first child: it holds the reading end of a pipe whose writing end only this process
has. The kernel closes that end when the process dies, however it dies, and the shell then ends every group it was told
of. A child that was started a moment before, too late to be told of, is found by a mark in its environment (where there
is a /proc); so is one that left its group. Chosen over PR_SET_PDEATHSIG, which reaches the direct child alone, is tied
to the thread that started it, needs Python code between fork and exec, and exists on Linux only.

The shell ends when its work is done, and its arguments name the process it guards: whoever takes over a dead process's
tasks sees by it whether children of that process may still run (`guardian_at_work`).
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from raincheck.operations.environment import INHERITED, INTERPRETER, inherited

__all__ = ["GUARDIAN", "Guardian", "guardian_at_work"]

_logger = logging.getLogger(__name__)

# It ignores the signals that a terminal or a supervisor sends to everything: it has to outlive the server.
_SCRIPT = """
trap '' HUP INT TERM
read -r mark
groups=' '
while read -r verb group; do
  case $verb in
    watch) groups="$groups$group " ;;
    forget) groups="${groups%% $group *} ${groups#* $group }" ;;
  esac
done
end() {
  for group in $groups; do kill -s "$1" -- "-$group"; done
  for found in $(grep -ls "$mark" /proc/[0-9]*/environ); do
    found=${found#/proc/}
    kill -s "$1" "${found%/environ}"
  done
} 2>/dev/null
end TERM
sleep 1
end KILL
exit 0
"""
_MARK = "RAINCHECK_GUARDIAN"
_NAME = "raincheck-guardian"


class Guardian:
    """The shell and what it watches. Thread-safe; not shared with forked copies of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._shell: subprocess.Popen[bytes] | None = None
        self._mark = secrets.token_hex(16)

    @property
    def pid(self) -> int | None:
        """The process id of the shell, None before the first group."""
        return self._shell.pid if self._shell else None

    def mark(self) -> dict[str, str]:
        """The variable that the environment of every child must have; starts the shell if it does not run yet."""
        with self._lock:
            self._tell("")
        return {_MARK: self._mark}

    @contextmanager
    def watching(self, group: int) -> Generator[None]:
        """Have this process group ended, SIGTERM first and SIGKILL a second later, if this process dies meanwhile."""
        with self._lock:
            self._groups.add(group)
            self._tell(f"watch {group}\n")
        try:
            yield
        finally:
            with self._lock:
                self._groups.discard(group)
                self._tell(f"forget {group}\n")

    def close(self) -> None:
        """End the shell. What it watches is no longer guarded."""
        with self._lock:
            shell, self._shell = self._shell, None
        if shell is not None:
            shell.kill()
            if shell.stdin is not None:
                shell.stdin.close()
            shell.wait()

    def _tell(self, line: str) -> None:
        try:
            if self._shell is not None and self._shell.stdin is not None and self._shell.poll() is None:
                self._shell.stdin.write(line.encode())
            else:
                self._start()
        except OSError as error:
            # The work itself is sound without a guardian; only a later crash of the server would leave it running.
            _logger.warning("no guardian for child processes, which would outlive a crash of this server: %s", error)

    def _start(self) -> None:
        if self._shell is not None and self._shell.stdin is not None:
            self._shell.stdin.close()
        self._shell = subprocess.Popen(  # noqa: S603 - a constant
            ["/bin/sh", "-c", _SCRIPT, _NAME, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            cwd="/",
            # Without the mark of a server that this one may be a child of: the shell outlives both.
            env=inherited((*INHERITED, *INTERPRETER)),
        )
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{_MARK}={self._mark}\n".encode())
        for group in self._groups:
            self._shell.stdin.write(f"watch {group}\n".encode())


def guardian_at_work(pid: int) -> bool | None:
    """Whether the guardian of that process runs: after the process's death, until its children are ended.

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


GUARDIAN = Guardian()
"""The guardian of this process."""

atexit.register(GUARDIAN.close)


def _forked() -> None:
    # The copy must neither speak to its parent's shell nor hold its pipe open.
    shell = GUARDIAN._shell  # pyright: ignore[reportPrivateUsage]
    GUARDIAN.__init__()
    if shell is not None and shell.stdin is not None:
        shell.stdin.close()
        shell.returncode = 0


os.register_at_fork(after_in_child=_forked)
