"""Bytes in flight: request and result bytes not yet delivered, by scope and in total."""

from __future__ import annotations

from typing import Any, cast

from raincheck.errors import RateLimited
from raincheck.mcp.admission.slots import AGAIN_SECONDS

_PLAIN = 8
"""What a number, or the key of a member, is taken to have."""


class BytesUnderWay:
    """Counts bytes. What is larger than a bound is let through where nothing else is under way: else it never were.

    Args:
        per_scope: How many a scope may have; 0: any number.
        in_all: How many all scopes together may have; 0: any number.
    """

    def __init__(self, per_scope: int, in_all: int) -> None:
        self._per_scope = per_scope
        self._in_all = in_all
        self._of_scopes: dict[str, int] = {}
        self._total = 0

    def take(self, scope: str, size: int, *, must: bool = False) -> None:
        """Count so many bytes more; with `must` also where there is no room: what follows is then refused.

        Raises:
            RateLimited: There is no room.
        """
        held = self._of_scopes.get(scope, 0)
        if not must:
            _check(held, size, self._per_scope, _OWN)
            _check(self._total, size, self._in_all, _ALL)
        self._of_scopes[scope] = held + size
        self._total += size

    def check(self, scope: str) -> None:
        """Check that there is room at all.

        Raises:
            RateLimited: There is none.
        """
        held = self._of_scopes.get(scope, 0)
        _check(held, 1, self._per_scope, _OWN)
        if held:
            # Who has nothing under way does not wait for those who have.
            _check(self._total, 1, self._in_all, _ALL)

    def give_back(self, scope: str, size: int) -> None:
        """They are with their caller, or gone."""
        if size:
            self._total -= size
            left = self._of_scopes[scope] - size
            if left:
                self._of_scopes[scope] = left
            else:
                del self._of_scopes[scope]


_OWN = (
    "Too many bytes of yours are under way: at most {most} (max_bytes_per_scope). Take the answers that you asked for."
)
_ALL = "All callers together have too many bytes under way: at most {most} (max_bytes). Call again."


def _check(held: int, size: int, most: int, refusal: str) -> None:
    if most and held and held + size > most:
        raise RateLimited(
            refusal.format(most=most),
            details={"retry_after_seconds": AGAIN_SECONDS, "most": most},
        )


def size_of(value: Any) -> int:
    """About how many bytes the value has as JSON."""
    size, rest = 0, [value]
    while rest:
        each: Any = rest.pop()
        if isinstance(each, str):
            size += len(each)
        elif isinstance(each, dict):
            members = cast("dict[str, Any]", each)
            size += _PLAIN * len(members)
            rest.extend(members.values())
        elif isinstance(each, list | tuple):
            rest.extend(cast("list[Any]", each))
        else:
            size += _PLAIN
    return size
