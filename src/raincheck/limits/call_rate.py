"""Call rates: a token bucket per caller, for calls that holding answers does not slow down."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from raincheck.errors import RateLimited

# A bucket that was not used for the time it takes to fill is as good as a new one; of very many, the oldest go first.
_MOST = 10_000


class CallRate:
    """One bucket a scope. They are this process's own: behind a load balancer each server has its share.

    Args:
        per_second: How fast a bucket fills; 0: there is no limit.
        burst: How many calls it holds.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, scope: str) -> None:
        """Count one call of this scope.

        Raises:
            RateLimited: Its bucket is empty; `details` say when there is room for one call again.
        """
        if not self._per_second:
            return
        now = asyncio.get_running_loop().time()
        level, at = self._levels.pop(scope, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_second)
        refused = level < 1.0
        self._levels[scope] = (level if refused else level - 1.0, now)
        if len(self._levels) > _MOST:
            self._levels.popitem(last=False)
        if refused:
            seconds = round((1.0 - level) / self._per_second, 3)
            raise RateLimited(
                f"Too many calls: at most {self._per_second:g} a second, {self._burst:g} at once (calls_per_second, "
                f"call_burst). Try again in {seconds:g} s, and pass wait_seconds instead of asking often.",
                details={"retry_after_seconds": seconds},
            )
