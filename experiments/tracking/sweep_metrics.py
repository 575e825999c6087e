"""The curves of a sweep: counts, cost and best value each time that a trial ends."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from experiments.run.journal import MetricsEvent
from experiments.sweep.ledger import ENDED, Entry, LedgerState, average_value


class BestSoFar(LedgerState):
    """The state of a sweep with the history that led to it; a pure function of the ledger, so a replay has the same points.

    The step of a point is the number of ended trials so far. A trial that runs again counts again.
    """

    def __init__(self, mode: str) -> None:
        """
        Args:
            mode: of the sweep's metric, max or min.
        """
        super().__init__()
        self.curve: list[MetricsEvent] = []
        self._is_max = mode == "max"
        self._counts: Counter[str] = Counter()
        self._seeds: dict[int, list[Entry]] = {}
        self._means: dict[int, float] = {}
        self._used_s = 0.0

    def apply(self, event: Mapping[str, Any]) -> None:
        """Apply one event."""
        name = event.get("trial", "")
        known = self.entries.get(name)
        before, used_s = (known.state, known.used_s) if known is not None else (None, 0.0)
        super().apply(event)
        entry = self.entries.get(name)
        if entry is None:
            return
        if known is None:
            self._seeds.setdefault(entry.point, []).append(entry)
            self._means.pop(entry.point, None)  # a point with a new seed has no mean until that seed ends
        self._used_s += entry.used_s - used_s
        if entry.state != before:
            self._counts.update({entry.state: 1, **({before: -1} if before else {})})
            if entry.state in ENDED:
                self._end(entry, float(event["time"]))

    def _end(self, entry: Entry, time: float) -> None:
        if (mean := average_value(self._seeds[entry.point])) is not None and math.isfinite(mean):
            self._means[entry.point] = mean
        metrics = {f"sweep/{state}": float(self._counts[state]) for state in ("finished", "pruned", "failed")}
        metrics["sweep/device_h_used"] = self._used_s / 3600
        if self._means:
            metrics["sweep/best_value"] = (max if self._is_max else min)(self._means.values())
        step = len(self.curve) + 1
        self.curve.append({"event": "metrics", "time": time, "step": step, "metrics": metrics})
