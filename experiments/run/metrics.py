"""The metrics of a run, read from the journals of all its attempts.

A resumed run repeats the steps after its checkpoint. The value that was logged first counts, as in `journal.replay`.

A name stands for one value everywhere. ``val/NAME`` is a curve, and its value is the last point. ``delivered/val/NAME`` is the
value at the step whose weights the run delivers (`checkpoint.Checkpoints.delivered`), and ``test/NAME`` is measured with these
weights. Runs are ranked by `delivered_value`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from experiments.run import journal

Point: TypeAlias = tuple[int, float]
"""Step and value."""
MetricSeries: TypeAlias = Sequence[Point]
"""The points of one metric, in the order in which they were logged."""

DELIVERED = "delivered/"
"""Prefix of the metrics of the weights that the run delivers, or would deliver if it ended now."""
DELIVERED_STEP = "delivered/step"
OF_DELIVERED = ("test/", DELIVERED)
"""Prefixes of the metrics whose last point belongs to the delivered step, which differs between runs."""
REPEATABLE = ("train/", "val/", "test/", DELIVERED)
"""Prefixes of the metrics that follow from the trial; the others measure the machine and differ in every run."""


@dataclass(slots=True)
class MetricSummary:
    """The last, smallest and largest value of one metric."""

    last: Point | None = None
    smallest: float = math.nan
    """Of all values that are numbers; NaN without any."""
    largest: float = math.nan

    def add(self, step: int, value: float) -> None:
        """Include one more point."""
        self.last = (step, value)
        if not self.smallest <= value <= self.largest and not math.isnan(value):
            self.smallest = self.smallest if self.smallest <= value else value
            self.largest = self.largest if self.largest >= value else value

    def best(self, mode: str) -> float | None:
        """The largest value for mode ``max``, else the smallest; None if no value is a number."""
        value = self.largest if mode == "max" else self.smallest
        return None if math.isnan(value) else value


def delivered_name(metric: str) -> str:
    """The name of a metric's value at the delivered step.

    A metric of the test split already belongs to that step. Training and cost are not measured again; they keep their name.
    """
    return f"{DELIVERED}{metric}" if metric.startswith("val/") else metric


def delivered_value(metrics: Mapping[str, MetricSummary], metric: str, mode: str) -> float | None:
    """The value of a metric by which runs are ranked: the one at the delivered step.

    Args:
        metrics: of one run, by name.
        metric: such as ``val/accuracy_top1``; other metrics than those of the val split have only their last value.
        mode: ``max`` or ``min``; for a run of an earlier version, which logged no delivered step: its best value counts.

    Returns:
        The value; None if it is missing or NaN.
    """
    name = delivered_name(metric)
    if (summary := metrics.get(name)) is not None and summary.last is not None:
        return None if math.isnan(summary.last[1]) else summary.last[1]
    return metrics[metric].best(mode) if metric in metrics else None


def final_values(
    metrics: Mapping[str, MetricSummary], best_metric: str | None = None, best_mode: str | None = None
) -> dict[str, float]:
    """The value of every metric of a run, as `lathe ls` and `lathe diff` show it: the last point of its curve.

    Args:
        metrics: of the run, by name.
        best_metric: `checkpoint.best_metric` of the run. A run of an earlier version did not log its value at the delivered
            step, so its best value is added under that name.
        best_mode: `checkpoint.best_mode` of the run; None: max.
    """
    values = {name: summary.last[1] for name, summary in metrics.items() if summary.last is not None}
    if best_metric in values:
        value = delivered_value(metrics, best_metric, best_mode or "max")
        values |= {} if value is None else {delivered_name(best_metric): value}
    return values


def read_metric_events(folder: Path, before: int | None = None) -> Iterator[journal.MetricsEvent]:
    """The metric events of a run folder, first to last; ``before`` as for `journal.journals`."""
    for event in journal.replay(folder, before):
        if event["event"] == "metrics":
            yield event


def read_series(folder: Path, prefixes: Collection[str] = REPEATABLE) -> dict[str, list[Point]]:
    """The series of every metric whose name begins with one of the prefixes."""
    series: dict[str, list[Point]] = {}
    for event in read_metric_events(folder):
        for name, value in event["metrics"].items():
            if name.startswith(tuple(prefixes)):
                series.setdefault(name, []).append((event["step"], value))
    return series


def read_last_values(folder: Path) -> dict[str, float]:
    """The last value of every metric."""
    values: dict[str, float] = {}
    for event in read_metric_events(folder):
        values |= event["metrics"]
    return values


def read_summaries(folder: Path, names: Collection[str], before: int | None = None) -> dict[str, MetricSummary]:
    """The summaries of some metrics, by name; without those that were never logged; ``before`` as for `journal.journals`."""
    summaries: dict[str, MetricSummary] = {}
    for event in read_metric_events(folder, before):
        for name in names & event["metrics"].keys():
            summaries.setdefault(name, MetricSummary()).add(event["step"], event["metrics"][name])
    return summaries
