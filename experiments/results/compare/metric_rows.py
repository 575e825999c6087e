"""The metrics of two runs, one row each: where their curves diverge, and the final and the best value of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.run.metric_comparison import Divergence
from experiments.run.metrics import DELIVERED, MetricSummary, delivered_name, final_values
from experiments.trial.record import RunRecord

Pair = tuple[float | None, float | None]
"""The values of the first and the second run; None without one."""


@dataclass(frozen=True)
class MetricRow:
    """One metric of two runs."""

    curve: Divergence
    final: Pair
    """The last point of each curve."""
    best: Pair
    """The value at the step of the best checkpoint, whose weights the run delivers; None except for `val/`."""


def make_rows(one: RunRecord, other: RunRecord, curves: Sequence[Divergence]) -> list[MetricRow]:
    """Make a row for each curve, with the values that `lathe ls` shows.

    Args:
        one: the first run.
        other: the second run.
        curves: of both.
    """
    first, second = _read_values(one), _read_values(other)
    return [
        MetricRow(
            curve, (first.get(curve.name), second.get(curve.name)),
            (_find_best(first, curve.name), _find_best(second, curve.name)),
        )
        for curve in curves
    ]  # fmt: skip


def select_rows(rows: Sequence[MetricRow], differing: Sequence[Divergence]) -> list[MetricRow]:
    """The rows to show: a metric whose best value alone differs counts as different; its best value has no row of its own."""
    names = {curve.name for curve in differing}
    known = {row.curve.name for row in rows}
    return [
        row for row in rows
        if (row.curve.name in names or (row.best != (None, None) and delivered_name(row.curve.name) in names))
        and row.curve.name.removeprefix(DELIVERED) not in known - {row.curve.name}
    ]  # fmt: skip


def _read_values(record: RunRecord) -> dict[str, float]:
    summaries: dict[str, MetricSummary] = {}
    for name, series in record.streams.items():
        for step, value in series:
            summaries.setdefault(name, MetricSummary()).add(step, value)
    checkpoint = record.config.get("checkpoint")
    if not isinstance(checkpoint, dict):  # a shared file can hold any value
        checkpoint = {}
    return final_values(summaries, checkpoint.get("best_metric"), checkpoint.get("best_mode"))


def _find_best(values: Mapping[str, float], metric: str) -> float | None:
    name = delivered_name(metric)
    return values.get(name) if name != metric else None
