"""Budget: 1,000 trials are composed, checked and frozen in 5 s (``python -m benchmarks.freeze``).

What `lathe run -m` does before it starts a worker: the question is read, its grid composed and filled in, every trial checked
by the plan, and all of it written to disk. The peer is Hydra's own way, which composes every configuration anew; of the
1,000 a sample is timed and the rest told from it. Ours includes the imports of the first round, the peer's does not.
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
    """Seconds from overrides to a sweep on disk."""
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
    """Seconds of Hydra for one trial's configuration, the median of a sample; what it does once is left out."""
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
    told = ", ".join(f"{took:.2f}" for took in rounds)
    print(f"{NUM_TRIALS} trials composed, checked and frozen: {told} s, the first with imports (<= {BUDGET_S:g} s)")
    print(
        f"Hydra composing them one by one: {one_s * NUM_TRIALS:.0f} s, told from {SAMPLE} of them at {one_s * 1e3:.0f} ms each, "
        f"{one_s * NUM_TRIALS / median(rounds):.0f} times as long"
    )
    return int(max(rounds) > BUDGET_S)


if __name__ == "__main__":
    sys.exit(main())
