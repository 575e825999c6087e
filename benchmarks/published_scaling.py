"""The simulator against published measurements of synchronous training (``python -m benchmarks.published_scaling [-o DIR]``).

Each source gives some numbers as inputs of the simulator, and other numbers that it predicts; nothing is fitted to the latter.
Prints the table of docs/simulator.md, and draws its figure with ``-o``. There is no budget; large errors are in the table too.

Sources:
  [A] Abadi et al. 2016, TensorFlow: a system for large-scale machine learning, OSDI, section 6.2 and figure 7 (null steps,
      16 parameter servers), section 6.3 and figure 8 (Inception-v3).
  [C] Chen et al. 2016, Revisiting distributed synchronous SGD, arXiv:1604.00981, section on straggler effects, figures 3
      and 4 (Inception, 100 workers, no backup).
  [M] Murray 2016, Announcing TensorFlow 0.8, research.google/blog, 13 April 2016 (Inception, 100 GPUs).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from experiments.core import figures as look
from experiments.plan.simulate.cluster import Cluster
from experiments.plan.simulate.distributions import ConstantTime, Measured
from experiments.plan.simulate.modes import Choices, simulate
from modules.parallel.cost_model.step_time import Machine

NULL_STEPS = {1e8: (0.147, 0.613), 1e9: (1.01, 7.16)}
"""[A] figure 7, dense: bytes of the model, and median seconds of a step of 1 and of 100 workers."""
NULL_SERVERS = 16
FIRST_S, LAST_S = 1.4, 1.8
"""[C] figure 4: mean times of the first and the 97th gradient; the last three are later."""
WITHIN_S, LAST_WITHIN, LAST_BUT_TWO_WITHIN = 2.0, 0.30, 0.80
"""[C] seconds within which 30 % of the 100th gradients and 80 % of the 98th gradients arrive."""
BACKUPS = range(6)
BEST_NORMALISED = (3, 1.095)
"""[A] figure 8c, 50 workers: 3 backup workers give the best normalised speed-up (speed-up times 50/53), 9.5 %."""
BEST_STEP = (4, 1.93)
"""[A] 4 backup workers give the shortest step, 1.93 s; 5 give a longer one."""
SYNC_LONGER = 1.10
"""[A] figure 8b: approximate ratio of a synchronous to an asynchronous step, from the median to the 90th percentile."""
GPUS, SPEEDUP = 100, 56.0
"""[M] speed-up of Inception on 100 GPUs."""
TALK = 42.0
"""The talk behind this project: train in one day what takes 6 weeks on a single GPU."""


@dataclass(frozen=True)
class Row:
    """A published number and the number of the simulator."""

    source: str
    what: str
    inputs: str
    """What the simulator used of the source."""
    published: float
    predicted: float
    unit: str = ""

    @property
    def error(self) -> float:
        return self.predicted / self.published - 1


def machine(bytes_per_s: float = 1e12, latency_s: float = 0.0) -> Machine:
    """Describe nodes with one device each, of which only the links matter here."""
    return Machine(
        flops_per_s=1.0, devices_per_node=1, concurrent_devices=1.0, link_bytes_per_s=bytes_per_s, link_latency_s=latency_s,
        network_bytes_per_s=bytes_per_s, network_latency_s=latency_s, operation_s=0.0, host_bytes_per_s=1.0, is_accelerator=True,
    )  # fmt: skip


def null_steps() -> Iterator[Row]:
    """Predict steps of 100 workers that only communicate, with the bandwidth and the latency of single workers."""
    (small, (small_s, _)), (large, (large_s, _)) = sorted(NULL_STEPS.items())
    per_byte_s = (large_s - small_s) / (large - small)
    fixed_s = small_s - small * per_byte_s
    on = machine(2 / per_byte_s, fixed_s / 2)  # to the server and back, in sequence
    for size, (_, published_s) in sorted(NULL_STEPS.items()):
        cluster = Cluster("null steps", on, ConstantTime(1e-9), 1, int(size), 0.0, num_servers=NULL_SERVERS)
        result = simulate(cluster, "sync_servers", 100, Choices(num_steps=30))
        what = f"step of 100 workers, {size / 1e9:g} GB, 16 servers"
        yield Row("[A] fig. 7", what, "steps of one worker", published_s, result.step_s, "s")


@cache
def inception() -> Cluster:
    """Return the workers of [C], with the distribution of the time from the start of a step to a gradient on the servers.

    The 1st and the 97th of 100 arrive after 1.4 and 1.8 s. The fraction of gradients within 2 s is the 100th root of the
    fraction of last gradients within 2 s. From 1.8 s on, the tail is the exponential through both ("grows exponentially").
    """
    within = LAST_WITHIN ** (1 / 100)
    rate = math.log(0.03 / (1 - within)) / (WITHIN_S - LAST_S)
    tail = [0.03 * 10 ** (-step / 8) for step in range(41)]
    seconds = [FIRST_S, *(LAST_S + math.log(0.03 / fraction) / rate for fraction in tail)]
    times = Measured(seconds, [0.01, *(1 - fraction for fraction in tail)])
    return Cluster("Inception, Chen et al. 2016", machine(), times, 32, 0, 0.0)


@cache
def backup_steps_s() -> list[float]:
    """Return the median step of 50 workers with 0, 1, ... backup workers."""
    return [simulate(inception(), "backup", 50 + more, _backup(more)).step_s for more in BACKUPS]


def _backup(more: int) -> Choices:
    return Choices(num_backup=more, num_steps=3000)


def stragglers() -> Iterator[Row]:
    """Predict Inception with the times of [C]."""
    inputs = "times of [C]"
    within = LAST_WITHIN ** (1 / 100)
    third = sum(math.comb(100, late) * (1 - within) ** late * within ** (100 - late) for late in range(3))
    yield Row(
        "[C] fig. 3",
        "98th of 100 gradients within 2 s",
        "30 % of the last are",
        LAST_BUT_TWO_WITHIN * 100,
        third * 100,
        "%",
    )
    steps_s = backup_steps_s()
    normalised = [steps_s[0] / step_s * 50 / (50 + more) for more, step_s in zip(BACKUPS, steps_s, strict=True)]
    number, best = BEST_NORMALISED
    yield Row("[A] fig. 8c", f"normalised speed-up with {number} backup workers", inputs, best, normalised[number])
    best_number = max(BACKUPS, key=lambda more: normalised[more])
    yield Row("[A] fig. 8c", "number of backup workers of the best", inputs, number, best_number)
    number, step_s = BEST_STEP
    yield Row("[A] fig. 8c", f"step of 50 workers, {number} backup", inputs, step_s, steps_s[number], "s")
    alone_s = inception().times.mean_s
    yield Row("[A] fig. 8b", "sync over async step, 50 workers", inputs, SYNC_LONGER, steps_s[0] / alone_s)
    yield Row(
        "[M]", f"speed-up of {GPUS} GPUs", "times of [C], a GPU alone as the first", SPEEDUP,
        speedup(GPUS, 0),
    )  # fmt: skip


def speedup(workers: int, num_backup: int) -> float:
    """Return the speed-up over one worker, which does not communicate and is as fast as the first of 100."""
    mode = "backup" if num_backup else "sync"
    result = simulate(inception(), mode, workers, Choices(num_backup or None, num_steps=400))
    return result.examples_per_s / (inception().batch_size / FIRST_S)


def rows() -> list[Row]:
    return [*null_steps(), *stragglers()]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published_scaling")
    parser.add_argument("-o", "--output", metavar="DIR", help="draw the figure into this folder")
    args = parser.parse_args(argv)
    print("| source | what | inputs | published | simulated | error |\n|---|---|---|---|---|---|")
    for row in rows():
        unit = f" {row.unit}" if row.unit else ""
        numbers = f"{row.published:.3g}{unit} | {row.predicted:.3g}{unit} | {row.error:+.0%}"
        print(f"| {row.source} | {row.what} | {row.inputs} | {numbers} |")
    enough = next(workers for workers in range(40, 200) if speedup(workers, 0) >= TALK)
    backed = next(workers for workers in range(40, 200) if speedup(workers, 2) >= TALK)
    print(f"\na speed-up of {TALK:g} over one GPU needs {enough} such workers, or {backed} with 2 backup workers")
    if args.output:
        picture = draw()
        (Path(args.output) / f"{picture.name}.png").write_bytes(picture.png)
    return 0


def draw() -> look.RenderedFigure:
    """Plot simulated over published numbers, and the step time over the number of backup workers."""
    with look.new_figure(1, 2, 3.9) as (figure, axes):
        table = rows()
        heights = range(len(table), 0, -1)
        axes[0].axvline(1.0, color=look.MUTED, linewidth=1.0)
        axes[0].axvspan(0.85, 1.15, color=look.GRID, linewidth=0)
        axes[0].plot([row.error + 1 for row in table], heights, "o", color=look.SERIES[0], markersize=6)
        axes[0].set_yticks(heights, [f"{row.source} {row.what}" for row in table], fontsize=7.5)
        axes[0].set_xlim(0.5, 1.5)
        axes[0].set_title("Simulated / published (grey: within 15 %)")
        steps_s = backup_steps_s()
        axes[1].plot(BACKUPS, steps_s, marker="o", color=look.SERIES[0], label="simulated, times of [C]")
        axes[1].plot(*BEST_STEP, "s", color=look.SERIES[1], label="published: 1.93 s with 4, 2.24 to 2.28 s without")
        axes[1].vlines(0, *bounds_s(), color=look.SERIES[1], linewidth=4)
        axes[1].set_ylim(1.5, 2.5)
        axes[1].set_title("Median step of 50 workers, s")
        axes[1].set_xlabel("backup workers")
        axes[1].legend()
        return look.render(
            figure, "simulator-published", title="Published and simulated", caption="", tips=look.Tooltips(),
            alt="Published measurements and results of the simulator.",
        )  # fmt: skip


def bounds_s() -> tuple[float, float]:
    """Return bounds of the step without backup workers in [A].

    3 backup workers give a normalised speed-up of 9.5 %; 4 give a lower one, but a shorter step.
    """
    number, best = BEST_NORMALISED
    _, step_s = BEST_STEP
    return step_s * best * (50 + number) / 50, step_s * best * (50 + BEST_STEP[0]) / 50


if __name__ == "__main__":
    sys.exit(main())
