"""Poll schedules: the moments of a task's life at which a caller should ask, from its operation's durations.

Two costs pull apart: asking in vain, and asking late. Dynamic programming over the known lengths of time gives the
schedules that are best for a price of a question in seconds of lag, for a dozen prices, and those with the least lag
for each number of questions. Of all these the one is taken that beats the ladder (the first interval, then each a
multiple of the one before) by most where it beats it by least: median, 95th percentile and mean, of questions and of
lag. So learning pays on both sides.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from raincheck.polling.history import Durations

_POINTS = 48
_MOST_MOMENTS = 1000
_HORIZON = 200
"""How many of the longest intervals a schedule looks ahead: beyond it, one is as good as the other."""
_PRICES = (0.003, 0.006, 0.012, 0.025, 0.045, 0.07, 0.1, 0.15, 0.25, 0.4, 0.8)
"""What a question costs, in shares of the mean duration."""
_MOST_LOOKS = 12
_USUAL, _UNUSUAL_COUNTS = 0.75, 0.5
_MUCH_LONGER = 1.5
_IN_VAIN = 0.4
_TOO_NEAR = 0.5
# The median lag is the easiest to lose and the first to be felt; the longest waits ask the most.
_WEIGHTS = (1.0, 1.15, 1.0, 2.0, 1.2, 1.2)
# Lags below this share of the mean duration are alike.
_SLIGHT = 0.02
# The ladder meets a duration by luck or misses it by much: it is judged on lengths of time a little off, too.
_BLUR = (0.85, 0.93, 1.0, 1.07, 1.15)


class BackoffLadder(NamedTuple):
    """The intervals of one who knows nothing, and the bounds of one who does; in seconds.

    Attributes:
        initial: The first interval, and the shortest.
        longest: The longest.
        multiplier: What each interval is multiplied with.
    """

    initial: float = 1.0
    longest: float = 30.0
    multiplier: float = 2.0

    def interval(self, age: float) -> float:
        """The interval at that age of a task, for one who has followed the ladder."""
        return min(self.longest, self.initial + max(0.0, age) * (self.multiplier - 1))

    def moments(self, until: float) -> list[float]:
        """When one who follows it asks, up to the first time not before `until`; at most `_MOST_MOMENTS`."""
        moments = [self.initial]
        while moments[-1] < until and len(moments) < _MOST_MOMENTS:
            moments.append(moments[-1] + self.interval(moments[-1]))
        if moments[-1] < until:
            moments.append(until)
        return moments


class Schedule(NamedTuple):
    """The moments of a task's life at which to look, in seconds from where its durations are counted.

    Attributes:
        moments: In order.
        ladder: The bounds.
    """

    moments: tuple[float, ...]
    ladder: BackoffLadder

    def interval(self, age: float) -> float:
        """How long from that age on to the next look; never outside the ladder's bounds."""
        ladder = self.ladder
        # One who comes a little early is not sent round twice.
        later = bisect_right(self.moments, age + ladder.initial * _TOO_NEAR)
        wanted = self.moments[later] - age if later < len(self.moments) else age * _IN_VAIN
        return min(ladder.longest, max(ladder.initial, wanted))


class _Weighed(NamedTuple):
    """Lengths of time and their shares, with what adds up to each: of the shares, and of shares times lengths."""

    lengths: list[float]
    shares: list[float]
    summed: list[float]
    products: list[float]

    @property
    def mean(self) -> float:
        return self.products[-1] / self.summed[-1]


def schedule_of(durations: Durations, ladder: BackoffLadder) -> Schedule:
    """The schedule for tasks that take so long; there is at least one bucket."""
    known = _weighed(durations, ladder.initial, _HORIZON * ladder.longest)
    reference = [0.0] * 6
    for blur in _BLUR:
        blurred = [length * blur for length in known.lengths]
        for place, figure in enumerate(_figures(ladder.moments(blurred[-1]), blurred, known.shares)):
            reference[place] += figure / len(_BLUR)
    most = min(_MOST_LOOKS, math.ceil(reference[1]) + 1)
    choice = {_cheapest(known, ladder, price * known.mean) for price in _PRICES} | _soonest(known, ladder, most)
    slight = _SLIGHT * known.mean
    scored = [(_score(_figures(each, known.lengths, known.shares), reference, slight), each) for each in choice]
    return Schedule(min(scored)[1], ladder)


def _weighed(durations: Durations, shortest: float, horizon: float) -> _Weighed:
    """At most `_POINTS` lengths of time, each with the share of all that is not above it and above the one before."""
    lengths, shares = list[float](), list[float]()
    step = (sum(each.weight for each in durations.buckets) + durations.open) / _POINTS
    gathered = 0.0
    for upto, weight in durations.buckets:
        gathered += weight
        if gathered >= step - 1e-9:
            lengths.append(upto)
            shares.append(gathered)
            gathered = 0.0
    last = durations.buckets[-1].upto
    if gathered > 1e-9:
        lengths.append(last)
        shares.append(gathered)
    if durations.open > 1e-6:
        lengths.append(last * _MUCH_LONGER)
        shares.append(durations.open)
    # No call comes before the shortest interval is over, and beyond the horizon nothing needs to be exact.
    lengths = [min(max(length, shortest), horizon) for length in lengths]
    summed, products = [0.0], [0.0]
    for length, share in zip(lengths, shares, strict=True):
        summed.append(summed[-1] + share)
        products.append(products[-1] + share * length)
    return _Weighed(lengths, shares, summed, products)


def _cheapest(known: _Weighed, ladder: BackoffLadder, price: float) -> tuple[float, ...]:
    """The moments with the least mean of `price` times questions, and lag; the last length of time is always one."""
    lengths, summed, products = [0.0, *known.lengths], known.summed, known.products
    last = len(lengths) - 1
    shortest, longest = ladder.initial, ladder.longest
    costs, before = [0.0] + [math.inf] * last, [0] * (last + 1)
    for there in range(1, last + 1):
        least, least_from = math.inf, 0
        for here in range(there):
            gap = lengths[there] - lengths[here]
            if gap < shortest:
                if there < last:
                    break
                gap = shortest
            questions = 1 if gap <= longest else math.ceil(gap / longest - 1e-9)
            lag = (lengths[here] + gap) * (summed[there] - summed[here]) - (products[there] - products[here])
            cost = costs[here] + price * questions * (summed[last] - summed[here]) + lag
            if cost < least:
                least, least_from = cost, here
        costs[there], before[there] = least, least_from
    found, there = list[float](), last
    while there > 0:
        here = before[there]
        # The length itself, not one that adds up to nearly it: a look just before it would be in vain.
        reached = max(lengths[there], lengths[here] + shortest)
        questions = max(1, math.ceil((reached - lengths[here]) / longest - 1e-9))
        # Looks on the way that the longest interval asks for come as late as they may: close to the one that counts.
        found += (reached - longest * number for number in range(questions))
        there = here
    return tuple(reversed(found))


def _soonest(known: _Weighed, ladder: BackoffLadder, most: int) -> set[tuple[float, ...]]:
    """For each number of looks up to `most` the one with the least lag, where the unusual counts less."""
    lengths, last = [0.0, *known.lengths], len(known.lengths)
    summed, products = [0.0], [0.0]
    for length, share, upto in zip(known.lengths, known.shares, known.summed[1:], strict=True):
        counted = share * (1.0 if upto <= _USUAL * known.summed[-1] else _UNUSUAL_COUNTS)
        summed.append(summed[-1] + counted)
        products.append(products[-1] + counted * length)
    shortest, longest = ladder.initial, ladder.longest
    layers, befores = [[0.0] + [math.inf] * last], [[0] * (last + 1)]
    for _ in range(most):
        above, costs, before = layers[-1], [math.inf] * (last + 1), [0] * (last + 1)
        for there in range(1, last + 1):
            least, least_from = math.inf, 0
            for here in range(there):
                gap = lengths[there] - lengths[here]
                if gap < shortest:
                    if there < last:
                        break
                    gap = shortest
                if gap > longest or above[here] == math.inf:
                    continue
                span = summed[there] - summed[here]
                cost = above[here] + (lengths[here] + gap) * span - (products[there] - products[here])
                if cost < least:
                    least, least_from = cost, here
            costs[there], before[there] = least, least_from
        layers.append(costs)
        befores.append(before)
    found = set[tuple[float, ...]]()
    for looks in range(1, most + 1):
        if layers[looks][last] == math.inf:
            continue
        moments, there = list[float](), last
        for layer in range(looks, 0, -1):
            here = befores[layer][there]
            moments.append(max(lengths[there], lengths[here] + shortest))
            there = here
        found.add(tuple(reversed(moments)))
    return found


def _figures(moments: Sequence[float], lengths: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Questions and lag, each as median, 95th percentile and mean."""
    places = [bisect_left(moments, length) for length in lengths]
    questions = [(place + 1.0, share) for place, share in zip(places, shares, strict=True)]
    lags = [(moments[place] - length, share) for place, length, share in zip(places, lengths, shares, strict=True)]
    return [*_summary(questions), *_summary(lags)]


def _summary(weighed: list[tuple[float, float]]) -> tuple[float, float, float]:
    weighed.sort()
    whole = sum(share for _, share in weighed)
    reached, median, high = 0.0, math.nan, math.nan
    for value, share in weighed:
        reached += share
        if median != median and reached >= 0.5 * whole - 1e-9:
            median = value
        if reached >= 0.95 * whole - 1e-9:
            high = value
            break
    return median, high, sum(value * share for value, share in weighed) / whole


def _score(figures: Sequence[float], reference: Sequence[float], slight: float) -> float:
    """How it does against the ladder where it does worst; the lower the better."""
    ratios = [
        (figure + slight * (place > 2)) / (other + slight * (place > 2))
        for place, (figure, other) in enumerate(zip(figures, reference, strict=True))
    ]
    return max(ratio * weight for ratio, weight in zip(ratios, _WEIGHTS, strict=True)) + 0.1 * sum(ratios) / len(ratios)
