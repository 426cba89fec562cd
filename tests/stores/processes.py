"""Starts and stops the other processes of the store tests (children.py, redis_children.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.waiting import PATIENCE

__all__ = ["Child", "child"]

_TESTS = Path(__file__).parent.parent


class Child:
    """A running child."""

    def __init__(
        self, verb: str, place: Path | str, argument: str, program: str, environment: Mapping[str, str]
    ) -> None:
        search = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(program)), verb, str(place), argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": search, **environment},
        )

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Send it the line that it waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def rest(self) -> list[str]:
        """All it says until it ends, which it must do well."""
        assert self.process.stdout is not None
        lines = self.process.stdout.read().split("\n")[:-1]
        assert self.process.wait(PATIENCE) == 0
        return lines

    def kill(self) -> list[str]:
        """`kill -9`; what it had said by then, whole lines only."""
        assert self.process.stdout is not None
        self.process.kill()
        lines = self.process.stdout.read().split("\n")[:-1]
        self.process.wait(PATIENCE)
        return lines


@contextmanager
def child(
    verb: str,
    place: Path | str,
    argument: str = "",
    *,
    program: str = "children.py",
    environment: Mapping[str, str] | None = None,
) -> Generator[Child]:
    """A child that is ready; killed at the end if it still runs."""
    started = Child(verb, place, argument, program, environment or {})
    try:
        assert started.line() == "ready"
        yield started
    finally:
        started.process.kill()
        started.process.communicate()
