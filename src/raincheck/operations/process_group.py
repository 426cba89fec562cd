"""A child process with a group of its own, that ends with everything it started.

POSIX only: process groups are what makes "and all its children" possible. A descendant that moves to a session of its
own (`setsid`, a daemon) has left the group and is out of reach, except for the orphan reaper when the server dies.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import ExitStack
from contextvars import Context
from pathlib import Path
from typing import IO, Any

from raincheck.errors import ConfigurationError, OperationFailed, TaskFailure
from raincheck.operations.environment import INHERITED, hide_environment, inherited
from raincheck.operations.exhaustion import exhausted, what_is_exhausted
from raincheck.operations.lease import current_lease
from raincheck.operations.orphan_reaper import REAPER
from raincheck.operations.validation_messages import capped

_logger = logging.getLogger(__name__)
_POLL_SECONDS = 0.01
_GONE_SECONDS = 2.0


def refuse_without_process_groups(what: str) -> None:
    """Raise where the platform has no process groups.

    Raises:
        ConfigurationError: This is Windows.
    """
    if sys.platform == "win32":
        raise ConfigurationError(f"{what} needs process groups, which Windows does not have; run raincheck in WSL")


class ProcessGroup:
    """One child process, its pipes and its group.

    Attributes:
        pid: Its process id and that of its group.
        stdout, stderr, stdin: The pipes that were asked for, else None.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self.stdin: asyncio.WriteTransport | None = None
        self._process = process
        self._closed = False
        self._resources = ExitStack()
        # Before anything else: from here on a dying server takes the group with it.
        self._resources.enter_context(REAPER.watching(process.pid))
        self._lease = lease = current_lease()
        if lease is not None:
            self._resources.enter_context(lease.watch(lambda until: self._may_run(until, lease.grace_seconds)))
        self._exited = asyncio.Event()
        try:
            self._watch_exit(asyncio.get_running_loop())
        except BaseException:  # no thread is left, say: what cannot be waited for must not run
            self._signal(signal.SIGKILL)
            with process:  # waits for it, and closes its pipes
                self._close()
            raise

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bool = False,
        stdout: bool = False,
        stderr: bool = False,
        grace_seconds: float = 0.0,
    ) -> ProcessGroup:
        """Start a program; each of its standard streams is a pipe where asked for.

        Otherwise stdin is empty and both outputs go to this process's stderr: stdout belongs to the MCP transport. From
        the first program on, this process's own environment is hidden (`hide_environment`).
        Where it is cancelled meanwhile, the program is ended with `grace_seconds`, as by `stop`.

        Args:
            env: Its environment, beside the orphan reaper's mark; by default `INHERITED`.

        Raises:
            OSError: The program cannot be started.
            RuntimeError: There is no thread left to wait for it.
        """
        hide_environment()
        # Starting takes about a millisecond, and what comes after must not be split from it by a cancellation.
        process = subprocess.Popen(  # noqa: S603, ASYNC220 - a declared program, no shell
            argv,
            cwd=cwd,
            env={**(inherited(INHERITED) if env is None else env), **REAPER.mark()},
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout else 2,
            stderr=subprocess.PIPE if stderr else None,
            bufsize=0,
            start_new_session=True,
        )
        group = cls(process)
        try:
            await _uninterrupted(group._connect())
        except BaseException:
            await group.stop(grace_seconds)
            raise
        return group

    async def wait(self) -> int:
        """Until the child itself has exited: its exit status, or minus the signal that ended it."""
        await self._exited.wait()
        return self._process.wait()

    async def check_lease(self) -> None:
        """Return where what the group did counts.

        It does not where the orphan reaper ended it because its lease was over while this process stood still: then the
        run is stopped as lost, and this never returns.
        """
        if self._lease is not None and REAPER.ended(self.pid):
            self._lease.lost()
            await asyncio.get_running_loop().create_future()

    def _may_run(self, until: float, grace_seconds: float) -> None:
        REAPER.allow(self.pid, until, grace_seconds)

    async def stop(self, grace_seconds: float) -> None:
        """End the whole group: SIGTERM, after the grace SIGKILL; returns when nothing of it is left.

        Cannot be interrupted: a second cancellation waits until the group is gone. Idempotent.
        """
        if self._closed:  # by now the number may be that of another group
            return
        await _uninterrupted(self._stop(grace_seconds))

    async def _connect(self) -> None:
        self.stdout = await self._reader(self._process.stdout)
        self.stderr = await self._reader(self._process.stderr)
        if self._process.stdin is not None:
            self.stdin, _ = await asyncio.get_running_loop().connect_write_pipe(
                asyncio.BaseProtocol, self._process.stdin
            )

    async def _stop(self, grace_seconds: float) -> None:
        try:
            if grace_seconds > 0 and self._signal(signal.SIGTERM):
                await self._gone(grace_seconds)
            if self._signal(signal.SIGKILL) and not await self._gone(_GONE_SECONDS):
                _logger.warning("process group %d is still there after SIGKILL", self.pid)
        except asyncio.CancelledError:
            # The event loop itself is closing down: no time is left for politeness.
            self._signal(signal.SIGKILL)
            raise
        finally:
            self._close()
        # The event loop closes the pipes in its next round.
        await asyncio.sleep(0)

    async def _gone(self, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            if self._exited.is_set() and not self._living():
                return True
            if loop.time() >= until:
                return False
            await asyncio.sleep(_POLL_SECONDS)

    def _signal(self, number: int) -> bool:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            # macOS answers so for a group of zombies; elsewhere a set-uid member, which we cannot end anyway.
            return False
        return True

    def _living(self) -> bool:
        # A dead process that was not waited for still counts as a member of its group.
        self._process.wait()
        try:
            # Orphans of the group are ours where we are process 1, as in a container without an init.
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        return self._signal(0) and not _all_zombies(self.pid)

    async def _reader(self, pipe: IO[bytes] | None) -> asyncio.StreamReader | None:
        if pipe is None:
            return None
        reader = asyncio.StreamReader(limit=2**20)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        self._resources.callback(transport.close)
        return reader

    def _close(self) -> None:
        self._closed = True
        if self.stdin is not None and not self.stdin.is_closing():
            self.stdin.abort()
        self._resources.close()

    def _watch_exit(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            threading.Thread(target=self._wait_in_thread, args=(loop,), name="raincheck-wait", daemon=True).start()
            return

        def exited() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._exited.set()

        loop.add_reader(descriptor, exited)

    def _wait_in_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        self._process.wait()
        try:
            loop.call_soon_threadsafe(self._exited.set)
        except RuntimeError:
            _logger.debug("the event loop closed before process %d ended", self.pid)


async def _uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Do the work to its end; a cancellation that comes meanwhile goes through afterwards."""
    # Not the operation's own: it is done whatever becomes of the lease.
    working = asyncio.create_task(work, context=Context())
    interrupted: asyncio.CancelledError | None = None
    while not working.done():
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
    working.result()


def _all_zombies(group: int) -> bool:
    """Whether nothing but dead processes is left that an idle process 1 does not reap; False where /proc is unknown."""
    try:
        found = [entry for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return False
    for entry in found:
        try:
            state, _, process_group = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(process_group) == group and state not in "ZX":
            return False
    return bool(found)


def exit_details(status: int) -> dict[str, Any]:
    """`{"exit_code": n}`, or `{"signal": "SIGKILL"}` for a negative status."""
    return {"exit_code": status} if status >= 0 else {"signal": _signal_name(-status)}


def exit_text(status: int) -> str:
    """`exited with status 3` or `was ended by SIGKILL`."""
    return f"exited with status {status}" if status >= 0 else f"was ended by {_signal_name(-status)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def cannot_start(program: str, error: Exception, cwd: str | None = None) -> TaskFailure:
    """The failure of a program that could not be started, by why."""
    if (what := what_is_exhausted(error)) is not None:
        return exhausted(what, f"start {program}")
    match error:
        case FileNotFoundError() | NotADirectoryError() if cwd is not None and error.filename == cwd:
            return OperationFailed(f"working folder not found: {cwd}")
        case FileNotFoundError():
            return OperationFailed(f"command not found: {program}")
        case PermissionError():
            return OperationFailed(f"command not executable: {program}")
        case _:
            why = error.strerror if isinstance(error, OSError) else None
            return OperationFailed(f"command {program} cannot be started: {capped(why or str(error))}")
