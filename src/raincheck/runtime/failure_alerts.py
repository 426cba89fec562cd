"""Says in the log when too many tasks of an operation fail (`observability.alert_on_failure_rate`)."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

_WINDOW = 100
_ENOUGH = 20
_QUIET_SECONDS = 60.0


class FailureRate:
    """Counts the last hundred outcomes of each operation on this worker.

    Args:
        threshold: The share of failed tasks from which on a warning is logged, at most once a minute and not
            before twenty outcomes of the operation are known.
        monotonic: The clock of intervals.
    """

    def __init__(self, threshold: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._threshold = threshold
        self._monotonic = monotonic
        self._outcomes: dict[str, deque[bool]] = {}
        self._told_at: dict[str, float] = {}

    def settled(self, operation_type: str, *, failed: bool) -> None:
        """A task of that operation was settled here."""
        outcomes = self._outcomes.setdefault(operation_type, deque(maxlen=_WINDOW))
        outcomes.append(failed)
        if not failed or len(outcomes) < _ENOUGH:
            return
        rate = sum(outcomes) / len(outcomes)
        now = self._monotonic()
        if rate >= self._threshold and now - self._told_at.get(operation_type, -_QUIET_SECONDS) >= _QUIET_SECONDS:
            self._told_at[operation_type] = now
            logger.warning(
                "%d of the last %d tasks failed", sum(outcomes), len(outcomes), extra={"operation": operation_type}
            )
