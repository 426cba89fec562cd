"""The limit policy of an operation: concurrency, start rate, and the circuit breaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from raincheck.errors import ConfigurationError

if TYPE_CHECKING:
    from raincheck.operations.operation import Policy

LARGEST_WHOLE = 1024 * 1024
"""The largest result that is handed back in one answer, in bytes: a larger one is read in pages."""

_HALF_GIB = 536_870_912
_TEN_YEARS = 315_360_000

CountedCode = Literal["operation_failed", "upstream_error", "timeout", "worker_lost", "result_too_large", "internal"]

COUNTED_CODES: tuple[CountedCode, ...] = ("operation_failed", "upstream_error", "timeout", "internal")
"""The error codes that count as a failed call where a breaker names none. A lost worker is not among them: the restart
of a fleet is no failure of its operations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerPolicy:
    """When a circuit breaker refuses calls (docs/limits.md draws it).

    Attributes:
        failure_rate: The share of failed calls within the window from which on it opens; above 0, at most 1.
        window_seconds: How far back calls count.
        min_calls: How many calls the window must hold.
        cool_down_seconds: How long it then refuses every call.
        probes: How many calls are let through after that; all must succeed for it to close.
        codes: Which error codes count as failed calls.
    """

    failure_rate: float = 0.5
    window_seconds: float = 60.0
    min_calls: int = 10
    cool_down_seconds: float = 30.0
    probes: int = 3
    codes: tuple[CountedCode, ...] = COUNTED_CODES

    def __post_init__(self) -> None:
        _bound("failure_rate", self.failure_rate, 0, 1, above=True)
        _bound("window_seconds", self.window_seconds, 1, 86400)
        _bound("min_calls", self.min_calls, 1, 1_000_000)
        _bound("cool_down_seconds", self.cool_down_seconds, 0.1, 86400)
        _bound("probes", self.probes, 1, 100)
        allowed = CountedCode.__args__
        if not self.codes or not set(self.codes) <= set(allowed):
            raise ConfigurationError(
                f"A breaker's codes must be some of {', '.join(allowed)}; they were {self.codes!r:.80}."
            )


def breaker_policy(given: Mapping[str, Any]) -> BreakerPolicy:
    """The policy of a breaker as a declaration has it, by the names of its members.

    Raises:
        ConfigurationError: One is unknown or out of its bounds.
    """
    known = {each.name for each in fields(BreakerPolicy)}
    if unknown := ", ".join(sorted(set(given) - known)):
        raise ConfigurationError(f"A breaker has no setting {unknown}. Allowed: {', '.join(sorted(known))}.")
    members = dict(given)
    if "codes" in members:
        members["codes"] = tuple(members["codes"])
    return BreakerPolicy(**members)


def check_limits(policy: Policy) -> None:
    """Check the numbers of a policy: the bounds are those of the settings, but for the shortest times and sizes.

    Raises:
        ConfigurationError: One is out of its bounds.
    """
    _bound("priority", policy.priority, -100, 100)
    _bound("max_running", policy.max_running, 0, 2000)
    _bound("starts_per_minute", policy.starts_per_minute, 0, 6_000_000)
    _bound("start_burst", policy.start_burst, 1, 100_000)
    _bound("max_attempts", policy.max_attempts, 1, 100)
    _bound("retry_attempts", policy.retry_attempts, 0, 100)
    _bound("max_result_bytes", policy.max_result_bytes, 1, _HALF_GIB)
    _bound("max_inline_bytes", policy.max_inline_bytes, 1, LARGEST_WHOLE)
    if policy.inline_wait_seconds != "auto":
        _bound("inline_wait_seconds", policy.inline_wait_seconds, 0, 60, other='"auto" or ')
    if policy.timeout_seconds is not None:
        _bound("timeout_seconds", policy.timeout_seconds, 0, _TEN_YEARS, above=True)
    _bound("default_max_wait_seconds", policy.default_max_wait_seconds, 0, _TEN_YEARS, above=True)
    _bound("max_wait_ceiling_seconds", policy.max_wait_ceiling_seconds, 0, _TEN_YEARS, above=True)
    _bound("ttl_seconds", policy.ttl_seconds, 0, _TEN_YEARS, above=True)


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Check a value that is one of a few words.

    Raises:
        ConfigurationError: It is none of them.
    """
    if value not in allowed:
        words = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
        raise ConfigurationError(f"{name} must be {words}; it was {value!r:.40}.")


def _bound(name: str, value: float, lowest: float, highest: float, *, above: bool = False, other: str = "") -> None:
    fits = not isinstance(value, bool) and isinstance(value, int | float) and lowest <= value <= highest  # pyright: ignore[reportUnnecessaryIsInstance]
    if not fits or (above and value == lowest):
        raise ConfigurationError(
            f"{name} must be {other}{'above' if above else 'from'} {lowest:.15g} "
            f"{'and at most' if above else 'to'} {highest:.15g}; it was {value!r:.40}."
        )
