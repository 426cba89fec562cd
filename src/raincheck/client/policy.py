"""The polling policy: the backoff ladder, its bounds, and the pace of one wait."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LONGEST_HOLD = 25.0
"""The longest `wait_seconds` that is asked for: a server's own bound, where it does not set another."""

_SERVERS_OWN = frozenset({"hold_seconds", "max_hold_seconds", "patience", "calls_per_second", "call_burst", "learn"})

_LONGEST_HINT = 300.0
"""A hint beyond it is taken for this: a server's mistake must not put a caller to sleep for ever."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PollingPolicy:
    """How a driver waits for a task. Lengths of time are in seconds.

    Attributes:
        initial_interval_seconds: The first interval, where the server gives no hint.
        max_interval_seconds: The longest interval of the ladder.
        backoff_multiplier: What each interval is multiplied with.
        jitter: By up to which share an interval is made longer, never shorter, so that callers spread out.
        max_attempts: How often one wait asks before it gives up with `WaitTimedOut`; None: without bound (the task's
            deadline ends it).
        max_total_seconds: How long one wait lasts before it gives up likewise; None: without bound.
        hold_seconds: How long the server is asked to hold its answer (`wait_seconds`, at most 25; it may hold it for
            less); 0: not at all.
        answer_seconds: How long an answer may take beyond the hold before the connection counts as lost.
        call_retries: How often one call is tried again after a lost connection or a passing error.
    """

    initial_interval_seconds: float = 1.0
    max_interval_seconds: float = 30.0
    backoff_multiplier: float = 2.0
    jitter: float = 0.1
    max_attempts: int | None = None
    max_total_seconds: float | None = None
    hold_seconds: float = 20.0
    answer_seconds: float = 60.0
    call_retries: int = 5

    def __post_init__(self) -> None:
        _check("initial_interval_seconds", self.initial_interval_seconds, above=0)
        _check("max_interval_seconds", self.max_interval_seconds, least=self.initial_interval_seconds)
        _check("backoff_multiplier", self.backoff_multiplier, least=1)
        _check("jitter", self.jitter, least=0)
        _check("hold_seconds", self.hold_seconds, least=0)
        _check("answer_seconds", self.answer_seconds, above=0)
        _check("call_retries", self.call_retries, least=0)
        if self.max_attempts is not None:
            _check("max_attempts", self.max_attempts, least=1)
        if self.max_total_seconds is not None:
            _check("max_total_seconds", self.max_total_seconds, least=0)

    @classmethod
    def from_settings(
        cls,
        *,
        initial_interval_ms: float = 1000,
        max_interval_ms: float = 30000,
        backoff_multiplier: float = 2.0,
        max_attempts: int | None = 20,
        max_total_seconds: float | None = None,
        **servers_own: Any,
    ) -> PollingPolicy:
        """The policy of a `[polling]` table: `PollingPolicy.from_settings(**settings.polling.model_dump())`.

        What the server reads there for itself is passed over: how long it holds the answers of callers that name no
        time of their own and what it knows of their patience, how often a caller may call, and whether hints learn.

        Raises:
            ValueError: A number is out of its bounds.
            TypeError: There is no such key.
        """
        if unknown := servers_own.keys() - _SERVERS_OWN:
            raise TypeError(f"[polling] has no key {', '.join(sorted(unknown))}")
        return cls(
            initial_interval_seconds=initial_interval_ms / 1000,
            max_interval_seconds=max_interval_ms / 1000,
            backoff_multiplier=backoff_multiplier,
            max_attempts=max_attempts,
            max_total_seconds=max_total_seconds,
        )


class Pace:
    """The pace of one wait: what it has used of its bounds, and how long to pause next.

    Args:
        policy: The bounds.
        clock: A monotonic clock.
        rng: Gives the jitter.
    """

    def __init__(
        self, policy: PollingPolicy, *, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  spreads callers out, guards nothing
        self._started = clock()
        self._step = 0
        self._own_step = 0
        self._own_look_at = -math.inf
        self.attempts = 0

    @property
    def remaining(self) -> float:
        """Seconds left; infinite where the time is not bounded."""
        bound = self._policy.max_total_seconds
        return math.inf if bound is None else max(0.0, bound - (self._clock() - self._started))

    @property
    def used_up(self) -> str | None:
        """Which bound is reached, in words; None while none is."""
        policy = self._policy
        if policy.max_attempts is not None and self.attempts >= policy.max_attempts:
            return f"{self.attempts} attempts (max_attempts)"
        if policy.max_total_seconds is not None and self.remaining <= 0:
            return f"{policy.max_total_seconds:g} s (max_total_seconds)"
        return None

    def restart(self) -> None:
        """Begin the ladder again: something happened, so the next change may be near."""
        self._step = 0

    def count(self) -> None:
        """Count a question, but for one that the server wished for before this caller's own ladder would have asked."""
        now = self._clock()
        if now >= self._own_look_at:
            self.attempts += 1
            self._own_look_at = now + self._rung(self._own_step)
            self._own_step += 1

    def _rung(self, step: int) -> float:
        policy = self._policy
        # Bounded before the power: a long wait must not overflow a float.
        rung = policy.initial_interval_seconds * policy.backoff_multiplier ** min(step, 64)
        return min(policy.max_interval_seconds, rung)

    def interval(self, hint: float | None) -> float:
        """The next interval: the server's hint where it gave one, else the next rung of the ladder."""
        ladder = self._rung(self._step)
        self._step += 1
        base = ladder if hint is None or not math.isfinite(hint) or hint <= 0 else min(hint, _LONGEST_HINT)
        return base * (1 + self._rng.random() * self._policy.jitter)

    def pause(self, hint: float | None) -> float:
        """The next interval, cut where the time ends."""
        return min(self.interval(hint), self.remaining)


def _check(name: str, value: float, *, least: float | None = None, above: float | None = None) -> None:
    if math.isfinite(value) and (least is None or value >= least) and (above is None or value > above):
        return
    bound = f"at least {least:g}" if least is not None else f"above {above:g}"
    raise ValueError(f"{name} must be {bound}; it was {value!r}")
