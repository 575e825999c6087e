"""The metrics of a run, read from the journals of all its attempts.

A resumed run repeats the steps after its checkpoint. The value that was logged first counts, as in `journal.replay`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from experiments.run import journal

Point: TypeAlias = tuple[int, float]
"""Step and value."""
MetricSeries: TypeAlias = Sequence[Point]
"""The points of one metric, in the order in which they were logged."""

REPEATABLE = ("train/", "val/", "test/")
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


def read_metric_events(folder: Path) -> Iterator[journal.MetricsEvent]:
    """The metric events of a run folder, first to last."""
    for event in journal.replay(folder):
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


def read_best_value(folder: Path, metric: str, mode: str) -> float | None:
    """The best value of one metric; None if it was never a number."""
    summary = MetricSummary()
    for event in read_metric_events(folder):
        if metric in event["metrics"]:
            summary.add(event["step"], event["metrics"][metric])
    return summary.best(mode)


def choose_better(one: float | None, other: float | None, mode: str) -> float | None:
    """The better of two values of a metric; None and NaN lose."""
    values = [value for value in (one, other) if value is not None and not math.isnan(value)]
    return (max(values) if mode == "max" else min(values)) if values else None
