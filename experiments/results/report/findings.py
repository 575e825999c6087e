"""What a report is made of: runs, the points whose seeds they are, and what was asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Literal

from experiments.core.secrets import looks_secret
from experiments.results.report.metric_history import Series

HIDDEN = "(hidden)"


@dataclass(frozen=True)
class ReportRun:
    """One trial of a sweep, or one run."""

    id: str
    reference: str
    """What a command line calls it."""
    point: int
    values: Mapping[str, Any]
    """What it differs from the others by, the seed not among it."""
    seed: int
    state: str
    value: float | None
    """The best of the metric."""
    step: int
    num_steps: int | None
    attempts: int
    took_s: float | None
    used_h: float | None
    """Device-hours."""
    wasted_h: float | None
    """None where nobody keeps count."""
    ended: float | None
    why: str
    series: Mapping[str, Series] = field(repr=False)

    @property
    def is_measured(self) -> bool:
        return self.value is not None and math.isfinite(self.value)

    def last(self, metric: str) -> float | None:
        """A metric as it was written last."""
        series = self.series.get(metric)
        return series.last[1] if series is not None and series.last is not None else None


@dataclass(frozen=True)
class Point:
    """The runs that differ by their seed alone."""

    number: int
    values: Mapping[str, Any]
    runs: tuple[ReportRun, ...]

    @property
    def finished(self) -> list[ReportRun]:
        """Those that came to their end with a number."""
        return [run for run in self.runs if run.state == "finished" and run.is_measured]

    @property
    def value(self) -> float | None:
        """The mean over the seeds that are finished."""
        found = [run.value for run in self.finished if run.value is not None]
        return fmean(found) if found else None

    @property
    def spread(self) -> float | None:
        """Their standard deviation."""
        found = [run.value for run in self.finished if run.value is not None]
        return stdev(found) if len(found) > 1 else None


@dataclass(frozen=True)
class Findings:
    """Everything that a report tells; plain data, so that nothing else is looked at for it."""

    kind: Literal["sweep", "runs"]
    name: str
    note: str
    asked: str
    """The question in a line."""
    standing: str
    """How many trials stand where."""
    metric: str
    mode: str
    short: Mapping[str, str]
    """What each key is called where room is scarce."""
    points: tuple[Point, ...]
    """The best first, those without a result last."""
    best: Point | None
    opened: float | None
    until: float | None
    """When the last thing happened that is told here."""
    elapsed_s: float | None
    used_h: float
    wasted_h: float | None
    attempts: int
    remarks: tuple[str, ...] = ()
    """What a reader has to know before believing the rest."""

    @property
    def runs(self) -> list[ReportRun]:
        """All of them, the best first."""
        return sorted(
            (run for point in self.points for run in point.runs),
            key=lambda run: (rank_key(run.value, self.mode), run.id),
        )

    @property
    def best_run(self) -> ReportRun | None:
        """Of the best point, the seed that did best."""
        found = self.best.finished if self.best is not None else []
        return min(found, key=lambda run: rank_key(run.value, self.mode)) if found else None

    @property
    def noun(self) -> str:
        """What one run is called."""
        return "trial" if self.kind == "sweep" else "run"

    @property
    def point_noun(self) -> str:
        """What one point is called."""
        return "point" if self.has_seeds else self.noun

    @property
    def has_seeds(self) -> bool:
        return any(len(point.runs) > 1 for point in self.points)

    @property
    def varying(self) -> list[str]:
        """The keys that are not the same in all points."""
        return [
            key for key in self.short
            if len({repr(point.values[key]) if key in point.values else None for point in self.points}) > 1
        ]  # fmt: skip


def group_by_point(runs: Iterable[ReportRun], mode: str) -> tuple[Point, ...]:
    """Put runs together that are seeds of one point, the best first."""
    found: dict[int, list[ReportRun]] = {}
    for run in runs:
        found.setdefault(run.point, []).append(run)
    points = [
        Point(number, some[0].values, tuple(sorted(some, key=lambda run: run.seed))) for number, some in found.items()
    ]
    return tuple(sorted(points, key=lambda point: (rank_key(point.value, mode), point.number)))


def rank_key(value: float | None, mode: str) -> float:
    """What to sort by for the best to come first and those without a number last."""
    if value is None or not math.isfinite(value):
        return math.inf
    return -value if mode == "max" else value


def hide_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they may be shown."""
    return {key: HIDDEN if looks_secret(key, value) else value for key, value in values.items()}


def find_train_loss(runs: Sequence[ReportRun]) -> str | None:
    """The training's loss: the first metric that is written of it."""
    return next((name for run in runs for name in run.series if name.startswith("train/")), None)


def list_test_metrics(runs: Sequence[ReportRun]) -> list[str]:
    """The metrics of the test split."""
    return list(dict.fromkeys(name for run in runs for name in run.series if name.startswith("test/")))
