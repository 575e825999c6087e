"""Metric streams: what journals say of a run, and where two of them part."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from experiments.run import metric_series as streams
from tests.support.stores import begin, make_run


def test_a_resumed_run_has_every_point_once_and_only_what_can_be_repeated(tmp_path: Path) -> None:
    trial = make_run(tmp_path)
    with begin(trial) as journal:
        for step in (1, 2, 3):
            journal.metrics(step, {"train/loss_nats": 1 / step, "perf/step_time_ms": 5.0, "system/cpu": 1.0})
    with begin(trial, number=2, step=2) as journal:
        journal.metrics(3, {"train/loss_nats": 99.0})
        journal.metrics(4, {"train/loss_nats": 0.1, "val/accuracy_top1": 0.5})
    assert streams.read_series(trial.folder) == {
        "train/loss_nats": [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.1)],
        "val/accuracy_top1": [(4, 0.5)],
    }


def test_two_streams_part_where_they_differ_first() -> None:
    one = {"a": [(1, 1.0), (2, 2.0), (4, 4.0), (5, 5.0)]}
    other = {"a": [(1, 1.0), (3, 3.0), (4, 4.4), (5, 5.0)], "b": [(1, 0.0)]}
    first, second = streams.compare(one, other)
    assert (first.name, first.num_common, first.first_step, first.last) == ("a", 3, 4, (5.0, 5.0))
    assert first.largest == pytest.approx(0.4 / 4.4)
    assert first.only_in == (1, 1)
    assert (second.num_common, second.last, second.only_in, second.first_step) == (0, None, (0, 1), None)
    assert streams.compare(one, other, tolerance=0.1)[0].first_step is None
    assert streams.compare(one, other, up_to=3)[0].only_in == (1, 1)
    assert streams.compare(one, other, up_to=3)[0].first_step is None


@pytest.mark.parametrize(
    ("one", "other", "far"),
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
def test_the_distance_is_relative_and_knows_what_is_no_number(one: float, other: float, far: float) -> None:
    assert streams.distance(one, other) == pytest.approx(far, rel=1e-9)
    assert streams.distance(other, one) == streams.distance(one, other)
