"""The command's own stdout: other output is redirected, a closed pipe ends the command quietly."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from typing import Any


class _Nowhere(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, b: Any, /) -> int:
        return len(b)


def have_stdout() -> None:
    """Where stdout was closed before the start, what is written there goes nowhere, as `print` has it."""
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  as Python has it for a closed one
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Nowhere()), encoding="utf-8", errors="backslashreplace")


@contextmanager
def others_on_stderr() -> Generator[None]:
    """While the block runs, whatever goes to stdout goes to stderr: of modules of the user's, and of their children."""
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # stderr is closed.
            stack.callback(_put_back, _duplicate(1))
            os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield


def _duplicate(descriptor: int) -> int | None:
    try:
        return os.dup(descriptor)
    except OSError:  # It is closed.
        return None


def _put_back(kept: int | None) -> None:
    if kept is None:
        os.close(1)
    else:
        os.dup2(kept, 1)
        os.close(kept)


def check_reader() -> None:
    """See that stdout is still read, where that can be seen without writing.

    Raises:
        BrokenPipeError: It is not.
    """
    if not hasattr(select, "poll"):  # Windows.
        return
    watched = select.poll()
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is no file.
        watched.register(sys.stdout.fileno(), 0)
    if any(event & select.POLLERR for _, event in watched.poll(0)):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def leave_stdout() -> None:
    """All is said: what modules print when this process ends goes to stderr."""
    sys.stdout = sys.stderr
    with contextlib.suppress(OSError):
        os.dup2(2, 1)


def give_up_stdout() -> None:
    """The reader has gone: let what is still to be written go nowhere, so that the end is quiet."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
