"""Round robin among scopes: the one served longest ago is next."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")
_REMEMBERED = 10_000


class RoundRobin:
    """The order of scopes by when they were last served; those that never were come first.

    Attributes:
        last: The scope that was served last, empty where none was.
    """

    def __init__(self) -> None:
        self._served: OrderedDict[str, int] = OrderedDict()
        self._number = 0
        self.last = ""

    def served(self, scope: str) -> None:
        """It is the others' turn now."""
        self._number += 1
        self._served[scope] = self._number
        self._served.move_to_end(scope)
        self.last = scope
        if len(self._served) > _REMEMBERED:
            self._served.popitem(last=False)

    def in_turn(
        self, waiting: Iterable[_T], scope_of: Callable[[_T], str], rank: Callable[[_T], Any] = lambda _: 0
    ) -> list[_T]:
        """What waits, given in its own order, as the scopes take turns: one of each, then a second one of each.

        Args:
            waiting: What waits.
            scope_of: Whose it is.
            rank: Only among those of one rank turns are taken; the lowest comes first.
        """
        rounds: Counter[tuple[Any, str]] = Counter()
        keyed: list[tuple[Any, int, int, _T]] = []
        for each in waiting:
            ranked, scope = rank(each), scope_of(each)
            keyed.append((ranked, rounds[ranked, scope], self._served.get(scope, 0), each))
            rounds[ranked, scope] += 1
        keyed.sort(key=lambda entry: entry[:3])
        return [each for *_, each in keyed]
