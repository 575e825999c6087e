"""What servers and replicas of one training do, as metrics of its journal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev

from modules.parallel.asynchronous.server_process import FIELDS

SHOWN = 8
"""Values of staleness that have a share of their own."""
MIB = 2**20


@dataclass
class StepCounts:
    """Seconds that one pusher's chunks took."""

    num_chunks: int = 0
    compute: list[float] = field(default_factory=list)
    push: list[float] = field(default_factory=list)
    pull: list[float] = field(default_factory=list)


class AsyncMetrics:
    """Collects them between two looks."""

    def __init__(self, num_servers: int) -> None:
        self._parts: dict[int, StepCounts] = {}
        self._since = time.perf_counter()
        self._versions = [0] * num_servers
        self._starts = [1] * num_servers
        self._lost = [0.0] * num_servers
        self._lost_before = 0.0

    def add(self, pusher: int, num_chunks: int, compute_s: float, push_s: float, pull_s: float) -> None:
        """What a replica told of its last chunk."""
        parts = self._parts.setdefault(pusher, StepCounts())
        parts.num_chunks += num_chunks
        for values, value in ((parts.compute, compute_s), (parts.push, push_s), (parts.pull, pull_s)):
            if value > 0:
                values.append(value)

    def told(self, stats: Sequence[Sequence[float]], alive: int, examples_of_chunk: int) -> dict[str, float]:
        """Metrics since the last call.

        Args:
            stats: of every server, as it answered.
            alive: replicas.
            examples_of_chunk: that a gradient is made of.
        """
        seconds = time.perf_counter() - self._since
        self._since = time.perf_counter()
        histogram = [sum(counts) for counts in zip(*(one[FIELDS:] for one in stats), strict=True)]
        updates = sum(stats[0][FIELDS:])
        found = {
            "perf/updates_per_s": updates / seconds,
            "async/server_busy_fraction": fmean(one[4] / max(one[5], 1e-9) for one in stats),
            "async/pushed_mib": sum(one[6] for one in stats) / MIB,
            "async/pulled_mib": sum(one[7] for one in stats) / MIB,
            "async/dropped_pushes": stats[0][8],
            "async/replicas": float(alive),
            **self._losses(stats),
            **_staleness(histogram),
            **self._times(seconds, examples_of_chunk),
        }
        if updates:
            found["async/apply_ms_mean"] = fmean(one[4] for one in stats) / updates * 1e3
        self._parts = {}
        return found

    def _losses(self, stats: Sequence[Sequence[float]]) -> dict[str, float]:
        for number, one in enumerate(stats):
            if int(one[1]) != self._starts[number]:  # what an earlier start of it had lost stays lost
                self._lost_before += self._lost[number]
                self._starts[number] = int(one[1])
            self._lost[number] = one[3]
        restarts = sum(starts - 1 for starts in self._starts)
        return {"async/lost_updates": self._lost_before + sum(self._lost), "async/restarts": float(restarts)}

    def _times(self, seconds: float, examples_of_chunk: int) -> dict[str, float]:
        found = {
            f"async/replica_{pusher}_examples_per_s": parts.num_chunks * examples_of_chunk / seconds
            for pusher, parts in sorted(self._parts.items())
        }
        for name in ("compute", "push", "pull"):
            values = [value * 1e3 for parts in self._parts.values() for value in getattr(parts, name)]
            if values:
                found[f"async/{name}_ms_mean"] = fmean(values)
                if name == "compute":
                    found["async/compute_ms_std"] = pstdev(values)
        return found


def _staleness(histogram: Sequence[float]) -> dict[str, float]:
    """Updates that a gradient's weights had missed: mean, 95th percentile, most, and how often each value was seen."""
    total = sum(histogram)
    if not total:
        return {}
    cumulated, quantile = 0.0, 0
    for value, count in enumerate(histogram):
        cumulated += count
        if cumulated >= 0.95 * total:
            quantile = value
            break
    shares = {f"async/stale_fraction/{value}": histogram[value] / total for value in range(SHOWN)}
    return {
        "async/staleness_mean": sum(value * count for value, count in enumerate(histogram)) / total,
        "async/staleness_p95": float(quantile),
        "async/staleness_max": float(max(value for value, count in enumerate(histogram) if count)),
        **shares,
        f"async/stale_fraction/{SHOWN}_or_more": sum(histogram[SHOWN:]) / total,
    }
