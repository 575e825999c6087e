"""What the journals of a run say of every metric, thin enough to draw however long the run was."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from experiments.run import journal
from experiments.run.metrics import MetricSummary

MAX_POINTS = 400
"""Points of a curve from which neighbours are averaged; even, so that they go in pairs."""


@dataclass
class Series(MetricSummary):
    """One metric of one run: at most `MAX_POINTS` points, each the mean of `width` neighbours."""

    points: list[tuple[int, float]] = field(default_factory=list)
    width: int = 1
    _open: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Take one more point in."""
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
        """The points by step, the last of them of what is left over."""
        rest = [(self.last[0], sum(self._open) / len(self._open))] if self._open and self.last else []
        return self.points + rest

    def middle(self) -> float | None:
        """The median over the run."""
        known = [value for _, value in self.curve() if math.isfinite(value)]
        return median(known) if known else None


@dataclass
class History:
    """What the journals of a run say."""

    series: dict[str, Series] = field(default_factory=dict)
    spans: dict[int, list[float]] = field(default_factory=dict)
    """Of every attempt when it began to train, and when it was last heard of."""
    state: journal.StateEvent | None = None
    """The last one."""

    @property
    def took_s(self) -> float:
        """Seconds of all attempts together."""
        return sum(end - begin for begin, end in self.spans.values())


def read_history(folder: Path) -> History:
    """The history of a run folder; an empty one where nothing was tracked yet."""
    found = History()
    for event in journal.replay(folder):
        if event["event"] == "state":
            found.state = event
            found.spans.setdefault(event["attempt"], [event["time"], event["time"]])
        if event["event"] in ("state", "metrics") and found.state is not None:
            found.spans[found.state["attempt"]][1] = event["time"]
        if event["event"] == "metrics":
            for name, value in event["metrics"].items():
                found.series.setdefault(name, Series()).add(event["step"], value)
    return found
