"""The log throttle: a few lines per kind and minute for lines that any client can cause."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_CAUSED_OUTSIDE = ("asyncio", "mcp", "uvicorn", "raincheck.mcp.auth.jwt", "raincheck.mcp.server.callback_endpoint")
_MOST = 5
_WINDOW_SECONDS = 60.0


class LogThrottle(logging.Filter):
    """Lets through so many lines a minute of each place in the code of those loggers; the last one says so.

    Args:
        most: How many.
        clock: A monotonic clock.
    """

    def __init__(self, most: int = _MOST, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most = most
        self._clock = clock
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        if not record.name.startswith(_CAUSED_OUTSIDE):
            return True
        place, now = (record.name, record.lineno), self._clock()
        since, count = self._seen.get(place, (now, 0))
        if now - since >= _WINDOW_SECONDS:
            since, count = now, 0
        self._seen[place] = (since, count + 1)
        if count + 1 == self._most:
            record.msg, record.args = f"{record.getMessage()} (more of this kind in this minute are left out)", ()
        return count < self._most


def throttle_logs() -> None:
    """Throttle what is written by every handler that there is."""
    throttle = LogThrottle()
    for handler in logging.getLogger().handlers:
        handler.addFilter(throttle)
