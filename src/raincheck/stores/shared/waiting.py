"""The rotation of `TaskStore.waiting`, for the stores that do it in Python."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from math import ceil


def behind(scopes: Sequence[str], after: str, limit: int) -> list[str]:
    """Up to `limit` of the sorted scopes: first those behind `after`, then the others."""
    start = bisect_right(scopes, after)
    return [*scopes[start:], *scopes[:start]][:limit]


def share(limit: int, scopes: Collection[object]) -> int:
    """How many tasks of each of these scopes make `limit`."""
    return ceil(limit / len(scopes))
