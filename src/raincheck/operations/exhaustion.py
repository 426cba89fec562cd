"""Exhaustion of the machine: a retryable failure, and one line in the log."""

from __future__ import annotations

import errno
import logging
import time

from raincheck.errors import ResourcesExhausted

_logger = logging.getLogger(__name__)
_QUIET_SECONDS = 60.0
_WHAT = {
    errno.EMFILE: "file descriptors",
    errno.ENFILE: "file descriptors",
    errno.ENOMEM: "memory",
    errno.EAGAIN: "processes",
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk space",
}

_logged: dict[str, float] = {}


def what_is_exhausted(error: BaseException) -> str | None:
    """What the machine has no more of; None where that is not the reason."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, RuntimeError) and "new thread" in str(error):
        return "threads"
    return _WHAT.get(error.errno or 0) if isinstance(error, OSError) else None


def exhausted(what: str, to_do: str) -> ResourcesExhausted:
    """The failure of something that there is not enough for, as `("threads", "run operation 'report'")`.

    It is logged, but no oftener than once a minute for each `what`: thousands of calls may meet it at once.
    """
    now = time.monotonic()
    if now - _logged.get(what, -_QUIET_SECONDS) >= _QUIET_SECONDS:
        _logged[what] = now
        _logger.warning("no %s left to %s", what, to_do)
    return ResourcesExhausted(f"The server has no {what} left to {to_do}. Try again later.", retryable=True)
