"""Files that hold what callers sent: their user's alone, and not put there by another user.

Where others can write to the folder they may have planted a file of theirs, or a link to one of ours: then nothing but
a plain file of our own is taken. In a folder that is ours (or the administrator's) alone a link is its owner's wish.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from raincheck.errors import StoreUnusable

logger = logging.getLogger(__name__)

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS = 0o077
# POSIX; elsewhere users have their own folders, and modes say nothing.
_user = getattr(os, "geteuid", None)


def check_file(path: str | os.PathLike[str]) -> None:
    """See that a file, if it is there, may be used as ours. Nothing is changed: it may be another program's.

    The file is not opened: closing it would drop the locks that this process has on it (POSIX).

    Raises:
        StoreUnusable: It is another user's, a link or no plain file, in a folder that others can write to.
    """
    path = Path(os.path.abspath(path))
    if (found := _found(path)) is None:
        return
    if _can_be_planted(path.parent):
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise StoreUnusable(f"{path} is a link or no plain file, in a folder that others can write to.")
        _check_owner(path, found)


def close_to_others(path: str | os.PathLike[str]) -> None:
    """Take from others what they may do with a file that is known to be ours, if it is there."""
    path = Path(os.path.abspath(path))
    if (found := _found(path)) is not None and stat.S_ISREG(found.st_mode):
        _close_to_others(path, found, 0o600)


def check_folder(path: str | os.PathLike[str]) -> None:
    """As `check_file`, for a folder that holds nothing but such files; others may do nothing with it from now on.

    Raises:
        StoreUnusable: It is another user's or a link, in a folder that others can write to; or no folder at all.
    """
    path = Path(os.path.abspath(path))
    if (found := _found(path)) is None:
        return
    if _can_be_planted(path.parent):
        if stat.S_ISLNK(found.st_mode):
            raise StoreUnusable(f"{path} is a link, in a folder that others can write to.")
        _check_owner(path, found)
    if stat.S_ISDIR(found.st_mode):
        _close_to_others(path, found, 0o700)


def _found(path: Path) -> os.stat_result | None:
    """What is there; None where nothing is, or where the platform has no owners."""
    if _user is None:
        return None
    try:
        return os.lstat(path)
    except OSError:
        return None


def _can_be_planted(folder: Path) -> bool:
    """Whether others may make files there."""
    assert _user is not None
    found = os.stat(folder)
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        logger.warning("anybody can replace files in %s (mode %s): chmod o-w it", folder, _octal(found))
    return found.st_uid not in (0, _user()) or bool(found.st_mode & _OTHERS_WRITE)


def _check_owner(path: Path, found: os.stat_result) -> None:
    assert _user is not None
    if found.st_uid != _user():
        raise StoreUnusable(f"{path} is of another user (uid {found.st_uid}), in a folder that others can write to.")


def _close_to_others(path: Path, found: os.stat_result, mode: int) -> None:
    assert _user is not None
    if not found.st_mode & _OTHERS or found.st_uid != _user():
        return
    try:
        path.chmod(mode)
    except OSError as error:
        logger.warning("others can use %s (mode %s): %s", path, _octal(found), error.strerror)
    else:
        logger.warning("others could use %s (mode %s): it is its user's alone now", path, _octal(found))


def _octal(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"
