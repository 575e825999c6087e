"""Where the metrics of two runs diverge."""

from __future__ import annotations

import math

import pytest

from experiments.run.metric_comparison import compare, distance


def test_two_runs_diverge_at_their_first_different_step() -> None:
    one = {"a": [(1, 1.0), (2, 2.0), (4, 4.0), (5, 5.0)]}
    other = {"a": [(1, 1.0), (3, 3.0), (4, 4.4), (5, 5.0)], "b": [(1, 0.0)]}
    first, second = compare(one, other)
    assert (first.name, first.num_common, first.first_step, first.last) == ("a", 3, 4, (5.0, 5.0))
    assert first.largest == pytest.approx(0.4 / 4.4)
    assert first.only_in == (1, 1)
    assert (second.num_common, second.last, second.only_in, second.first_step) == (0, None, (0, 1), None)
    assert compare(one, other, tolerance=0.1)[0].first_step is None
    assert compare(one, other, up_to=3)[0].only_in == (1, 1)
    assert compare(one, other, up_to=3)[0].first_step is None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (0.0, 0.0, 0.0),
        (0.0, -0.0, 0.0),
        (1.0, 1.0 + 2**-52, 2**-52),
        (math.nan, math.nan, 0.0),
        (math.nan, 1.0, math.inf),
        (math.inf, math.inf, 0.0),
        (math.inf, -math.inf, math.inf),
        (0.0, 5e-324, 1.0),
        (1e308, -1e308, math.inf),
    ],
)
def test_the_distance_is_relative_and_handles_nan_and_infinity(one: float, other: float, expected: float) -> None:
    assert distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert distance(other, one) == distance(one, other)


def test_metrics_of_the_delivered_weights_are_compared_by_their_last_values() -> None:
    one = {"test/x": [(10, 0.5)], "delivered/val/x": [(10, 0.4), (20, 0.6)], "val/x": [(10, 0.4)]}
    other = {"test/x": [(30, 0.75)], "delivered/val/x": [(10, 0.6)], "val/x": [(10, 0.4)]}
    delivered, test, val = compare(one, other)
    assert (delivered.first_step, delivered.last, delivered.only_in) == (None, (0.6, 0.6), (0, 0))
    assert (test.first_step, test.last, test.only_in) == (30, (0.5, 0.75), (0, 0))
    assert compare(one, other, up_to=20) == [val]
    assert [part.only_in for part in compare(one, {})] == [(1, 0)] * 3
