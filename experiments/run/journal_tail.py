"""Follows the journal of a running attempt: each read continues where the last one ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from experiments.run import journal
from experiments.run.metrics import MetricSummary, delivered_name, delivered_value, read_summaries


class JournalTail:
    """Step of one attempt, and the values of one metric so far, with those of the attempts before.

    Attributes:
        first_step: where the attempt started.
        step: the furthest logged.
        num_steps: steps of the whole trial, as the attempt planned them.
        values: of the metric, each point once, as in `journal.replay`.
    """

    def __init__(self, folder: Path, metric: str | None = None) -> None:
        """
        Args:
            folder: of the attempt.
            metric: name of the metric to follow.
        """
        self.path = folder / "journal.jsonl"
        self.metric = metric
        self.first_step: int | None = None
        self.step = 0
        self.num_steps: int | None = None
        self.values = MetricSummary()
        self._followed: dict[str, MetricSummary] = {}
        self._highest: Mapping[str, int] = {}
        if metric is not None:
            run_folder, attempt = folder.parent.parent, int(folder.name)
            before = read_summaries(run_folder, {delivered_name(metric), metric}, attempt)
            self.values = before.get(metric, self.values)
            self._followed = {delivered_name(metric): MetricSummary()} | before | {metric: self.values}
            self._highest = journal.highest_steps(journal.journals(run_folder, attempt))
        self._offset = 0

    def read(self) -> None:
        """Read what is new. Most lines are points of other metrics; only the last of these is decoded."""
        lines, self._offset = journal.read_lines(self.path, self._offset)
        names = [json.dumps(name).encode() for name in self._followed]
        chosen = [line for line in lines[:-1] if b'"metrics"' not in line or any(name in line for name in names)]
        for line in chosen + lines[-1:]:
            if (event := journal.decode(line)) is not None:
                self._apply(event)

    def _apply(self, event: journal.Event) -> None:
        if event["event"] == "state":
            self.step = max(self.step, event["step"])
            if self.first_step is None:
                self.first_step = self.step
        elif event["event"] == "params":
            num_steps = event["params"].get("plan.num_steps")
            self.num_steps = num_steps if isinstance(num_steps, int) else self.num_steps
        elif event["event"] == "metrics":
            self.step = max(self.step, event["step"])
            for new in journal.first_writes([event], self._highest):
                self._add(new)

    def _add(self, event: journal.Event) -> None:
        assert event["event"] == "metrics"
        for name, summary in self._followed.items():
            if name in event["metrics"]:
                summary.add(event["step"], event["metrics"][name])

    def delivered_value(self, mode: str) -> float | None:
        """The value of the metric at the step that the run would deliver; ``mode`` as for `metrics.delivered_value`."""
        assert self.metric is not None
        measured = {name: summary for name, summary in self._followed.items() if summary.last is not None}
        return delivered_value(measured, self.metric, mode)

    def estimate_left_s(self, running_s: float, num_steps: int | None) -> float | None:
        """Seconds that the trial still needs at the attempt's average speed."""
        done = self.step - (self.first_step or 0)
        return None if num_steps is None or done <= 0 else running_s / done * max(0, num_steps - self.step)
