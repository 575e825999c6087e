"""Budget: ``channels_last=true`` makes the steps of the experiments that set it faster (``python -m benchmarks.channels_last``).

Steps with both settings alternate in one process with one thread on the same examples. The budget is on CPU time.
``python -m benchmarks.channels_last alexnet`` measures another experiment; overrides are possible too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: on a shared machine only one thread is comparable

import torch

from benchmarks.step_overhead import Clock, Loop, cpu_ratio, timed
from benchmarks.throughput import ONLY_STEPS, bare
from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.plan.plan import make_plan
from modules.data.base import DataError

EXPERIMENTS = ("bn_inception", "inception_v1", "inception_v3", "cifar_tutorial")
NUM_BLOCKS, NUM_WARMUP, STEPS_PER_BLOCK = 12, 2, 1


def compare(name: str, overrides: Sequence[str]) -> list[list[Clock]]:
    """Measure steps with channels first and channels last; [settings][blocks].

    Raises:
        DataError: the data are missing.
    """
    loops = list[Loop]()
    for is_last in ("false", "true"):
        config = compose([f"experiment={name}", *ONLY_STEPS, f"channels_last={is_last}", *overrides]).config
        loops.append(bare(config, make_plan(config), assemble(config).data.load("train")))
    blocks = [[timed(loop, STEPS_PER_BLOCK) for loop in loops] for _ in range(NUM_WARMUP + NUM_BLOCKS)]
    return [list(clocks) for clocks in zip(*blocks[NUM_WARMUP:], strict=True)]


def main(arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)
    names = [argument for argument in arguments if "=" not in argument] or EXPERIMENTS
    is_met = True
    print(f"| experiment | channels first | channels last | ratio | budget |\n|{'---|' * 5}")
    for name in names:
        try:
            first, last = compare(name, [argument for argument in arguments if "=" in argument])
        except DataError as err:
            print(f"| {name} | skipped: {err} |")
            continue
        first_ms, last_ms = (median(clock.cpu_s for clock in clocks) * 1e3 for clocks in (first, last))
        ratio = cpu_ratio(last, first)
        print(f"| {name} | {first_ms:.1f} ms | {last_ms:.1f} ms | {ratio:.3f} | < 1 |", flush=True)
        is_met &= ratio < 1
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
