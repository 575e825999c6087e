"""What a simulation tells of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MOST_STALENESS = 8
"""From which on all are counted together, as in the journal of a run."""


@dataclass(frozen=True)
class SimulationResult:
    """One mode at one number of workers."""

    mode: str
    workers: int
    updates_per_s: float
    examples_per_s: float
    """That count: what comes too late does not."""
    step_s: float
    """From one update to the next, the median."""
    speedup: float
    """Examples a second, against one worker that waits for nobody."""
    waiting_fraction: float
    """Of the workers' time, in which they do not compute."""
    server_busy_fraction: float = 0.0
    """Of the time, in which the servers apply gradients."""
    staleness_mean: float = 0.0
    """Updates between the pull of parameters and the use of the gradient from them."""
    staleness_p95: float = 0.0
    staleness_max: int = 0
    stale_fractions: tuple[float, ...] = ()
    """Of gradients, by staleness 0, 1, ..., the last with all that are staler."""
    dropped_fraction: float = 0.0
    """Of gradients that came too late."""

    def time_to_s(self, num_samples: int) -> float:
        """Until so many examples have counted."""
        return num_samples / self.examples_per_s

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON and CSV."""
        return asdict(self)


def staleness(values: Sequence[int]) -> dict[str, Any]:
    """Its fields of a result, from the staleness of every gradient."""
    steps = np.asarray(values)
    counts = np.bincount(np.minimum(steps, MOST_STALENESS), minlength=MOST_STALENESS + 1)
    return {
        "staleness_mean": float(steps.mean()),
        "staleness_p95": float(np.quantile(steps, 0.95)),
        "staleness_max": int(steps.max()),
        "stale_fractions": tuple(float(count) / len(steps) for count in counts),
    }
