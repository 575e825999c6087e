"""How much memory every rank has needed."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import torch

BYTES_OF_RSS = 1 if sys.platform == "darwin" else 1024  # Linux counts ru_maxrss in KiB, macOS in bytes


def memory_peak_gib() -> float:
    """The most this process has held so far: of the GPU's memory where it trains on one, else of the machine's."""
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return allocated / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_OF_RSS / 2**30


def memory_peaks(gib: Sequence[float]) -> dict[str, float]:
    """Metrics of one peak a rank: the highest, and where there are several ranks each."""
    each = {f"perf/rank_{rank}_memory_peak_gib": value for rank, value in enumerate(gib)} if len(gib) > 1 else {}
    return {"perf/memory_peak_gib": max(gib), **each}
