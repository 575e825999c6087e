"""Budget: ``channels_last=true`` makes steps shorter where an experiment has it (``python -m benchmarks.channels_last``).

Steps of both kinds take turns in one process with one thread, on the same examples; CPU seconds decide.
``python -m benchmarks.channels_last alexnet`` asks of another experiment, or of the same with overrides.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one thread is what can be compared on a shared machine

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
    """Clocks of steps with images channel by channel, and pixel by pixel; [kinds][blocks].

    Raises:
        DataError: its data are not here.
    """
    loops = list[Loop]()
    for is_last in ("false", "true"):
        config = compose([f"experiment={name}", *ONLY_STEPS, f"channels_last={is_last}", *overrides]).config
        loops.append(bare(config, make_plan(config), assemble(config).data.load("train")))
    blocks = [[timed(loop, STEPS_PER_BLOCK) for loop in loops] for _ in range(NUM_WARMUP + NUM_BLOCKS)]
    return [list(kind) for kind in zip(*blocks[NUM_WARMUP:], strict=True)]


def main(arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)
    names = [word for word in arguments if "=" not in word] or EXPERIMENTS
    kept = True
    print(f"| experiment | channels first | channels last | ratio | budget |\n|{'---|' * 5}")
    for name in names:
        try:
            first, last = compare(name, [word for word in arguments if "=" in word])
        except DataError as err:
            print(f"| {name} | skipped: {err} |")
            continue
        first_ms, last_ms = (median(clock.cpu_s for clock in clocks) * 1e3 for clocks in (first, last))
        ratio = cpu_ratio(last, first)
        print(f"| {name} | {first_ms:.1f} ms | {last_ms:.1f} ms | {ratio:.3f} | < 1 |", flush=True)
        kept &= ratio < 1
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
