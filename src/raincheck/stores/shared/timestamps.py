"""Moments as stores keep them: whole microseconds since 1970, exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(moment: datetime) -> int:
    """The moment's microseconds."""
    since = moment - EPOCH
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds


def from_micros(micros: int) -> datetime:
    """The moment again."""
    return EPOCH + timedelta(microseconds=micros)


def length_in_micros(seconds: float | None) -> int | None:
    """A length of time, where there is one."""
    return None if seconds is None else round(seconds * 1_000_000)


def micros_or_none(moment: datetime | None) -> int | None:
    """`to_micros`, where there is a moment."""
    return None if moment is None else to_micros(moment)


def moment_or_none(micros: int | None) -> datetime | None:
    """`from_micros`, where there is one."""
    return None if micros is None else EPOCH + timedelta(microseconds=micros)
