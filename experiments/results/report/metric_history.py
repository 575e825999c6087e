"""The history of every metric of a run, downsampled so that a figure of a long run stays small."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from experiments.run import journal
from experiments.run.metrics import MetricSummary

MAX_POINTS = 400
"""With this many points, pairs of neighbours are averaged; an even number."""


@dataclass
class Series(MetricSummary):
    """One metric of one run: at most `MAX_POINTS` points, each the mean of `width` neighbours."""

    points: list[tuple[int, float]] = field(default_factory=list)
    width: int = 1
    _open: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Add one point."""
        super().add(step, value)
        self._open.append(value)
        if len(self._open) == self.width:
            self.points.append((step, math.fsum(self._open) / self.width if self.width > 1 else value))
            self._open.clear()
        if len(self.points) == MAX_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(end, (first + second) / 2) for (_, first), (end, second) in pairs]
            self.width *= 2

    def curve(self) -> list[tuple[int, float]]:
        """Return the points by step; the last one averages the remaining values."""
        rest = [(self.last[0], sum(self._open) / len(self._open))] if self._open and self.last else []
        return self.points + rest

    def median(self) -> float | None:
        """Return the median over the run; None without a finite value."""
        known = [value for _, value in self.curve() if math.isfinite(value)]
        return median(known) if known else None


@dataclass
class History:
    """The metrics and states of a run, from its journals."""

    series: dict[str, Series] = field(default_factory=dict)
    spans: dict[int, list[float]] = field(default_factory=dict)
    """Time of the first and the last event of each attempt, by its number."""
    state: journal.StateEvent | None = None
    """The last state."""

    @property
    def duration_s(self) -> float:
        """Total duration of all attempts."""
        return sum(end - begin for begin, end in self.spans.values())


def read_history(folder: Path) -> History:
    """Read the history of a run folder; it is empty if nothing is tracked yet."""
    history = History()
    for event in journal.replay(folder):
        if event["event"] == "state":
            history.state = event
            history.spans.setdefault(event["attempt"], [event["time"], event["time"]])
        if event["event"] in ("state", "metrics") and history.state is not None:
            history.spans[history.state["attempt"]][1] = event["time"]
        if event["event"] == "metrics":
            for name, value in event["metrics"].items():
                history.series.setdefault(name, Series()).add(event["step"], value)
    return history
