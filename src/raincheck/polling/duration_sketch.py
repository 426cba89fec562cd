"""A sketch of many durations in little space: how many there were in each of the buckets of a logarithmic scale.

The idea is that of DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019): quantiles within a known relative error, and two
sketches merge by adding. The package `ddsketch` keeps its counts in dense arrays that it serialises by protobuf only
and cannot age; here they are a sparse mapping of weights, which is JSON and fades by one multiplication.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

RELATIVE_ERROR = 0.01
"""How far a quantile may be from the true one, as a share of it; below a millisecond a millisecond."""

_STEP = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
_MID = 1 - RELATIVE_ERROR
_SHORTEST = 1e-3
_LONGEST = 1e9
_FAINT = 0.01


class Bucket(NamedTuple):
    """Durations that count as one.

    Attributes:
        upto: The longest of them, in seconds.
        weight: How much they weigh; each weighed 1 when it was new.
    """

    upto: float
    weight: float

    @property
    def middle(self) -> float:
        """What stands for all of them: none is farther from it than the relative error."""
        return self.upto * _MID


class DurationSketch:
    """Durations in seconds, each with a weight.

    Args:
        durations: What is in it at first, each with weight 1.
    """

    __slots__ = ("_weights",)

    def __init__(self, durations: Iterable[float] = ()) -> None:
        self._weights: dict[int, float] = {}
        for each in durations:
            self.add(each)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DurationSketch) and self._weights == other._weights

    __hash__ = None  # type: ignore[assignment]  it changes

    def __repr__(self) -> str:
        return f"Sketch({self._weights!r})"

    @property
    def weight(self) -> float:
        """What all of it weighs."""
        return sum(self._weights.values())

    def add(self, seconds: float) -> None:
        """One more duration."""
        bounded = min(max(seconds, _SHORTEST), _LONGEST)
        # A bucket's own bound must fall into it, whatever the logarithm's last digit.
        index = math.ceil(math.log(bounded) / _STEP - 1e-9)
        self._weights[index] = self._weights.get(index, 0.0) + 1.0

    def merge(self, other: DurationSketch) -> None:
        """Take in all of another sketch."""
        for index, weight in other._weights.items():
            self._weights[index] = self._weights.get(index, 0.0) + weight

    def fade(self, factor: float) -> None:
        """Let everything weigh less; what weighs next to nothing is forgotten."""
        if factor < 1:
            faded = ((index, weight * factor) for index, weight in self._weights.items())
            self._weights = {index: weight for index, weight in faded if weight >= _FAINT}

    def copy(self) -> DurationSketch:
        """Another one with the same in it."""
        twin = DurationSketch()
        twin._weights = dict(self._weights)
        return twin

    def __iter__(self) -> Iterator[Bucket]:
        """The buckets that hold something, shortest durations first."""
        return (Bucket(math.exp(index * _STEP), weight) for index, weight in sorted(self._weights.items()))

    def quantile(self, share: float) -> float | None:
        """The duration that this share of all does not exceed; None where there is none."""
        wanted = share * self.weight
        reached, found = 0.0, None
        for found in self:
            reached += found.weight
            if reached >= wanted - 1e-9:
                break
        return None if found is None else found.middle

    def to_json(self) -> list[float]:
        """Index and weight of each bucket in turn."""
        flat: list[float] = []
        for index, weight in sorted(self._weights.items()):
            flat += (index, _short(weight))
        return flat

    @classmethod
    def from_json(cls, value: Any) -> DurationSketch:
        """The sketch that `to_json` wrote.

        Raises:
            ValueError: It is none.
        """
        flat = cast("list[Any]", value) if isinstance(value, list) else None
        if flat is None or len(flat) % 2:
            raise ValueError("a sketch is a list of indices and weights")
        sketch = cls()
        lowest, highest = math.floor(math.log(_SHORTEST) / _STEP) - 1, math.ceil(math.log(_LONGEST) / _STEP) + 1
        for index, weight in zip(flat[::2], flat[1::2], strict=True):
            if type(index) is not int or not lowest <= index <= highest:
                raise ValueError("an index of a sketch is a whole number of its scale")
            if type(weight) not in (int, float) or not 0 < weight < math.inf:
                raise ValueError("a weight of a sketch is a number above 0")
            sketch._weights[index] = sketch._weights.get(index, 0.0) + weight
        return sketch


def _short(weight: float) -> float:
    return int(weight) if weight == int(weight) else float(f"{weight:.4g}")
