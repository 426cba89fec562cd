"""The environment of child processes: little of the server's own, and none of its secrets.

A child runs as the same user as the server, and what it is told to work on may have come from anybody.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Sequence

from raincheck.errors import ConfigurationError

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
"""The variables of the server that every child process finds."""

INTERPRETER = (
    *("PYTHONHOME", "PYTHONPATH", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONWARNINGS", "PYTHONUNBUFFERED"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
)
"""What a Python interpreter needs besides, to be the one that the server runs on."""

_logger = logging.getLogger(__name__)
_OURS = "RAINCHECK_"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PR_SET_DUMPABLE = 4

_hidden = False


def inherited(names: Iterable[str]) -> dict[str, str]:
    """Those of the server's variables that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}


def not_inheritable(names: Iterable[str]) -> str | None:
    """What is wrong with the first of the names that no child may inherit; None where all are fine."""
    for name in names:
        if not _NAME.fullmatch(name):
            return f"{name!r:.60} is not a variable's name"
        if name.startswith(_OURS):
            return f"{name:.60} is one of the server's own settings, which may be secret: it is never inherited"
    return None


def checked_inherit(names: Sequence[str], place: str) -> tuple[str, ...]:
    """The names of variables that a child is to inherit.

    Raises:
        ConfigurationError: One is none, or is never inherited.
    """
    wrong = "it is a list of names" if isinstance(names, str) else not_inheritable(names)
    if wrong is not None:
        raise ConfigurationError(f"{place}: inherit: {wrong}")
    return tuple(names)


def filled_in(text: str, key: str, place: str) -> str:
    """The text with the value of the variable in the place of each `${NAME}`.

    Raises:
        ConfigurationError: There is no such variable; the message names `place` and `key`.
    """
    for name in _REFERENCE.findall(text):
        if name not in os.environ:
            raise ConfigurationError(f"{place}: {key!r} names ${{{name}}}, and there is no such environment variable")
    return _REFERENCE.sub(lambda found: os.environ[found[1]], text)


def hide_environment() -> None:
    """From now on no process of the same user reads this one's environment or memory, where the system has a way.

    On Linux: `/proc/PID/environ`, `mem`, `fd` and the like belong to root, debuggers and profilers need its rights
    (CAP_SYS_PTRACE), and there are no core dumps. Elsewhere nothing happens. Idempotent.
    """
    global _hidden
    if _hidden or sys.platform != "linux":
        return
    _hidden = True
    import ctypes

    try:
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except (OSError, AttributeError) as error:
        _logger.warning("child processes may read this server's environment: %s", error)
