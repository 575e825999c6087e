"""Budget: ASHA finds as good a point as a grid with at most 0.6 of its steps (``python -m benchmarks.asha``).

Runs the 27 points of sweeps/asha_mnist1d.yaml twice, two trials at a time on this machine: the grid trains all points to the
end, and ASHA takes them in random order and prunes bad ones. Both use the same seed, so a point that both finish has the same
value, and the results differ only if ASHA pruned the best point. The difference may be at most the standard deviation of the
best point of the grid over further seeds.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from experiments.sweep.create import prepare, write
from experiments.sweep.ledger import ENDED
from experiments.sweep.spec import SweepSpec, read, read_overrides
from experiments.sweep.status.progress import read_progress
from experiments.sweep.submit import submit
from experiments.sweep.sweep import Sweep

BUDGET_RATIO = 0.6
NAME, NUM_POINTS = "asha_mnist1d", 27
NOISE_SEEDS = (100, 101, 102, 103)
WORKERS = 2
PATIENCE_S, END_S = 1200.0, 20.0


@dataclass(frozen=True)
class Result:
    """The result of one sweep."""

    best: float
    values: dict[str, Any]
    """Values of the best point by key."""
    all_values: tuple[float, ...]
    num_steps: int
    """Steps of all trials together."""
    took_s: float


def end_workers(sweep: Sweep) -> None:
    """End the workers of a sweep on this machine and wait until they have exited."""
    executor = sweep.executor()
    executor.cancel([submission["job"] for submission in sweep.ledger().read().submissions])
    known = [path.name for path in (sweep.folder / "workers").glob("*/")]
    deadline = time.monotonic() + END_S
    while len(executor.find_lost(known)) < len(known) and time.monotonic() < deadline:
        time.sleep(0.1)


def run(spec: SweepSpec) -> Result:
    """Run a sweep to its end. Its workers end with this function, errors included."""
    start = time.monotonic()
    sweep = write(prepare(spec))
    ledger = sweep.ledger()
    try:
        submit(sweep)
        while not all(entry.state in ENDED for entry in ledger.read().entries.values()):
            if time.monotonic() - start > PATIENCE_S:
                sys.exit(f"sweep {sweep.name} did not end within {PATIENCE_S:.0f} s")
            time.sleep(0.5)
    finally:
        end_workers(sweep)
    took_s = time.monotonic() - start
    entries = ledger.read().entries.values()
    if failed := [entry for entry in entries if entry.state not in ("finished", "pruned")]:
        sys.exit(f"{len(failed)} trials of sweep {sweep.name} failed: {failed[0].reason}")
    best = read_progress(sweep, ledger).best
    assert best is not None, f"no trial of {sweep.name} has finished"
    values = tuple(entry.value for entry in entries if entry.value is not None)
    return Result(best.value, best.values, values, sum(entry.step for entry in entries), took_s)


def race(runs_dir: Path, seed: int) -> tuple[Result, Result]:
    """Run the grid and ASHA with the same seed for all trials."""
    shared = ["tracking=off", f"launcher.workers={WORKERS}", f"seed={seed}", f"runs_dir={runs_dir}"]
    grid = run(read(NAME, [*shared, "sweep.pruner=null", f"sweep.name=grid{seed}"]))
    order = ["sweep.strategy=random", f"sweep.strategy.seed={seed}", f"sweep.budget.max_points={NUM_POINTS}"]
    asha = run(read(NAME, [*shared, *order, f"sweep.name=asha{seed}"]))
    for name, result in (("grid", grid), ("asha", asha)):
        point = " ".join(f"{key}={value}" for key, value in result.values.items())
        print(
            f"seed {seed}  {name}  best {result.best:.3f} at {point}  {result.num_steps:>6} steps  {result.took_s:.0f} s",
            flush=True,
        )
    return grid, asha


def noise(runs_dir: Path, best: Result) -> float:
    """Return the standard deviation of the best point of the grid over seeds."""
    base = [str(override) for override in read(NAME).values["base"]]
    point = [f"{key}={value}" for key, value in best.values.items()]
    seeds = f"seed={','.join(map(str, NOISE_SEEDS))}"
    shared = ["tracking=off", f"launcher.workers={WORKERS}", f"runs_dir={runs_dir}", "sweep.name=noise"]
    return stdev(run(read_overrides([*base, *point, seeds, *shared])).all_values)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="number of rounds, each with other seeds (1)")
    num_rounds = parser.parse_args().rounds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the workers
    with tempfile.TemporaryDirectory(prefix="lathe-bench-", ignore_cleanup_errors=True) as name:
        rounds = [race(Path(name), seed) for seed in range(num_rounds)]
        spread = noise(Path(name), rounds[0][0])
    grid, asha = (fmean(pair[which].best for pair in rounds) for which in (0, 1))
    ratio = sum(asha.num_steps for _, asha in rounds) / sum(grid.num_steps for grid, _ in rounds)
    print(
        f"best: grid {grid:.4f}, ASHA {asha:.4f}, {grid - asha:.4f} less (<= {spread:.4f}, the standard deviation over seeds)"
    )
    print(f"steps of ASHA / steps of the grid: {ratio:.2f} (<= {BUDGET_RATIO})")
    is_met = grid - asha <= spread and ratio <= BUDGET_RATIO
    print("met" if is_met else "MISSED")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
