"""Disks that begin to fail while a process runs (disk.c, compiled here, once)."""

from __future__ import annotations

import functools
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

__all__ = ["Disk", "missing"]

Condition = Literal["well", "reads fail", "read-only"]

_NUMBERS: dict[Condition, int] = {"well": 0, "reads fail": 1, "read-only": 2}
_NUMBER = struct.Struct("=q")


def missing() -> str | None:
    """Why no disk can fail here, or None."""
    return None if shutil.which("cc") else "a C compiler (Debian: gcc)"


@functools.cache
def _library() -> Path:
    library = Path(tempfile.mkdtemp(prefix="raincheck-disk-")) / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


class Disk:
    """The disk that a folder is on, for the processes that have its `environment`.

    Args:
        folder: Whose files are on it.
        state: A file of its own, elsewhere.
    """

    def __init__(self, folder: Path, state: Path) -> None:
        self._folder = folder
        self._state = state
        state.write_bytes(_NUMBER.pack(0))

    def environment(self) -> dict[str, str]:
        """What a process that is to have this disk is started with."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAILING_DISK": str(self._state),
            "FAILING_FOLDER": str(self._folder),
        }

    def become(self, condition: Condition) -> None:
        """Be so from now on."""
        with self._state.open("r+b") as file:
            file.write(_NUMBER.pack(_NUMBERS[condition]))
