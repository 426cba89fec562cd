"""A heap of names by time, with removal by name."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

_Name = TypeVar("_Name")
_Place = TypeVar("_Place", bound=Any)

# Below this size a lazily cleaned heap is not worth cleaning.
_SLACK = 64


class TimerHeap(Generic[_Name, _Place]):
    """Names by a place each (a time, or a tuple that begins with one): a heap whose outdated entries are dropped when
    they come up."""

    def __init__(self) -> None:
        self._at: dict[_Name, _Place] = {}
        self._heap: list[tuple[_Place, _Name]] = []

    def __len__(self) -> int:
        return len(self._at)

    def put(self, name: _Name, at: _Place) -> None:
        """Enter a name, or move it."""
        if self._at.get(name) == at:
            return
        self._at[name] = at
        heappush(self._heap, (at, name))
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._heap = [(at, name) for name, at in self._at.items()]
            heapify(self._heap)

    def discard(self, name: _Name) -> None:
        """Forget a name."""
        self._at.pop(name, None)

    def first(self, limit: int, until: _Place | None = None) -> list[tuple[_Place, _Name]]:
        """The first entries, up to and including `until`. They stay."""
        found: list[tuple[_Place, _Name]] = []
        while self._heap and len(found) < limit and (until is None or self._heap[0][0] <= until):
            entry = heappop(self._heap)
            if self._at.get(entry[1]) == entry[0] and (not found or found[-1] != entry):
                found.append(entry)
        for entry in found:
            heappush(self._heap, entry)
        return found
