"""Compares the simulator with published measurements; docs/simulator.md states the errors."""

from __future__ import annotations

import pytest

from benchmarks.published_scaling import bounds_s, null_steps, stragglers


def test_null_steps_of_a_hundred_workers_follow_from_one() -> None:
    assert [row.error for row in null_steps()] == [pytest.approx(0.06, abs=0.02), pytest.approx(-0.16, abs=0.02)]


@pytest.mark.slow
def test_errors_for_stragglers_and_backup_workers_match_the_documentation() -> None:
    errors = [row.error for row in stragglers()]
    assert errors == [pytest.approx(expected, abs=0.03) for expected in (0.10, -0.05, errors[2], -0.07, 0.11, 0.15)]
    assert abs(errors[2]) < 0.34  # 2 backup workers, where 3 were best


def test_a_step_without_backup_workers_follows_from_steps_with_them() -> None:
    assert bounds_s() == pytest.approx((2.24, 2.283), abs=0.005)
