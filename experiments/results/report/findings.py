"""The data of a report: runs, grouped into points whose runs differ only in the seed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Literal

from experiments.core.format import format_number, format_point
from experiments.core.secrets import is_secret
from experiments.results.report.metric_history import Series
from experiments.run.metrics import delivered_name
from experiments.sweep.status.confidence import differ_significantly, estimate_half_width

HIDDEN = "(hidden)"


@dataclass(frozen=True)
class ReportRun:
    """One trial of a sweep, or one run."""

    id: str
    reference: str
    """How a command line names it."""
    point: int
    values: Mapping[str, Any]
    """The keys in which it differs from the other runs, without the seed."""
    seed: int
    state: str
    value: float | None
    """The value of the metric at the step that the run delivers (`metrics.delivered_value`)."""
    step: int
    num_steps: int | None
    attempts: int
    duration_s: float | None
    used_h: float | None
    """Device-hours."""
    wasted_h: float | None
    """None for runs outside a sweep."""
    ended: float | None
    reason: str
    """Why it is in this state."""
    series: Mapping[str, Series] = field(repr=False)

    @property
    def is_measured(self) -> bool:
        return self.value is not None and math.isfinite(self.value)

    def last(self, metric: str) -> float | None:
        """Return the value of a metric that was logged last."""
        series = self.series.get(metric)
        return series.last[1] if series is not None and series.last is not None else None


@dataclass(frozen=True)
class Point:
    """The runs that differ only in their seed, or in a key that is averaged over."""

    number: int
    values: Mapping[str, Any]
    runs: tuple[ReportRun, ...]

    @property
    def finished(self) -> list[ReportRun]:
        """The runs that finished with a finite value."""
        return [run for run in self.runs if run.state == "finished" and run.is_measured]

    @property
    def results(self) -> list[float]:
        """The values of the finished runs."""
        return [run.value for run in self.finished if run.value is not None]

    @property
    def value(self) -> float | None:
        """The mean over the finished runs."""
        return fmean(self.results) if self.results else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over the finished runs."""
        return stdev(self.results) if len(self.results) > 1 else None

    @property
    def half_width(self) -> float | None:
        """Half the width of the 95 % confidence interval of the mean."""
        return estimate_half_width(self.results)


@dataclass(frozen=True)
class Findings:
    """Everything that a report shows, as plain data: rendering reads no other file."""

    kind: Literal["sweep", "runs"]
    name: str
    description: str
    goal: str
    """What is compared, in one line."""
    status: str
    """How many trials are in which state."""
    metric: str
    """Its curves are shown; the runs are ranked by `value_name`."""
    mode: str
    short: Mapping[str, str]
    """A short name of each key, for axes and columns."""
    points: tuple[Point, ...]
    """Best first, points without a result last."""
    best: Point | None
    opened: float | None
    until: float | None
    """Time of the last event in the report."""
    elapsed_s: float | None
    used_h: float
    wasted_h: float | None
    attempts: int
    remarks: tuple[str, ...] = ()
    """Warnings to read before the results."""
    average_over: tuple[str, ...] = ()
    """Keys whose values are runs of one point, besides the seed."""

    @property
    def runs(self) -> list[ReportRun]:
        """All runs, best first."""
        return sorted(
            (run for point in self.points for run in point.runs),
            key=lambda run: (rank_key(run.value, self.mode), run.id),
        )

    @property
    def best_run(self) -> ReportRun | None:
        """The best run of the best point."""
        runs = self.best.finished if self.best is not None else []
        return min(runs, key=lambda run: rank_key(run.value, self.mode)) if runs else None

    @property
    def value_name(self) -> str:
        """The name of the value that ranks the runs."""
        return delivered_name(self.metric)

    @property
    def noun(self) -> str:
        """The word for one run."""
        return "trial" if self.kind == "sweep" else "run"

    @property
    def point_noun(self) -> str:
        """The word for one point."""
        return "point" if self.has_seeds else self.noun

    @property
    def has_seeds(self) -> bool:
        return any(len(point.runs) > 1 for point in self.points)

    @property
    def repeat_noun(self) -> str:
        """The word for one of the runs of a point."""
        return self.noun if self.average_over else "seed"

    @property
    def varying(self) -> list[str]:
        """The keys whose value is not the same in all points."""
        return [
            key for key in self.short
            if len({repr(point.values[key]) if key in point.values else None for point in self.points}) > 1
        ]  # fmt: skip


def group_by_point(runs: Iterable[ReportRun], mode: str, average_over: Collection[str] = ()) -> tuple[Point, ...]:
    """Group runs by point, best point first; the values of a point are those of its runs without ``average_over``."""
    groups: dict[int, list[ReportRun]] = {}
    for run in runs:
        groups.setdefault(run.point, []).append(run)
    points = [
        Point(
            number,
            {key: value for key, value in group[0].values.items() if key not in average_over},
            tuple(sorted(group, key=lambda run: run.seed)),
        )
        for number, group in groups.items()
    ]
    return tuple(sorted(points, key=lambda point: (rank_key(point.value, mode), point.number)))


def describe_rivals(findings: Findings, most: int = 5) -> str:
    """Say which points do not differ significantly from the best one; "" where only one point has a result."""
    best, others = findings.best, [point for point in findings.points if point.results]
    if findings.kind != "sweep" or best is None or len(others) < 2:
        return ""
    if not findings.has_seeds:
        return "Each point has one trial, so the order of near points may be chance; sweep.num_seeds=3 gives intervals."
    rivals = [point for point in others if point is not best and not differ_significantly(best.results, point.results)]
    how = "by the 95 % interval of the difference of two means (Welch's t)"
    if not rivals:
        return f"Every other point differs significantly from it, {how}."
    names = [f"{format_point(point.values, findings.short)} ({format_number(point.value)})" for point in rivals[:most]]
    more = f" and {len(rivals) - most} more" if len(rivals) > most else ""
    return f"No significant difference from it, {how}: {', '.join(names)}{more}."


def rank_key(value: float | None, mode: str) -> float:
    """Return a sort key: the best value first, values that are missing or not finite last."""
    if value is None or not math.isfinite(value):
        return math.inf
    return -value if mode == "max" else value


def hide_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace secret values by a placeholder."""
    return {key: HIDDEN if is_secret(key, value) else value for key, value in values.items()}


def find_train_loss(runs: Sequence[ReportRun]) -> str | None:
    """Return the name of the training loss: the first metric under train/."""
    return next((name for run in runs for name in run.series if name.startswith("train/")), None)


def list_test_metrics(runs: Sequence[ReportRun]) -> list[str]:
    """List the names of the metrics of the test split."""
    return list(dict.fromkeys(name for run in runs for name in run.series if name.startswith("test/")))
