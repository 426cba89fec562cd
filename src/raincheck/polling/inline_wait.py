"""Inline waits: how long a call waits for its result before the handle, where the operation says "auto"."""

from __future__ import annotations

import math
from collections.abc import Callable

from raincheck.domain.task import scope_key
from raincheck.operations.operation import INLINE_WAIT_SECONDS, Policy
from raincheck.polling.history import Durations, History

LONGEST_AUTO_WAIT = 5.0
"""Below the seven seconds from which on, by the field's guide, a call belongs into the background."""

_ENOUGH_WEIGHT = 9.5
_SHORTEST_WAIT = 1.0
_MOST_KNOWN = 1000
_SHARES = (0.99, 0.95, 0.9, 0.75, 0.5)


def inline_wait_of(history: History | None) -> float:
    """The wait that pays, in seconds: what most calls take if that is at most `LONGEST_AUTO_WAIT`, else 0.

    Without a history (fewer than ten ends) it is `INLINE_WAIT_SECONDS`.
    """
    if history is None:
        return INLINE_WAIT_SECONDS
    lasted = Durations.of(history.lasted, history.lasted_cancelled)
    if lasted.weight < _ENOUGH_WEIGHT:
        return INLINE_WAIT_SECONDS
    for share in _SHARES:
        length = lasted.quantile(share)
        # Rounded up to half a second: what was measured is not to fall just outside.
        wait = math.inf if length is None else math.ceil(length * 2) / 2
        if wait <= LONGEST_AUTO_WAIT:
            return max(_SHORTEST_WAIT, wait)
    return 0.0


class InlineWaits:
    """The inline waits of one process's operations.

    Args:
        history: What is known of an operation as it is now; never waits.
    """

    def __init__(self, history: Callable[[str], History | None]) -> None:
        self._history = history
        self._learned: dict[tuple[str, str], tuple[int, float]] = {}

    def seconds(self, operation_type: str, policy: Policy, *, scope: str = "") -> float:
        """How long a scope's call of the operation waits; 0: it is answered with a handle at once."""
        if policy.mode == "task":
            return 0.0
        if policy.inline_wait_seconds != "auto":
            return policy.inline_wait_seconds
        history = self._history(operation_type)
        ends = 0 if history is None else history.ends
        key = scope_key(scope)
        name = operation_type, key if history is not None and key in history.of_scopes else ""
        known = self._learned.get(name)
        if known is None or known[0] != ends:
            if len(self._learned) > _MOST_KNOWN:
                self._learned.clear()
            known = self._learned[name] = (ends, inline_wait_of(history and history.seen_by(name[1])))
        return known[1]
