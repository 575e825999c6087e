"""Budget of a parameter server's update path (``python -m benchmarks.server_update``).

The server takes a gradient, records it and updates with plain SGD, without a correction for staleness. It reaches at least
half the bytes per second of torch's `add_` on vectors of the same size. Both alternate in one process, and the ratio is the
median over rounds.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from itertools import pairwise
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import torch
from torch import nn
from torch.optim import SGD

from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.server_shard import ParameterShard, Push
from modules.parallel.asynchronous.staleness import make_correction

BUDGET = 0.5
NUM_ROUNDS, UPDATES_PER_ROUND = 15, 5
SIZES = {
    "26 layers of 400 x 400": [400] * 27,
    "4 layers of 1,000 x 1,000": [1000] * 5,
    "2 layers of 4,000 x 4,000": [4000] * 3,
}


def measure(sizes: list[int]) -> tuple[float, float]:
    """Return the GB/s of updated weights, and the ratio to plain `add_`."""
    model = nn.Sequential(*(nn.Linear(one, two) for one, two in pairwise(sizes)))
    flat = FlatParameters(model)
    shard = ParameterShard(
        flat, (0, flat.size), partial(SGD, lr=1e-3), lambda update: 1.0, make_correction("none", 0), "each", 1
    )
    gradient, plain = torch.randn_like(shard.weights), shard.weights.clone()
    present, buffers = [1.0] * len(flat), shard.buffers.clone()
    chunk, ours, theirs = 0, list[float](), list[float]()
    for _ in range(NUM_ROUNDS):
        begin = time.perf_counter()
        for _ in range(UPDATES_PER_ROUND):
            plain.add_(gradient, alpha=-1e-3)
        theirs.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for _ in range(UPDATES_PER_ROUND):
            shard.take(Push(chunk, chunk, chunk, gradient, present, shard.weights, buffers))
            chunk += 1
        ours.append(time.perf_counter() - begin)
    gb = shard.weights.nbytes * UPDATES_PER_ROUND / 1e9
    return gb / median(ours), median(other / own for own, other in zip(ours, theirs, strict=True))


def main() -> int:
    """Print a table; return 1 if a ratio is below the budget."""
    worst = 1.0
    print("| model | weights | updated, GB/s | against add_ |\n|---|---|---|---|")
    for name, sizes in SIZES.items():
        gb_per_s, ratio = measure(sizes)
        size = sum(one * two + two for one, two in pairwise(sizes))
        print(f"| {name} | {size * 4 / 2**20:.0f} MiB | {gb_per_s:.1f} | {ratio:.2f} |")
        worst = min(worst, ratio)
    print(f"worst {worst:.2f}, budget {BUDGET}")
    return int(worst < BUDGET)


if __name__ == "__main__":
    sys.exit(main())
