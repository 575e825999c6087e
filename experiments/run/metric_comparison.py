"""Compares the metrics of two runs: at which step they diverge first, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.run.metrics import OF_DELIVERED, MetricSeries

VERDICT = "verdict.yaml"
"""In the folder of a run that repeats another run: the result of the comparison."""


@dataclass(frozen=True)
class Divergence:
    """How one metric of two runs differs at the steps that both have."""

    name: str
    num_common: int
    """Steps that both have."""
    first_step: int | None
    """First step at which they differ by more than the tolerance; None if there is none."""
    largest: float
    """Largest relative distance; infinite where only one of two values is finite."""
    last: tuple[float, float] | None
    """The values at the last common step."""
    only_in: tuple[int, int]
    """Number of steps that only the first or only the second run has."""


def compare(
    one: Mapping[str, MetricSeries],
    other: Mapping[str, MetricSeries],
    *,
    tolerance: float = 0.0,
    up_to: int | None = None,
) -> list[Divergence]:
    """Compare every metric that either run has, sorted by name.

    Args:
        one: series by name of the metric.
        other: likewise.
        tolerance: relative distance that counts as equal; 0: bit for bit.
        up_to: last step that is compared; None: all. Metrics of the delivered weights are compared only then, and by
            their last values, as two runs may deliver different steps.
    """
    names = sorted(name for name in {*one, *other} if up_to is None or not name.startswith(OF_DELIVERED))
    return [_compare_series(name, one.get(name, ()), other.get(name, ()), tolerance, up_to) for name in names]


def _compare_series(
    name: str, one: MetricSeries, other: MetricSeries, tolerance: float, up_to: int | None
) -> Divergence:
    first, second = _by_step(one, up_to), _by_step(other, up_to)
    if name.startswith(OF_DELIVERED):
        step = max((step for step, _ in [*one, *other]), default=0)
        first, second = ({step: series[-1][1]} if series else {} for series in (one, other))
    common = [step for step in first if step in second]
    distances = {step: distance(first[step], second[step]) for step in common}
    return Divergence(
        name=name,
        num_common=len(common),
        first_step=min((step for step in common if distances[step] > tolerance), default=None),
        largest=max(distances.values(), default=0.0),
        last=(first[common[-1]], second[common[-1]]) if common else None,
        only_in=(len(first) - len(common), len(second) - len(common)),
    )


def distance(one: float, other: float) -> float:
    """Relative distance of two values; 0 for equal ones (0.0 and -0.0 too) and for two NaN."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other))


def _by_step(series: MetricSeries, up_to: int | None) -> dict[int, float]:
    return {step: value for step, value in series if up_to is None or step <= up_to}
