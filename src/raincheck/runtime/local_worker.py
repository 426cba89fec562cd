"""The local worker: one detached process for each SQLite file and program, which runs the tasks of stdio servers.

A server on stdio dies with its client; the local worker does not. It holds an exclusive `flock(2)` on a file beside the
store for as long as it takes up tasks, so there is one at most, and the kernel lets the lock go however it ends. A
server that starts it takes the lock first and hands the locked descriptor down: servers that start at the same moment
start one worker.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, BinaryIO, Final, NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from raincheck.runtime.process_identity import Kernel, identity_of, is_gone, own_identity

logger = logging.getLogger(__name__)

PASSED_LOCK: Final = "RAINCHECK_LOCAL_WORKER"
"""The environment variable that makes a worker the local one: the descriptor of its locked file."""
RETIRE: Final = getattr(signal, "SIGUSR1", None)
"""Told so, a local worker takes up nothing more, finishes what runs, and ends."""

SUPPORTED: Final = fcntl is not None
"""Whether this platform has what a local worker needs."""

_START_SECONDS = 60.0
_LARGEST_LOG = 1024 * 1024
_PAUSE_SECONDS = 0.01


class WorkerFiles(NamedTuple):
    """The files of one local worker, beside the store's.

    Attributes:
        lock: Locked while it takes up tasks; says which process it is.
        log: What it logs.
    """

    lock: Path
    log: Path

    @classmethod
    def of(cls, database: Path, program: str) -> WorkerFiles:
        """Those of a store's file and a program: a configuration file's path, or `MODULE:RAINCHECK` and its folder."""
        digest = hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return cls(*(database.with_name(f"{database.name}.worker-{digest}.{kind}") for kind in ("lock", "log")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Presence:
    """A local worker that lives.

    Attributes:
        pid: Its process; 0 while it has not said it yet.
        generation: Digest of the configuration and the code it runs.
        started_at: When, as UTC in ISO 8601.
        ready: Whether it takes up tasks.
    """

    pid: int = 0
    generation: str = ""
    started_at: str = ""
    ready: bool = False


def presence(files: WorkerFiles) -> Presence | None:
    """The local worker that lives, or None.

    Raises:
        OSError: The file cannot be read, or its file system has no locks.
    """
    try:
        with files.lock.open("rb") as file:
            if _locked(file.fileno(), shared=True):
                return None
            text = file.read(4096)
    except FileNotFoundError:
        return None
    try:
        said = json.loads(text)
        return Presence(**{name: said[name] for name in ("pid", "generation", "started_at", "ready")})
    except (ValueError, KeyError, TypeError):
        return Presence()


def retire(found: Presence) -> None:
    """Have a worker finish what runs, and end."""
    if found.pid and RETIRE is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, RETIRE)


def generation_of(parts: Sequence[Any], code: Sequence[Path]) -> str:
    """The digest of settings and versions (`parts`) and of files of code, of which each counts by size and time."""
    digest = hashlib.sha256(json.dumps([sys.executable, *parts], default=str).encode("utf-8", "surrogatepass"))
    for path in sorted(code):
        with contextlib.suppress(OSError):
            stat = path.stat()
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


class LocalWorker:
    """Starts the local worker of one store and program where none lives. Its methods block for up to a second.

    Args:
        files: The worker's files.
        command: What follows `python -m raincheck`.
        generation: What the worker is to be of (`generation_of`).
        environ: The worker's environment.
    """

    def __init__(
        self, files: WorkerFiles, command: Sequence[str], *, generation: str, environ: Mapping[str, str]
    ) -> None:
        self.files = files
        self._command = tuple(command)
        self._generation = generation
        self._environ = environ
        self._compared = False
        self._starting_since: float | None = None
        self._failures = 0

    @property
    def failures(self) -> int:
        """How many starts in a row ended before the worker took up tasks."""
        return self._failures

    def ensure(self) -> None:
        """See that a worker lives, or is being started. The first one found of another generation is retired.

        Raises:
            OSError: A file cannot be written, or the process cannot be started.
        """
        found = presence(self.files)
        if found is not None and not self._compared and found.generation not in ("", self._generation):
            logger.info("the local worker %d has another configuration or code: it drains, a new one starts", found.pid)
            retire(found)
            self._wait_until_free()
            found = presence(self.files)
        if found is not None:
            self._compared = True
            if found.ready:
                self._starting_since, self._failures = None, 0
            elif self._starting_since is not None and monotonic() - self._starting_since > _START_SECONDS:
                self._count_failure()
            return
        if self._starting_since is not None:
            self._count_failure()
        self._start()

    def _count_failure(self) -> None:
        self._failures += 1
        self._starting_since = None

    def _wait_until_free(self) -> None:
        # A retired worker lets the lock go at once, whatever it still runs.
        late = monotonic() + 2.0
        while presence(self.files) is not None and monotonic() < late:
            sleep(_PAUSE_SECONDS)

    def _start(self) -> None:
        descriptor = os.open(self.files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # A server that only looks holds the lock for a moment.
            if not any(_locked(descriptor, shared=False) or sleep(_PAUSE_SECONDS) for _ in range(3)):
                return  # Another server starts it now.
            os.ftruncate(descriptor, 0)
            with _log_file(self.files.log) as log:
                child = subprocess.Popen(  # noqa: S603  this interpreter, our own command
                    [sys.executable, "-m", "raincheck", *self._command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**self._environ, PASSED_LOCK: f"{descriptor}:{self._generation}"},
                    pass_fds=(descriptor,),
                    start_new_session=True,
                )
            self._compared, self._starting_since = True, monotonic()
            logger.info("started a local worker, which outlives this server; its log: %s", self.files.log)
        finally:
            os.close(descriptor)
        # The worker goes on as a process without a parent: this one ends at once.
        child.wait()


class Hold:
    """The lock of this process, where it is the local worker."""

    def __init__(self, descriptor: int, generation: str) -> None:
        self._descriptor = descriptor
        self._generation = generation

    @classmethod
    def passed(cls) -> Hold | None:
        """The lock that the server which started this process took for it; None in any other process.

        The process goes on detached: in a session of its own, with no parent.
        """
        text = os.environ.pop(PASSED_LOCK, None)
        if text is None:
            return None
        number, _, generation = text.partition(":")
        descriptor = int(number)
        # Nothing that it starts is to hold the lock.
        os.set_inheritable(descriptor, False)
        if os.fork():
            os._exit(0)
        return cls(descriptor, generation)

    def say(self, started_at: str, *, ready: bool) -> None:
        """Write down which process this is."""
        said = {"pid": os.getpid(), "generation": self._generation, "started_at": started_at, "ready": ready}
        os.pwrite(self._descriptor, json.dumps(said).encode().ljust(256), 0)

    def release(self) -> None:
        """Let the next worker start. Idempotent."""
        assert fcntl is not None
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    @property
    def lost(self) -> bool:
        """Whether the locked file was removed: what stands in its place, if anything, can be locked by others."""
        return os.fstat(self._descriptor).st_nlink == 0

    def take(self) -> bool:
        """Take the lock once more, where no other worker has it."""
        return _locked(self._descriptor, shared=False)


def wait_until_gone(pid: int, seconds: float) -> bool:
    """Whether a process ends within that time. Blocks."""
    kernel = Kernel()
    own = own_identity(kernel)
    late = monotonic() + seconds
    found = None if own is None else identity_of(pid, own, kernel)
    while found is not None and own is not None and not is_gone(found, own, kernel):
        if monotonic() > late:
            return False
        sleep(_PAUSE_SECONDS)
    return True


def _log_file(path: Path) -> BinaryIO:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LARGEST_LOG:
            path.unlink()
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")


def _locked(descriptor: int, *, shared: bool) -> bool:
    """Take the lock, where it is free."""
    assert fcntl is not None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
