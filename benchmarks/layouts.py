"""Budget: the cost model ranks layouts as they are measured, rank correlation >= 0.7 (``python -m benchmarks.layouts``).

All layouts that 4 processes on this machine's cores can run of a small gpt, each with the micro-batch that the cost model
would take. Ranks compute and exchange as in a run; of many steps the fastest counts, since others use the machine too, and
the slowest rank's. Where there are fewer cores than ranks the model counts the waiting for them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one thread a rank

from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.plan.layout_search import Candidate, compare
from experiments.plan.plan import make_plan
from modules.parallel.base import EngineConfig, Rank
from tests.support.ranks import on_ranks

BUDGET = 0.7
NUM_ROUNDS, NUM_WARMUP_STEPS, NUM_STEPS = 2, 3, 12
EXPERIMENT = (
    "model=gpt_nano", "model.num_layers=4", "model.hidden_size=128", "model.ff_size=384", "data=shakespeare_char",
    "data.vocab_size=64", "data.num_train=null", "evaluator=perplexity", "checkpoint.best_metric=val/loss_nats",
    "batch_size_global=32", "hardware=cpu_4",
)  # fmt: skip


def main() -> int:
    ranked = compare(compose([*EXPERIMENT, "parallel=auto"])).ranked
    rounds = [[_measured(candidate) for candidate in ranked] for _ in range(NUM_ROUNDS)]
    seconds = [min(found) for found in zip(*rounds, strict=True)]
    guesses = [candidate.cost.total_s for candidate in ranked]
    told, measured = ranks_of(guesses), ranks_of(seconds)
    print("| layout | at once | told | measured | rank told | rank measured |\n|---|---|---|---|---|---|")
    for candidate, guess, real, one, two in zip(ranked, guesses, seconds, told, measured, strict=True):
        layout = candidate.layout
        at_once = f"{layout.batch_size_per_device} x {layout.num_micro_batches}"
        print(f"| {candidate.name} | {at_once} | {guess * 1e3:.0f} ms | {real * 1e3:.0f} ms | {one:g} | {two:g} |")
    found = spearman(told, measured)
    print(f"\nSpearman's rank correlation of {len(ranked)} layouts: {found:.2f}, budget {BUDGET}")
    return 0 if found >= BUDGET else 1


def _measured(candidate: Candidate) -> float:
    seconds = max(on_ranks(candidate.layout.topology.world, step_s, [*EXPERIMENT, *candidate.overrides]))
    print(f"{candidate.name}: {seconds * 1e3:.0f} ms", file=sys.stderr, flush=True)
    return seconds


def step_s(rank: Rank, overrides: Sequence[str]) -> float:
    """Seconds of the fastest step on this rank."""
    config: dict[str, Any] = compose(list(overrides)).config
    data = {name: value for name, value in config["data"].items() if name != "files"}  # nothing is read
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
    parts.engine.prepare(parts.task, engine_config)
    batch = parts.data.example(plan.batch_size_per_device * plan.num_accumulation)
    seconds: list[float] = []
    for step in range(engine_config.num_steps):
        begin = time.perf_counter()
        metrics = parts.engine.train_step(batch, step)
        float(next(iter(metrics.values())))
        seconds.append(time.perf_counter() - begin)
    parts.engine.gather(0.0)  # nobody leaves before all have done
    return min(seconds[NUM_WARMUP_STEPS:])


def ranks_of(values: Sequence[float]) -> list[float]:
    """From 1, the smallest; equal values share the mean of their ranks."""
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


def spearman(one: Sequence[float], two: Sequence[float]) -> float:
    """Correlation of two lists of ranks."""
    mean = (len(one) + 1) / 2
    covariance = sum((a - mean) * (b - mean) for a, b in zip(one, two, strict=True))
    return float(covariance / (sum((a - mean) ** 2 for a in one) * sum((b - mean) ** 2 for b in two)) ** 0.5)


if __name__ == "__main__":
    sys.exit(main())
