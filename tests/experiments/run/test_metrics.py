"""Series, last and best values of the metrics of a run, over all its attempts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from experiments.run.journal import Journal, seal
from experiments.run.journal_tail import JournalTail
from experiments.run.metrics import (
    MetricSummary,
    delivered_name,
    delivered_value,
    read_last_values,
    read_series,
    read_summaries,
)

NAN = math.nan


def write(run: Path, attempt: int, points: list[tuple[int, dict[str, float]]], start: int = 0) -> Path:
    folder = run / "attempts" / str(attempt)
    with Journal(folder / "journal.jsonl") as journal:
        journal.state("running", step=start, attempt=attempt)
        for step, values in points:
            journal.metrics(step, values)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose second attempt repeats step 3 with other values."""
    write(tmp_path, 1, [(step, {"train/loss_nats": 1 / step, "perf/step_time_ms": 5.0}) for step in (1, 2, 3)])
    repeated = [(3, {"train/loss_nats": 99.0}), (4, {"train/loss_nats": 0.1, "val/accuracy_top1": 0.5})]
    write(tmp_path, 2, repeated, start=2)
    return tmp_path


def test_a_resumed_run_has_every_point_once(run: Path) -> None:
    repeatable = {
        "train/loss_nats": [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.1)],
        "val/accuracy_top1": [(4, 0.5)],
    }
    assert read_series(run) == repeatable
    assert read_series(run, ["train/"]) == {"train/loss_nats": repeatable["train/loss_nats"]}
    assert read_series(run, [""]) == {**repeatable, "perf/step_time_ms": [(1, 5.0), (2, 5.0), (3, 5.0)]}


def test_last_values_and_summaries_leave_out_what_a_later_attempt_repeats(run: Path) -> None:
    assert read_last_values(run) == {"train/loss_nats": 0.1, "perf/step_time_ms": 5.0, "val/accuracy_top1": 0.5}
    assert read_summaries(run, {"train/loss_nats", "val/missing"}) == {
        "train/loss_nats": MetricSummary((4, 0.1), 0.1, 1.0)
    }


@pytest.mark.parametrize(
    ("values", "smallest", "largest"),
    [
        ([2.0, 1.0, 3.0], 1.0, 3.0),
        ([NAN, 2.0, NAN], 2.0, 2.0),
        ([1.0, -math.inf, math.inf], -math.inf, math.inf),
        ([NAN], None, None),
        ([], None, None),
    ],
)
def test_nan_is_never_the_best_value(values: list[float], smallest: float | None, largest: float | None) -> None:
    summary = MetricSummary()
    for step, value in enumerate(values):
        summary.add(step, value)
    assert (summary.best("min"), summary.best("max")) == (smallest, largest)
    assert (summary.last is None) == (not values)


@pytest.mark.parametrize(
    ("logged", "metric", "expected"),
    [
        ({"val/x": [1.0, 3.0, 2.0], "delivered/val/x": [1.0, 2.5]}, "val/x", 2.5),  # another metric chose the step
        ({"val/x": [1.0, 3.0, 2.0], "delivered/val/x": [3.0, NAN]}, "val/x", None),
        ({"val/x": [1.0, 3.0, 2.0]}, "val/x", 3.0),  # a run of an earlier version
        ({"test/x": [0.5]}, "test/x", 0.5),
        ({"train/x": [9.0, 1.0]}, "train/x", 1.0),
        ({"train/x": [9.0, NAN]}, "train/x", None),
        ({"val/y": [1.0]}, "val/x", None),
    ],
)
def test_a_run_is_ranked_by_its_delivered_step(
    logged: dict[str, list[float]], metric: str, expected: float | None
) -> None:
    summaries: dict[str, MetricSummary] = {}
    for name, values in logged.items():
        for step, value in enumerate(values):
            summaries.setdefault(name, MetricSummary()).add(step, value)
    assert delivered_value(summaries, metric, "max") == expected


BEFORE = [(0, {"val/x": 0.4, "delivered/val/x": 0.4})]


@pytest.mark.parametrize(
    ("before", "points", "expected"),
    [
        (BEFORE, [], 0.4),
        (BEFORE, [{"val/x": 0.9}], 0.4),  # of the attempt before: this one repeats its step
        (BEFORE, [{}, {"val/x": 0.9, "delivered/val/x": 0.9}, {"val/x": 0.1}], 0.9),
        ([], [{"val/x": 0.9}, {"val/x": 0.1}], 0.9),  # of an earlier version, which logged no delivered step
    ],
)
def test_a_tail_knows_the_value_that_the_run_would_deliver(
    tmp_path: Path, before: list[tuple[int, dict[str, float]]], points: list[dict[str, float]], expected: float
) -> None:
    write(tmp_path, 1, before)
    tail = JournalTail(write(tmp_path, 2, list(enumerate(points))), "val/x")
    tail.read()
    assert tail.delivered_value("max") == expected
    assert tail.values == read_summaries(tmp_path, {"val/x"}).get("val/x", MetricSummary())
    assert delivered_name("val/x") == "delivered/val/x"


def test_a_tail_reads_on_and_agrees_with_the_whole_journal(tmp_path: Path) -> None:
    folder = tmp_path / "attempts" / "1"
    tail = JournalTail(folder, "val/x")
    tail.read()
    assert (tail.step, tail.values.last) == (0, None)
    with Journal(folder / "journal.jsonl") as journal:
        journal.state("running", step=10, attempt=1)
        journal.params({"plan.num_steps": 30})
        for step in range(11, 16):
            journal.metrics(step, {"train/x": 0.0})
        journal.metrics(15, {"val/x": 3.0})
        tail.read()
        assert (tail.first_step, tail.step, tail.num_steps, tail.values.last) == (10, 15, 30, (15, 3.0))
        assert tail.estimate_left_s(5.0, tail.num_steps) == 15.0
        journal.metrics(20, {"val/x": 4.0})
        journal.metrics(21, {"train/x": 0.0})
        tail.read()
    assert tail.step == 21
    assert tail.values == read_summaries(tmp_path, {"val/x"})["val/x"] == MetricSummary((20, 4.0), 3.0, 4.0)


def test_a_tail_ignores_damaged_lines_and_what_an_orphan_writes_after_the_seal(tmp_path: Path) -> None:
    folder = write(tmp_path, 1, [(1, {"val/x": 1.0})])
    path = folder / "journal.jsonl"
    with path.open("a") as file:
        file.write('[1]\n{"event":"metrics","step":7}\n{damaged\n')
    seal(path)
    with Journal(path) as journal:
        journal.metrics(9, {"val/x": 9.0})
    tail = JournalTail(folder, "val/x")
    tail.read()
    assert (tail.step, tail.values.last) == (1, (1, 1.0))
    assert read_last_values(tmp_path) == {"val/x": 1.0}
