"""The identity of a worker's process, and whether that process is gone.

A worker's id names its machine, its process id and when its process started. From these another process on the same
machine can tell that the worker is dead, and need not wait for its lease to run out.

"Gone" needs proof: no process has that id, the one that has it started at another time, or it is a zombie. A stopped or
hung process lives. Where the proof cannot be had, nothing is concluded and the lease alone decides: a worker of another
machine or namespace, no /proc or one of another namespace, an entry of it that may not be read (hidepid).
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# The end of a worker's name; a host may be called anything.
_IDENTITY = re.compile(r"-(?P<pid>[1-9][0-9]{0,9})-[0-9a-f]+@(?P<machine>[0-9a-f]{16})(?:\.(?P<started>[0-9]+))?\Z")
_LARGEST_PID = 2**31 - 1
_SYSCTL_SECONDS = 2.0


class ProcessIdentity(NamedTuple):
    """One process of all that ever were.

    Attributes:
        machine: Digest of what must be equal for two processes to mean the same by a process id and a start time: the
            machine's boot, the pid namespace and the time namespace.
        pid: The process id.
        started: When it started, in clock ticks since the boot; "" where the platform does not tell.
    """

    machine: str
    pid: int
    started: str


class ProcessStat(NamedTuple):
    """What matters here of /proc/PID/stat (proc_pid_stat(5)).

    Attributes:
        state: One letter; Z and X are dead.
        threads: How many threads the process has: a dead leader may leave living ones behind.
        started: As in `ProcessIdentity`.
    """

    state: str
    threads: int
    started: str

    @property
    def dead(self) -> bool:
        """Whether nothing of the process runs any more."""
        return self.state in ("Z", "X", "x") and self.threads <= 1


class Kernel:
    """What the operating system says of processes."""

    platform: str = sys.platform

    def pid(self) -> int:
        """This process's own id."""
        return os.getpid()

    def read(self, path: str) -> str:
        """The text of a file; raises `OSError`."""
        return Path(path).read_text(encoding="utf-8", errors="replace")

    def link(self, path: str) -> str:
        """Where a symbolic link leads; raises `OSError`."""
        return os.readlink(path)

    def probe(self, pid: int) -> None:
        """Send signal 0; raises `ProcessLookupError` where there is no such process, else nothing or an `OSError`."""
        os.kill(pid, 0)

    def boot_session(self) -> str:
        """The identity of this boot of macOS; raises `OSError` or `subprocess.SubprocessError`."""
        asked = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        found = subprocess.run(asked, capture_output=True, check=True, timeout=_SYSCTL_SECONDS)  # noqa: S603  a constant
        return found.stdout.decode().strip()


def own_identity(kernel: Kernel) -> ProcessIdentity | None:
    """The identity of this process, or None where the platform does not tell it beyond doubt."""
    try:
        if kernel.platform == "linux":
            return _on_linux(kernel)
        if kernel.platform == "darwin":
            # No start time: a process id that was given out again looks alive here, and the lease decides.
            session = kernel.boot_session()
            return ProcessIdentity(_digest([session]), kernel.pid(), "") if session else None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return None


def identity_of(pid: int, own: ProcessIdentity, kernel: Kernel) -> ProcessIdentity | None:
    """The identity of another process of this machine, or None where there is none; `own` is this process's."""
    try:
        kernel.probe(pid)
        started = parse_stat(kernel.read(f"/proc/{pid}/stat")).started if own.started else ""
    except (OSError, ValueError):
        return None
    return ProcessIdentity(own.machine, pid, started)


def is_gone(process: ProcessIdentity, own: ProcessIdentity, kernel: Kernel) -> bool:
    """Whether the process certainly does not run any more; `own` is this process's identity."""
    if process == own or process.machine != own.machine:
        return False
    try:
        kernel.probe(process.pid)
    except ProcessLookupError:
        return True
    except OSError:
        # It exists and is another user's. Its entry in /proc may still be readable.
        pass
    if not process.started:
        return False
    try:
        stat = parse_stat(kernel.read(f"/proc/{process.pid}/stat"))
    except (OSError, ValueError):
        return False
    return stat.dead or stat.started != process.started


def parse_stat(text: str) -> ProcessStat:
    """The fields of /proc/PID/stat. Raises `ValueError` where it does not have them."""
    # The second field is the program's name in parentheses; it may hold anything, parentheses and blanks too.
    fields = text.rpartition(")")[2].split()
    try:
        state, threads, started = fields[0], int(fields[17]), fields[19]
    except IndexError:
        raise ValueError("a stat with too few fields") from None
    if not started.isdecimal():
        raise ValueError("a stat without a start time")
    return ProcessStat(state, threads, started)


def worker_id(host: str, token: str, pid: int, own: ProcessIdentity | None) -> str:
    """A worker's name in the store: `host-pid-token`, and behind an `@` the identity where it is known."""
    name = f"{host[:40]}-{pid}-{token}"
    if own is None:
        return name
    return f"{name}@{own.machine}.{own.started}" if own.started else f"{name}@{own.machine}"


def identity_in(worker: str) -> ProcessIdentity | None:
    """The identity that a worker's name carries, or None."""
    found = _IDENTITY.search(worker)
    if found is None or int(found["pid"]) > _LARGEST_PID:
        return None
    return ProcessIdentity(found["machine"], int(found["pid"]), found["started"] or "")


def _on_linux(kernel: Kernel) -> ProcessIdentity | None:
    pid = kernel.pid()
    if _ids_by_namespace(kernel.read("/proc/self/status")) != [pid]:
        # This /proc shows another pid namespace than the one that we signal in: its ids mean other processes.
        return None
    boot = kernel.read("/proc/sys/kernel/random/boot_id").strip()
    if not boot:
        return None
    # Containers share the host's boot id, and often a host name. Start times are told in the reader's time namespace.
    namespaces = [kernel.link("/proc/self/ns/pid"), _time_namespace(kernel)]
    return ProcessIdentity(_digest([boot, *namespaces]), pid, parse_stat(kernel.read("/proc/self/stat")).started)


def _time_namespace(kernel: Kernel) -> str:
    try:
        return kernel.link("/proc/self/ns/time")
    except FileNotFoundError:
        return ""  # before Linux 5.6 there are none


def _ids_by_namespace(status: str) -> list[int]:
    """The process's ids, from the pid namespace that /proc shows down to the process's own."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "NSpid":
            return [int(each) for each in value.split()]
    return []


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
