"""Metrics of the servers and replicas of an asynchronous training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev

from modules.parallel.asynchronous.server_process import FIELDS

NUM_STALENESS_BINS_LOGGED = 8
"""Staleness values that are logged separately; larger ones share one metric."""
MIB = 2**20


@dataclass
class StepCounts:
    """Times in seconds of one pusher's chunks."""

    num_chunks: int = 0
    compute: list[float] = field(default_factory=list)
    push: list[float] = field(default_factory=list)
    pull: list[float] = field(default_factory=list)


class AsyncMetrics:
    """Collects the numbers between two calls of `summarize`."""

    def __init__(self, num_servers: int) -> None:
        self._counts: dict[int, StepCounts] = {}
        self._since = time.perf_counter()
        self._versions = [0] * num_servers
        self._starts = [1] * num_servers
        self._lost = [0.0] * num_servers
        self._lost_before = 0.0

    def add(self, pusher: int, num_chunks: int, compute_s: float, push_s: float, pull_s: float) -> None:
        """Add a replica's report of its last chunk."""
        counts = self._counts.setdefault(pusher, StepCounts())
        counts.num_chunks += num_chunks
        for values, value in ((counts.compute, compute_s), (counts.push, push_s), (counts.pull, pull_s)):
            if value > 0:
                values.append(value)

    def summarize(self, stats: Sequence[Sequence[float]], alive: int, examples_of_chunk: int) -> dict[str, float]:
        """Metrics since the last call.

        Args:
            stats: the statistics of each server.
            alive: number of living replicas.
            examples_of_chunk: examples per chunk.
        """
        seconds = time.perf_counter() - self._since
        self._since = time.perf_counter()
        histogram = [sum(counts) for counts in zip(*(server[FIELDS:] for server in stats), strict=True)]
        updates = sum(stats[0][FIELDS:])
        metrics = {
            "perf/updates_per_s": updates / seconds,
            "async/server_busy_fraction": fmean(server[4] / max(server[5], 1e-9) for server in stats),
            "async/pushed_mib": sum(server[6] for server in stats) / MIB,
            "async/pulled_mib": sum(server[7] for server in stats) / MIB,
            "async/dropped_pushes": stats[0][8],
            "async/replicas": float(alive),
            **self._losses(stats),
            **_staleness(histogram),
            **self._times(seconds, examples_of_chunk),
        }
        if updates:
            metrics["async/apply_ms_mean"] = fmean(server[4] for server in stats) / updates * 1e3
        self._counts = {}
        return metrics

    def _losses(self, stats: Sequence[Sequence[float]]) -> dict[str, float]:
        for number, server in enumerate(stats):
            if int(server[1]) != self._starts[number]:  # the losses of its earlier starts stay
                self._lost_before += self._lost[number]
                self._starts[number] = int(server[1])
            self._lost[number] = server[3]
        restarts = sum(starts - 1 for starts in self._starts)
        return {"async/lost_updates": self._lost_before + sum(self._lost), "async/restarts": float(restarts)}

    def _times(self, seconds: float, examples_of_chunk: int) -> dict[str, float]:
        metrics = {
            f"async/replica_{pusher}_examples_per_s": counts.num_chunks * examples_of_chunk / seconds
            for pusher, counts in sorted(self._counts.items())
        }
        for name in ("compute", "push", "pull"):
            values = [value * 1e3 for counts in self._counts.values() for value in getattr(counts, name)]
            if values:
                metrics[f"async/{name}_ms_mean"] = fmean(values)
                if name == "compute":
                    metrics["async/compute_ms_std"] = pstdev(values)
        return metrics


def _staleness(histogram: Sequence[float]) -> dict[str, float]:
    """Staleness of the gradients, in updates: mean, 95th percentile, maximum and the fraction of each value."""
    total = sum(histogram)
    if not total:
        return {}
    cumulated, quantile = 0.0, 0
    for value, count in enumerate(histogram):
        cumulated += count
        if cumulated >= 0.95 * total:
            quantile = value
            break
    shares = {f"async/stale_fraction/{value}": histogram[value] / total for value in range(NUM_STALENESS_BINS_LOGGED)}
    return {
        "async/staleness_mean": sum(value * count for value, count in enumerate(histogram)) / total,
        "async/staleness_p95": float(quantile),
        "async/staleness_max": float(max(value for value, count in enumerate(histogram) if count)),
        **shares,
        f"async/stale_fraction/{NUM_STALENESS_BINS_LOGGED}_or_more": sum(histogram[NUM_STALENESS_BINS_LOGGED:]) / total,
    }
