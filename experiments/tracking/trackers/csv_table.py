"""A table as a tracker: the file `metrics.csv` in the run folder."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from experiments.run.journal import MetricsEvent, cut_torn_tail
from experiments.tracking.store_uri import StoreError
from experiments.tracking.trackers.base import RunInfo, StoredRun, Tracker

FILE = "metrics.csv"
COLUMNS = ("time", "step", "metric", "value")


class CsvTable(Tracker):
    """Appends one row for each point: Unix time, step, metric and value. All attempts of a run share the file.

    What it holds is read again when a process opens it, so no point is there twice.
    """

    is_component = True
    _path: Path

    def open(self, run: RunInfo, known_id: str, *, fresh: bool = False) -> StoredRun:
        """Continue the file of the run, or begin one.

        Raises:
            StoreError: it is a link, which could lead out of the run, or another file.
        """
        self._path = run.trial.folder / FILE
        if self._path.is_symlink():
            raise StoreError(f"{self._path} is a link, which could lead out of the run; remove it", is_permanent=True)
        if fresh:
            self._path.unlink(missing_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "r+b") as file:
            cut_torn_tail(descriptor)  # of a process that was killed
            last_steps = self._read_steps(file.read().decode(errors="replace"))
        if last_steps is None:
            self._append([COLUMNS])
        return StoredRun(FILE, has_points=bool(last_steps), last_steps=last_steps or {}, page=str(self._path))

    def _read_steps(self, text: str) -> dict[str, int] | None:
        """The highest step of each metric; None for an empty file.

        Raises:
            StoreError: the file is not one of this tracker.
        """
        rows = csv.reader(io.StringIO(text))
        heading = next(rows, None)
        if heading is None:
            return None
        last_steps: dict[str, int] = {}
        try:
            if tuple(heading) != COLUMNS:
                raise ValueError(f"its columns are {','.join(heading)[:80]}")
            for _, step, metric, _ in rows:
                last_steps[metric] = max(int(step), last_steps.get(metric, int(step)))
        except (ValueError, csv.Error) as err:
            raise StoreError(
                f"{self._path} is not a file of this tracker ({err}); move it away", is_permanent=True
            ) from err
        return last_steps

    def log_metrics(self, points: Sequence[MetricsEvent]) -> None:
        """Append one row per metric, and send them to the disk."""
        self._append([(point["time"], point["step"], *item) for point in points for item in point["metrics"].items()])

    def _append(self, rows: Sequence[Sequence[object]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
