"""A tracker of a user's own, as in the docstring of `Tracker`, and one that always fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from experiments.run.journal import MetricsEvent
from experiments.tracking.trackers.base import RunInfo, StoredRun, Tracker


class CsvTracker(Tracker):
    path: Path

    def open(self, run: RunInfo, known_id: str, *, fresh: bool = False) -> StoredRun:
        self.path = run.trial.folder / "metrics.csv"
        if fresh:
            self.path.unlink()
        rows = read_rows(self.path)
        return StoredRun(str(self.path), last_steps={name: step for name, step, _ in sorted(rows)})

    def log_metrics(self, points: Sequence[MetricsEvent]) -> None:
        with self.path.open("a") as file:
            for point in points:
                file.writelines(f"{name},{point['step']},{value}\n" for name, value in point["metrics"].items())


class FailingTracker(Tracker):
    def __init__(self, when: str = "later") -> None:
        if when == "now":
            raise ValueError("when=now cannot work; write later")

    def open(self, run: RunInfo, known_id: str, *, fresh: bool = False) -> StoredRun:
        return StoredRun("1")

    def log_metrics(self, points: Sequence[MetricsEvent]) -> NoReturn:
        raise KeyError("no such column")


def read_rows(path: Path) -> list[tuple[str, int, float]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [(name, int(step), float(value)) for name, step, value in (line.split(",") for line in lines)]
