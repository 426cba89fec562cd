"""The keys of `[limits]` that bound what each scope may have under way in one server."""

from __future__ import annotations

from pydantic import Field

from raincheck.config.section import Section

_MIB = 1024 * 1024


class AdmissionLimits(Section):
    """What each scope (one caller) may have under way in one process; more is refused with `rate_limited`."""

    max_sessions_per_scope: int = Field(
        default=1000,
        ge=0,
        le=1_000_000,
        description="How many sessions of one scope may be open in one server (protocols up to 2025-11-25, "
        "10,000 in all); one more is refused with `rate_limited`. 0: any number.",
    )
    max_calls_per_scope: int = Field(
        default=2000,
        ge=0,
        le=1_000_000,
        description="How many requests of one scope may be under way at once in one server, held answers among them; "
        "one more is refused with `rate_limited`. 0: any number.",
    )
    max_inline_calls_per_scope: int = Field(
        default=200,
        ge=0,
        le=1_000_000,
        description='How many calls of one scope may run in their requests at once in one server (`mode = "inline"`: '
        "threads and processes among them); one more is refused with `rate_limited`. 0: any number.",
    )
    max_streams_per_scope: int = Field(
        default=100,
        ge=0,
        le=1_000_000,
        description="How many streams (`subscriptions/listen`) of one scope may be open in one server; one more is "
        "refused with `rate_limited`. 0: any number.",
    )
    max_bytes_per_scope: int = Field(
        default=32 * _MIB,
        ge=0,
        le=64 * 1024 * _MIB,
        description="How many bytes of requests and answers of one scope may be under way in one server: read, and "
        "not yet taken by their caller; what would be more is refused with `rate_limited`. 0: any number.",
    )
    max_bytes: int = Field(
        default=128 * _MIB,
        ge=0,
        le=64 * 1024 * _MIB,
        description="The same, of all scopes together. One answer alone is always let through.",
    )
