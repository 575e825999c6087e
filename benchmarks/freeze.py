"""Budget: Lathe composes, checks and freezes 1,000 trials in 5 s (``python -m benchmarks.freeze``).

Measures what `lathe run -m` does before it starts a worker: read the sweep, compose the grid, plan every trial and write all
trials to disk. The peer is Hydra, which composes every configuration from scratch. A sample of its 1,000 configurations is
timed and extrapolated. The first round of Lathe includes imports; the peer does not.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

BUDGET_S = 5.0
NUM_TRIALS, NUM_ROUNDS, SAMPLE = 1000, 3, 20
SHARED = ("model=lenet", "data=digits")
AXES: dict[str, list[Any]] = {
    "optimizer.lr": [round(0.001 * factor, 4) for factor in range(1, 11)],
    "model.hidden_size": list(range(32, 352, 32)),
    "model.dropout_prob": [round(0.05 * factor, 2) for factor in range(10)],
}


def ours_s(runs_dir: Path) -> float:
    """Return the seconds from overrides to a sweep on disk."""
    start = time.perf_counter()
    from experiments.sweep.create import prepare, write
    from experiments.sweep.spec import read_overrides

    grid = [f"{key}={','.join(map(str, values))}" for key, values in AXES.items()]
    sweep = write(prepare(read_overrides([*SHARED, "tracking=off", f"runs_dir={runs_dir}", *grid])))
    took = time.perf_counter() - start
    entries = sweep.ledger().read().entries.values()
    assert len(entries) == NUM_TRIALS
    assert all(entry.state == "pending" for entry in entries)
    return took


def composing_s() -> float:
    """Return the median seconds that Hydra needs for the configuration of one trial, without its start."""
    from hydra import compose, initialize_config_module

    draw = random.Random(0)
    took = []
    with initialize_config_module("conf", version_base=None):
        for _ in range(SAMPLE + 1):
            point = [f"{key}={draw.choice(values)}" for key, values in AXES.items()]
            start = time.perf_counter()
            compose("config", overrides=[*SHARED, *point])
            took.append(time.perf_counter() - start)
    return median(took[1:])


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        rounds = [ours_s(Path(folder)) for _ in range(NUM_ROUNDS)]
    one_s = composing_s()
    seconds = ", ".join(f"{took:.2f}" for took in rounds)
    print(f"{NUM_TRIALS} trials composed, checked and frozen: {seconds} s, the first with imports (<= {BUDGET_S:g} s)")
    print(
        f"Hydra composes them one by one: {one_s * NUM_TRIALS:.0f} s, from a sample of {SAMPLE} at {one_s * 1e3:.0f} ms each, "
        f"{one_s * NUM_TRIALS / median(rounds):.0f} times as long"
    )
    return int(max(rounds) > BUDGET_S)


if __name__ == "__main__":
    sys.exit(main())
