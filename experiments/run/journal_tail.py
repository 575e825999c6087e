"""What the journal of a running attempt tells of it, read on from where the last look ended."""

from __future__ import annotations

import json
import math
from pathlib import Path


class JournalTail:
    """Step and metric of one attempt."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"
        self.first_step: int | None = None
        self.step = 0
        self.num_steps: int | None = None
        self.last: float | None = None
        self.best: float | None = None
        self._offset = 0

    def read(self, metric: str, mode: str) -> None:
        """Read on; of points of the training curves, which are most of a journal, only the last is decoded."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                whole, end, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return
        self._offset += len(whole) + len(end)
        lines, name = whole.split(b"\n") if whole else [], json.dumps(metric).encode()
        for number, line in enumerate(lines):
            if b'"metrics"' not in line or name in line or number == len(lines) - 1:
                self._take(line, metric, mode)

    def _take(self, line: bytes, metric: str, mode: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return
        if not isinstance(event, dict):  # a damaged line
            return
        self.step = max(self.step, event.get("step", 0))
        if event.get("event") == "state" and self.first_step is None:
            self.first_step = self.step
        elif event.get("event") == "params":
            self.num_steps = event["params"].get("plan.num_steps", self.num_steps)
        elif event.get("event") == "metrics" and metric in event["metrics"]:
            self.last = float(event["metrics"][metric])
            self.best = better(self.best, self.last, mode)

    def left_s(self, running_s: float, num_steps: int | None) -> float | None:
        """What is left of the trial at the attempt's pace so far."""
        done = self.step - (self.first_step or 0)
        return None if num_steps is None or done <= 0 else running_s / done * max(0, num_steps - self.step)


def better(one: float | None, other: float | None, mode: str) -> float | None:
    """Of two values of a metric, of which each may not have been measured."""
    known = [value for value in (one, other) if value is not None and not math.isnan(value)]
    return (max(known) if mode == "max" else min(known)) if known else None
