"""Wall clocks that jump while a process runs.

libfaketime (0.9.10, Debian 12) cannot do it: told to leave the monotonic clock alone, it breaks every sleep to a moment
of that clock (`clock_nanosleep` answers EINVAL), and so Python's `time.sleep`. clock.c shifts the wall clock and
touches nothing else; it is compiled here, once.
"""

from __future__ import annotations

import functools
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

__all__ = ["Clock", "missing"]

_SECONDS = struct.Struct("=q")


def missing() -> str | None:
    """Why no clock can jump here, or None."""
    return None if shutil.which("cc") else "a C compiler (Debian: gcc)"


@functools.cache
def _library() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="raincheck-clock-"))
    # A server that runs as another user loads it too.
    folder.chmod(0o755)
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


class Clock:
    """One process's wall clock.

    Args:
        path: A file of its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(_SECONDS.pack(0))

    def environment(self) -> dict[str, str]:
        """What a process that is to have this clock is started with."""
        return {"LD_PRELOAD": str(_library()), "CHAOS_CLOCK": str(self._path)}

    def shift(self, seconds: int) -> None:
        """Make it so many seconds wrong, from now on."""
        with self._path.open("r+b") as file:
            file.write(_SECONDS.pack(seconds))
