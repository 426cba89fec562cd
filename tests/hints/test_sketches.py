"""The sketch of durations: exact enough, mergeable, storable."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raincheck.polling.duration_sketch import RELATIVE_ERROR, DurationSketch

durations = st.floats(min_value=0.001, max_value=1e8)
many = st.lists(durations, min_size=1, max_size=80)


@given(many, st.floats(min_value=0, max_value=1))
def test_a_quantile_is_within_a_hundredth_of_the_exact_one(values: list[float], share: float) -> None:
    exact = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    found = DurationSketch(values).quantile(share)
    assert found is not None
    assert abs(found - exact) <= exact * RELATIVE_ERROR * (1 + 1e-6)


@given(many, many)
def test_merging_is_adding_in_whatever_order(left: list[float], right: list[float]) -> None:
    one, other = DurationSketch(left), DurationSketch(right)
    one.merge(DurationSketch(right))
    other.merge(DurationSketch(left))
    assert one == other == DurationSketch([*left, *right])
    assert one.weight == len(left) + len(right)


@given(many)
def test_a_sketch_comes_back_from_its_json(values: list[float]) -> None:
    sketch = DurationSketch(values)
    assert DurationSketch.from_json(json.loads(json.dumps(sketch.to_json()))) == sketch


@given(st.one_of(st.floats(max_value=0.001, allow_nan=False), st.floats(min_value=1e9, allow_nan=False)))
def test_what_is_off_the_scale_counts_at_its_end(value: float) -> None:
    sketch = DurationSketch([value])
    assert DurationSketch.from_json(sketch.to_json()) == sketch
    found = sketch.quantile(0.5)
    assert found is not None
    assert 0.00098 <= found <= 1.01e9


def test_many_thousand_durations_take_little_space() -> None:
    sketch = DurationSketch(20 * 1.0005**number for number in range(5000))
    assert len(json.dumps(sketch.to_json())) < 3000


def test_what_fades_is_forgotten_at_last() -> None:
    sketch = DurationSketch([1.0, 1.0, 5.0])
    sketch.fade(0.5)
    assert (sketch.weight, sketch.quantile(0.5)) == (1.5, pytest.approx(1.0, rel=0.02))
    sketch.fade(0.01)
    assert sketch.weight == pytest.approx(0.01)
    assert sketch.quantile(1.0) == pytest.approx(1.0, rel=0.02)
    sketch.fade(0.01)
    assert sketch.quantile(1.0) is None
    assert sketch.to_json() == []


@pytest.mark.parametrize(
    "value", [None, {}, "x", [1], [1, 2, 3], [1.5, 1], [True, 1], [1, 0], [1, -1], [1, "1"], [1, 1e999], [10**9, 1]]
)
def test_what_is_no_sketch_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="sketch"):
        DurationSketch.from_json(value)
