"""The clock for intervals."""

from __future__ import annotations

import time

__all__ = ["elapsed"]

_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", None)


def elapsed() -> float:
    """Seconds for intervals: never set, and going on while the machine sleeps (where the platform has such a clock).

    On Linux all processes of a machine read the same, from its start on.
    """
    return time.monotonic() if _CLOCK_ID is None else time.clock_gettime(_CLOCK_ID)
