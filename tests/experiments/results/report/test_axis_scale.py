"""Ticks of a report's axes: round values, and no two labels over each other."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from experiments.results.report.axis_scale import make_scale, thin_ticks

CHAR, GAP = 0.036, 0.02


@pytest.mark.parametrize("decades", [0.5, 1.2, 2.4, 4.0, 9.0])
@pytest.mark.parametrize("count", [2, 5, 40])
def test_labels_of_values_that_a_strategy_draws_do_not_overlap(decades: float, count: int) -> None:
    chance = random.Random(f"{decades} {count}")
    for _ in range(20):
        values = [10 ** chance.uniform(-8, -8 + decades) for _ in range(count)]
        scale = make_scale(values)
        kept = thin_ticks(scale.ticks, GAP, CHAR)
        assert kept
        assert all(0 <= position <= 1 for position, _ in kept)
        for (left, before), (right, after) in pairwise(kept):
            assert right - left >= GAP + CHAR * (len(before) + len(after)) / 2


def test_values_that_a_user_lists_are_the_ticks() -> None:
    assert [text for _, text in make_scale([0.001, 0.003, 0.01]).ticks] == ["0.001", "0.003", "0.01"]
    assert [text for _, text in make_scale([0.00123456, 0.0034567, 0.01234567]).ticks] == ["0.002", "0.005", "0.01"]
