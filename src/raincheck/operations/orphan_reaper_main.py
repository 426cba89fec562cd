"""The orphan reaper's own process: a program by itself, which imports nothing but the standard library.

It is told by lines on its stdin, of which only the guarded process has the writing end, and says on stdout which groups
it ended because their lease was over. See `raincheck.operations.orphan_reaper`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

# A machine that slept comes back in the middle of a wait.
_LONGEST_WAIT = 0.25
_LAST_GRACE = 1.0
_LOOK_SECONDS = 0.05
_NEVER = float("inf")
_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class _Guarded:
    """The groups to end, and when."""

    def __init__(self) -> None:
        self.mark = b""
        self.due: dict[int, float] = {}
        self._grace: dict[int, float] = {}
        self._told: set[int] = set()
        self._rest = b""

    def take(self, data: bytes) -> None:
        """What came from the guarded process; lines may come in parts."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            match line.split():
                case [b"mark", mark]:
                    self.mark = mark
                case [b"watch", group, until, grace]:
                    self._watch(int(group), float(until), float(grace))
                case [b"forget", group]:
                    self.due.pop(int(group), None)
                    self._told.discard(int(group))
                case _:
                    pass

    def _watch(self, group: int, until: float, grace: float) -> None:
        if group not in self._told:
            self.due[group], self._grace[group] = until, grace

    def wait(self) -> float | None:
        """How long to wait for news at the most; None: for ever."""
        first = min(self.due.values(), default=_NEVER)
        return None if first == _NEVER else min(_LONGEST_WAIT, max(0.0, first - _now()))

    def end_overdue(self) -> None:
        """SIGTERM to what is due, and later, or at once where that is over too, SIGKILL."""
        now = _now()
        for group, due in tuple(self.due.items()):
            if due <= now and group not in self._told:
                self._told.add(group)
                with contextlib.suppress(OSError):
                    os.write(1, b"%d\n" % group)
                _signal_group(group, signal.SIGTERM)
                self.due[group] = due = due + self._grace[group]
            if due <= now:
                _signal_group(group, signal.SIGKILL)
                self.due[group] = _NEVER

    def end_all(self) -> None:
        """The guarded process is dead."""
        self._signal_all(signal.SIGTERM)
        until = _now() + _LAST_GRACE
        while _now() < until and (any(map(_is_there, self.due)) or self._marked()):
            time.sleep(_LOOK_SECONDS)
        self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        for group in self.due:
            _signal_group(group, number)
        for process in self._marked():
            with contextlib.suppress(OSError):
                os.kill(process, number)

    def _marked(self) -> list[int]:
        """Children of the guarded process, wherever they have gone."""
        found: list[int] = []
        with contextlib.suppress(OSError):
            for entry in os.listdir("/proc"):
                if entry.isdigit() and self.mark and self.mark in _environment(entry):
                    found.append(int(entry))
        return found


def _environment(process: str) -> bytes:
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _now() -> float:
    return time.clock_gettime(_CLOCK_ID)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.killpg(group, number)


def main() -> None:
    """Guard until the other end of stdin is closed: the guarded process is dead."""
    # What a terminal or a supervisor sends to everything: this process has to outlive the server.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    guarded = _Guarded()
    while True:
        if select.select([0], [], [], guarded.wait())[0]:
            data = os.read(0, 65536)
            if not data:
                break
            guarded.take(data)
        guarded.end_overdue()
    guarded.end_all()


if __name__ == "__main__":
    main()
