"""The file of a SQLite store: how it is made, and whether its path still leads to the one that is open.

A file that was deleted or replaced under an open connection takes writes as before, and they are not found again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from raincheck.errors import StoreUnavailable, StoreUnusable
from raincheck.stores.shared.private_files import check_file, close_to_others

_JOURNAL = ("-wal", "-shm")


def create_file(path: str) -> None:
    """Make the file if it is not there, readable for its owner only; its folder too.

    Raises:
        StoreUnavailable: The file or its folder cannot be made.
        StoreUnusable: It is gone or empty, and its journal is there: it was taken away from a running server. Or
            others may have put it there (`raincheck.stores.shared.private_files`).
    """
    # Only a file that has a first page gets a journal, and both go on together until the last process closes it.
    journal = _size(f"{path}-wal")
    try:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # An existing file is never opened here: closing it would drop this process's locks on it (POSIX).
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            if journal:
                os.unlink(path)
                raise _orphaned(path, "is gone")
        for name in _files_of(path):
            check_file(name)
    except OSError as error:
        raise StoreUnavailable(f"The task store {path} cannot be created: {error.strerror}.") from error
    if journal and _size(path) == 0:
        raise _orphaned(path, "was cut to nothing")


def close_file(path: str) -> None:
    """Make the store's file, which was found to be one, and its journals their owner's alone."""
    for name in _files_of(path):
        close_to_others(name)


def _files_of(path: str) -> list[str]:
    return [path, *(f"{path}-{kind}" for kind in ("wal", "shm", "journal"))]


_BLOCK = 1024 * 1024
_SCAN_SECONDS = 1.0


class OpenFile:
    """Which file the store's connections have open.

    Args:
        path: Where it is to be.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[str, tuple[int, int]] = {}
        self._scanned: tuple[float, bool] = (float("-inf"), False)

    def connected(self) -> None:
        """The writer is connected: what is at the path now is what it has open, journal included once there is one.

        Raises:
            StoreUnavailable: There is nothing.
        """
        for suffix in ("", *_JOURNAL):
            if suffix not in self._known:
                try:
                    self._known[suffix] = _identity(self._path + suffix)
                except OSError as error:
                    if not suffix:
                        raise self._lost(f"cannot be looked at ({error.strerror})", self._path) from error

    def disconnected(self) -> None:
        """The writer lets its connection go, the next one may make a journal of its own."""
        for suffix in _JOURNAL:
            self._known.pop(suffix, None)

    def check(self, *, written: bool = False) -> None:
        """See that the path leads to what is open.

        Args:
            written: Whether something was just committed.

        Raises:
            StoreUnavailable: It does not, or cannot be looked at.
        """
        for suffix, known in tuple(self._known.items()):
            path = self._path + suffix
            try:
                became = "" if _identity(path) == known else "was replaced by another file"
            except FileNotFoundError:
                became = "was deleted"
            except OSError as error:
                became = f"cannot be looked at ({error.strerror})"
            if became:
                raise self._lost(became, path, written=written)

    def disk_fails(self) -> bool:
        """Whether the disk cannot be read, which SQLite tells as damage of the file; as far as a second's reading
        shows. Blocking."""
        at, failed = self._scanned
        if time.monotonic() - at > _SCAN_SECONDS:
            failed = _reading_fails(self._known.get(""))
            self._scanned = (time.monotonic(), failed)
        return failed

    def _lost(self, became: str, path: str, *, written: bool = False) -> StoreUnavailable:
        return StoreUnavailable(
            f"The task store {self._path} takes nothing: {path} {became} while it was in use. "
            "Put it back, or restart every process that uses it.",
            maybe_done=written,
        )


def _reading_fails(known: tuple[int, int] | None) -> bool:
    give_up_at = time.monotonic() + _SCAN_SECONDS
    try:
        descriptor = next((each for each in _descriptors() if _is(each, known)), None)
        at = 0
        while descriptor is not None and time.monotonic() < give_up_at and (read := os.pread(descriptor, _BLOCK, at)):
            at += len(read)
    except OSError as error:
        return error.errno == errno.EIO
    return False


def _descriptors() -> list[int]:
    # SQLite's own: to close another one of the same file would drop this process's locks on it (POSIX).
    with contextlib.suppress(OSError):
        return [int(each) for each in os.listdir("/dev/fd")]
    return []


def _is(descriptor: int, known: tuple[int, int] | None) -> bool:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == known


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _size(path: str) -> int | None:
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def _orphaned(path: str, became: str) -> StoreUnusable:
    return StoreUnusable(
        f"The task store {path} {became}, but its journal {path}-wal is there: put the file back, or remove "
        f"{path}-wal and {path}-shm to begin with an empty store."
    )
