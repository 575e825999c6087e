"""Throughput of asynchronous replicas (``python -m benchmarks.async_throughput``).

Compares `parallel=async` with two replicas, one parameter server and a coordinator with `parallel=data` on two ranks, with
the same model and global batches. Both start in turn several times. The table has the median examples per second after the
warm-up steps and the median ratio, also with one slow replica, which sleeps before every gradient.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: one core per rank

import torch
from torch import nn
from torch.optim import SGD

from modules.data.base import Batch
from modules.model.mlp import Mlp
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import EngineConfig, Rank, TrainingSetup
from modules.parallel.data import DataParallel
from modules.parallel.parameter_server import ParameterServer
from modules.parallel.topology import Topology
from modules.schedule.constant import Constant
from tests.support.ranks import run_on_ranks

NUM_TURNS, WARMUP_STEPS = 3, 5
BATCH_SIZE, NUM_FEATURES, NUM_CLASSES = 256, 784, 10
CASES = {"small": ([256, 256], 120), "large": ([1024, 1024], 40)}
DELAY_S = 0.05


def fetch(step: int, number: int, count: int) -> Batch:
    generator = torch.Generator().manual_seed(step * count + number)
    size = BATCH_SIZE // count
    return torch.randn(size, NUM_FEATURES, generator=generator), torch.randint(
        NUM_CLASSES, (size,), generator=generator
    )


def _make_setup(hidden_sizes: list[int]) -> TrainingSetup:
    torch.manual_seed(0)
    model: nn.Module = Mlp(NUM_FEATURES, NUM_CLASSES, hidden_sizes, dropout_prob=0.0)
    return TrainingSetup(model, CrossEntropy(), partial(SGD, lr=0.01), Constant())


def _make_engine_config(rank: Rank, num_steps: int, folder: str) -> EngineConfig:
    return EngineConfig(
        num_steps, 1, None, "fp32", False, "cpu", BATCH_SIZE // 2, Topology(data=2), rank, (num_steps,), Path(folder)
    )


def synchronous(rank: Rank, hidden_sizes: list[int], num_steps: int, delay_s: float, folder: str) -> float:
    """Return the examples per second of `parallel=data`."""
    engine, begin = DataParallel(2), 0.0
    engine.prepare(_make_setup(hidden_sizes), _make_engine_config(rank, num_steps, folder))
    for step in range(num_steps):
        if step == WARMUP_STEPS:
            begin = time.perf_counter()
        if delay_s and rank.number == 1:
            time.sleep(delay_s)
        engine.train_step(fetch(step, rank.number, 2), step)
    return (num_steps - WARMUP_STEPS) * BATCH_SIZE / (time.perf_counter() - begin)


def asynchronous(rank: Rank, hidden_sizes: list[int], num_steps: int, delay_s: float, folder: str) -> float:
    """Return the examples per second of `parallel=async`."""
    delays: dict[int, float] = {1: delay_s} if delay_s else {}
    engine, engine_config = (
        ParameterServer(2, delays_s=delays, snapshot_every_steps=10**6),
        _make_engine_config(rank, num_steps, folder),
    )
    setup, roles = _make_setup(hidden_sizes), list(engine.roles(engine_config.topology))
    if rank.number:
        engine.run_role(roles[rank.number - 1], setup, engine_config, fetch, lambda: None)
        return 0.0
    engine.prepare(setup, engine_config)
    begin, nothing = 0.0, (torch.empty(0), torch.empty(0))
    for step in range(num_steps):
        if step == WARMUP_STEPS:
            begin = time.perf_counter()
        engine.train_step(nothing, step)
    examples_per_s = (num_steps - WARMUP_STEPS) * BATCH_SIZE / (time.perf_counter() - begin)
    engine.close()
    return examples_per_s


def turn(function: Any, world: int, *args: Any) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return float(run_on_ranks(world, function, *args, folder)[0])


def main() -> int:
    """Print a table."""
    print("| model | slow replica | data, examples/s | async, examples/s | ratio |\n|---|---|---|---|---|")
    for name, (hidden_sizes, num_steps) in CASES.items():
        for delay_s in (0.0, DELAY_S):
            pairs = [
                (
                    turn(synchronous, 2, hidden_sizes, num_steps, delay_s),
                    turn(asynchronous, 4, hidden_sizes, num_steps, delay_s),
                )
                for _ in range(NUM_TURNS)
            ]
            theirs, ours = median(one for one, _ in pairs), median(two for _, two in pairs)
            ratio = median(two / one for one, two in pairs)
            slow = f"{delay_s * 1e3:.0f} ms per gradient" if delay_s else "none"
            print(f"| {name} {hidden_sizes} | {slow} | {theirs:,.0f} | {ours:,.0f} | {ratio:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
