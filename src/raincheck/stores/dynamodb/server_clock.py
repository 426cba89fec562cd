"""DynamoDB's clock, from the `Date` header of its answers: whole seconds, but one for every answer.

An answer that says 12:00:07 was written between 12:00:07 and 12:00:08, and between the call and its answer here. So
each one bounds what has to be added to this machine's uptime; all together they leave a few milliseconds.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from raincheck.timing.clock import monotonic

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# By so much, at most, a second of this machine differs from one of theirs.
_DRIFT = 200e-6
# And by so many seconds their machines from each other.
_DISAGREEMENT = 0.25


class AnsweredClock:
    """What time it is there, as far as the answers tell; for any thread."""

    def __init__(self) -> None:
        # The lowest and the highest bound, and when they were heard: written and read at once.
        self._bounds = float("-inf"), float("inf"), 0.0

    def heard(self, date: str, asked_at: float, heard_at: float) -> None:
        """An answer with that `Date` came; the times are those of `elapsed` before the call and after it."""
        try:
            second = parsedate_to_datetime(date).timestamp()
        except (TypeError, ValueError):
            return
        known_lowest, known_highest, known_at = self._bounds
        since = max(0.0, heard_at - known_at)
        least, most = second - heard_at, second + 1 - asked_at
        lowest = max(known_lowest - _DRIFT * since, least)
        highest = min(known_highest + _DRIFT * since, most)
        if lowest - highest > _DISAGREEMENT:
            # Their clock was set: what was known before counts no more.
            lowest, highest = least, most
        elif lowest > highest:
            # Another of their machines answered; the last one to speak is right.
            lowest = highest = min(max(lowest, least), most)
        self._bounds = lowest, highest, heard_at

    def after(self, seconds: float | None, otherwise: datetime) -> datetime:
        """So many seconds after their now; the other where that is not known, or not asked for."""
        now = None if seconds is None else self.now()
        return otherwise if now is None or seconds is None else now + timedelta(seconds=seconds)

    def now(self) -> datetime | None:
        """Their time; None before the first answer."""
        lowest, highest, _ = self._bounds
        return None if lowest == float("-inf") else _EPOCH + timedelta(seconds=monotonic() + (lowest + highest) / 2)
