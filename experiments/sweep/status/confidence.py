"""How sure the mean of a point is: confidence intervals over its trials.

The trials of a point are taken as independent draws from a normal distribution. Folds of one data set share training rows, so
their intervals are too narrow: no unbiased estimate exists. Source: Bengio and Grandvalet 2004, JMLR 5:1089-1105.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

LEVEL = 0.95
"""Of every interval. None accounts for the best of many points being chosen by its mean."""


def estimate_half_width(values: Sequence[float]) -> float | None:
    """Half the width of Student's t interval of a mean.

    Args:
        values: one per trial, finite.

    Returns:
        None for fewer than two values.
    """
    if len(values) < 2:
        return None
    return _quantile(len(values) - 1) * math.sqrt(variance(values) / len(values))


def estimate_difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float] | None:
    """Welch's t interval of the difference between two means. Source: Welch 1947, Biometrika 34:28-35.

    Args:
        one: values of the first point, finite.
        other: values of the second point, finite.

    Returns:
        The smallest and the largest difference ``one - other``; None if a point has fewer than two values.
    """
    if min(len(one), len(other)) < 2:
        return None
    parts = [variance(values) / len(values) for values in (one, other)]
    half, difference = 0.0, fmean(one) - fmean(other)
    if total := sum(parts):
        freedom = total**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True))
        half = _quantile(freedom) * math.sqrt(total)
    return difference - half, difference + half


def differ_significantly(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the interval of the difference leaves out 0; False if a point has fewer than two values."""
    interval = estimate_difference(one, other)
    return interval is not None and not interval[0] <= 0 <= interval[1]


def _quantile(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
