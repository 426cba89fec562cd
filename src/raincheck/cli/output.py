"""The command's own stdout: what others print goes elsewhere, and what becomes of it where nobody takes it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from typing import Any

__all__ = ["give_up_stdout", "have_stdout", "leave_stdout", "others_on_stderr"]


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
        with contextlib.suppress(OSError):  # One of them is closed.
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        with redirect_stdout(sys.stderr):
            yield


def leave_stdout() -> None:
    """All is said: what modules print when this process ends goes to stderr."""
    sys.stdout = sys.stderr
    with contextlib.suppress(OSError):
        os.dup2(2, 1)


def give_up_stdout() -> None:
    """Nobody takes what is written: let what is still to be written go nowhere, so that the end is quiet."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
