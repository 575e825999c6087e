"""Budget: the cost model ranks layouts like measurements, with a rank correlation >= 0.7 (``python -m benchmarks.layouts``).

Measures all layouts of a small gpt on 4 processes of this machine, each with the micro-batch that the cost model chooses. The
time of a rank is its fastest step, since other processes use the machine too; the time of a layout is that of its slowest
rank. The cost model also estimates how long ranks wait for a core if there are fewer cores than ranks.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one thread per rank

from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.plan.layout_search import Candidate, compare
from experiments.plan.plan import make_plan
from modules.parallel.base import EngineConfig, Rank
from tests.support.ranks import run_on_ranks

BUDGET = 0.7
NUM_ROUNDS, NUM_WARMUP_STEPS, NUM_STEPS = 2, 3, 12
EXPERIMENT = (
    "model=gpt_nano", "model.num_layers=4", "model.hidden_size=128", "model.ff_size=384", "data=shakespeare_char",
    "data.vocab_size=64", "data.num_train=null", "evaluator=perplexity", "checkpoint.best_metric=val/loss_nats",
    "batch_size_global=32", "hardware=cpu_4",
)  # fmt: skip


def main() -> int:
    ranked = compare(compose([*EXPERIMENT, "parallel=auto"])).ranked
    rounds = [[_measure(candidate) for candidate in ranked] for _ in range(NUM_ROUNDS)]
    seconds = [min(times) for times in zip(*rounds, strict=True)]
    estimates = [candidate.cost.total_s for candidate in ranked]
    estimated, measured = rank_values(estimates), rank_values(seconds)
    print("| layout | batch | estimated | measured | rank, estimated | rank, measured |\n|---|---|---|---|---|---|")
    for candidate, estimate, real, one, two in zip(ranked, estimates, seconds, estimated, measured, strict=True):
        layout = candidate.layout
        batch = f"{layout.batch_size_per_device} x {layout.num_micro_batches}"
        print(f"| {candidate.name} | {batch} | {estimate * 1e3:.0f} ms | {real * 1e3:.0f} ms | {one:g} | {two:g} |")
    correlation = spearman(estimated, measured)
    print(f"\nSpearman's rank correlation of {len(ranked)} layouts: {correlation:.2f}, budget {BUDGET}")
    return 0 if correlation >= BUDGET else 1


def _measure(candidate: Candidate) -> float:
    seconds = max(run_on_ranks(candidate.layout.topology.world, step_s, [*EXPERIMENT, *candidate.overrides]))
    print(f"{candidate.name}: {seconds * 1e3:.0f} ms", file=sys.stderr, flush=True)
    return seconds


def step_s(rank: Rank, overrides: Sequence[str]) -> float:
    """Return the seconds of the fastest step on this rank."""
    config: dict[str, Any] = compose(list(overrides)).config
    data = {name: value for name, value in config["data"].items() if name != "files"}  # so that nothing is read
    plan = make_plan({**config, "data": data})
    parts = assemble(config)
    engine_config = EngineConfig(
        num_steps=NUM_WARMUP_STEPS + NUM_STEPS,
        num_accumulation=plan.num_accumulation,
        grad_clip_norm=config["grad_clip_norm"],
        precision=config["precision"],
        compile=False,
        device="cpu",
        batch_size_per_device=plan.batch_size_per_device,
        topology=plan.topology,
        rank=rank,
    )
    parts.engine.prepare(parts.setup, engine_config)
    batch = parts.data.example(plan.batch_size_per_device * plan.num_accumulation)
    seconds: list[float] = []
    for step in range(engine_config.num_steps):
        begin = time.perf_counter()
        metrics = parts.engine.train_step(batch, step)
        float(next(iter(metrics.values())))
        seconds.append(time.perf_counter() - begin)
    parts.engine.gather(0.0)  # waits until all ranks are done
    return min(seconds[NUM_WARMUP_STEPS:])


def rank_values(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 1 for the smallest; equal values get the mean of their ranks."""
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


def spearman(one: Sequence[float], two: Sequence[float]) -> float:
    """Return the correlation of two lists of ranks."""
    mean = (len(one) + 1) / 2
    covariance = sum((a - mean) * (b - mean) for a, b in zip(one, two, strict=True))
    return float(covariance / (sum((a - mean) ** 2 for a in one) * sum((b - mean) ** 2 for b in two)) ** 0.5)


if __name__ == "__main__":
    sys.exit(main())
