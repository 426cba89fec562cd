"""The Retry-After header (RFC 9110 §10.2.3): seconds or a date."""

from __future__ import annotations

import email.utils
import math
from datetime import UTC, datetime


def retry_after(value: str | None, *, longest: float, now: datetime) -> float | None:
    """The seconds that an answer asks to wait, at most `longest`; None where it says nothing usable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        seconds = (aware - now).total_seconds()
    return min(max(0.0, seconds), longest) if math.isfinite(seconds) else None
