"""Slots: bounds on concurrent things of one kind, per scope, in this process."""

from __future__ import annotations

from raincheck.errors import RateLimited

AGAIN_SECONDS = 1.0
"""When to try again is not known of what ends by itself: soon, but not at once."""


class Places:
    """Counts the things of one kind, by scope.

    Args:
        most: How many a scope may have; 0: any number.
        refusal: What who wants one more is told, with `{most}` in it.
    """

    def __init__(self, most: int, refusal: str) -> None:
        self._most = most
        self._refusal = refusal
        self._taken: dict[str, int] = {}

    def take(self, scope: str) -> None:
        """Take one place.

        Raises:
            RateLimited: The scope has as many as it may have.
        """
        taken = self._taken.get(scope, 0)
        if self._most and taken >= self._most:
            raise RateLimited(
                self._refusal.format(most=self._most),
                details={"retry_after_seconds": AGAIN_SECONDS, "most": self._most},
            )
        self._taken[scope] = taken + 1

    def give_back(self, scope: str) -> None:
        """Give one place back."""
        left = self._taken[scope] - 1
        if left:
            self._taken[scope] = left
        else:
            del self._taken[scope]

    def taken(self, scope: str) -> int:
        """How many the scope has."""
        return self._taken.get(scope, 0)
