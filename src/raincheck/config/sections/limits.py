"""`[limits]`, and what an operation's own table may say of limits: how much is taken on, and when nothing is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raincheck.config.section import Section
from raincheck.config.sections.admission import AdmissionLimits
from raincheck.operations.limit_policy import COUNTED_CODES, CountedCode

_A_DAY = 86400


class LimitsSettings(AdmissionLimits):
    """`[limits]`: how many tasks may wait, how many of one caller run, and what each caller may have under way."""

    max_pending: int = Field(
        default=0,
        ge=0,
        le=10_000_000,
        description="How many tasks may be pending in the whole store; one more is refused with `queue_full`. 0: any "
        "number.",
    )
    max_pending_per_scope: int = Field(
        default=1000,
        ge=0,
        le=10_000_000,
        description="How many tasks of one scope (one caller) may be pending; one more is refused with `queue_full`. "
        "0: any number. Where it is not set, it holds for callers who authenticate.",
    )
    max_running_per_scope: int = Field(
        default=0,
        ge=0,
        le=2000,
        description="How many tasks of one scope (one caller) run at once, of all operations and in all processes on "
        "the store together; what is above it stays pending. 0: any number.",
    )


class BreakerSettings(Section):
    """`[operations.NAME.breaker]`: when calls are refused because the operation fails."""

    failure_rate: float = Field(
        default=0.5, gt=0, le=1, description="The share of failed calls within the window that opens the breaker."
    )
    window_seconds: float = Field(default=60, ge=1, le=_A_DAY, description="How far back calls count.")
    min_calls: int = Field(
        default=10, ge=1, le=1_000_000, description="How many calls the window must hold before their failures count."
    )
    cool_down_seconds: float = Field(
        default=30,
        ge=0.1,
        le=_A_DAY,
        description="How long an open breaker refuses every call, before some may try.",
    )
    probes: int = Field(
        default=3,
        ge=1,
        le=100,
        description="How many calls are let through after that: if all succeed it closes, the first that fails opens "
        "it again.",
    )
    codes: Annotated[tuple[CountedCode, ...], Field(strict=False)] = Field(
        default=COUNTED_CODES, min_length=1, description="Which error codes count as failed calls."
    )


class OperationLimits(Section):
    """The keys of an operation's table that limit it."""

    priority: int = Field(
        default=0, ge=-100, le=100, description="Of the pending tasks those with a higher one start first."
    )
    max_running: int = Field(
        default=0,
        ge=0,
        le=2000,
        description="How many of its tasks run at once, in all processes on the store together. 0: any number.",
    )
    starts_per_minute: float = Field(
        default=0,
        ge=0,
        le=6_000_000,
        description="How many of its tasks start in a minute, in all processes together, evenly spaced. 0: any number.",
    )
    start_burst: int = Field(
        default=1,
        ge=1,
        le=100_000,
        description="How many may start at once after a pause, where `starts_per_minute` is set.",
    )
    breaker: BreakerSettings | None = Field(
        default=None,
        description="The circuit breaker, a table of its own (it may be empty): see "
        "[operations.NAME.breaker]. Unset: none.",
    )
