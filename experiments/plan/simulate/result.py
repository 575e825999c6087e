"""The result of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MOST_STALENESS = 8
"""Larger values are counted together, as in the journal of a run."""


@dataclass(frozen=True)
class SimulationResult:
    """The result of one mode with one number of workers."""

    mode: str
    workers: int
    updates_per_s: float
    examples_per_s: float
    """Without the examples of dropped gradients."""
    step_s: float
    """Median time between two updates."""
    speedup: float
    """Examples per second, relative to one worker that never waits."""
    waiting_fraction: float
    """Fraction of the workers' time without computing."""
    server_busy_fraction: float = 0.0
    """Fraction of the time in which the servers apply gradients."""
    staleness_mean: float = 0.0
    """Updates between the pull of the parameters and the use of their gradient."""
    staleness_p95: float = 0.0
    staleness_max: int = 0
    stale_fractions: tuple[float, ...] = ()
    """Fraction of gradients by staleness 0, 1, ...; the last includes all larger values."""
    dropped_fraction: float = 0.0
    """Fraction of gradients that arrived too late."""

    def time_to_s(self, num_samples: int) -> float:
        """Seconds until ``num_samples`` examples have counted."""
        return num_samples / self.examples_per_s

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON and CSV."""
        return asdict(self)


def staleness(values: Sequence[int]) -> dict[str, Any]:
    """The staleness fields of a result, from the staleness of every gradient."""
    steps = np.asarray(values)
    counts = np.bincount(np.minimum(steps, MOST_STALENESS), minlength=MOST_STALENESS + 1)
    return {
        "staleness_mean": float(steps.mean()),
        "staleness_p95": float(np.quantile(steps, 0.95)),
        "staleness_max": int(steps.max()),
        "stale_fractions": tuple(float(count) / len(steps) for count in counts),
    }
