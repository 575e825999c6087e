"""Budgets of data loading: ``python -m benchmarks.data_loading``.

A data set waits 2 ms for each example, as for a disk on the network. Measured against the same run in the same process:

- step time with two data workers, against none: at most 0.7, as a step of the model takes as long as the reading of its batch;
- an evaluation whose workers live on, against one that starts them anew: at most 1;
- examples that one of 4 replicas fetches, of those of the global batch: exactly 1/4.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from experiments.train.data_loading import DataShard, EvaluationLoader, training_batches
from modules.data.base import Batch

NUM_EXAMPLES, BATCH_SIZE, READ_S = 256, 16, 0.002
NUM_STEPS, NUM_WORKERS, NUM_REPEATS = 40, 2, 5


class SlowSplit:
    """Examples that take a while to read."""

    in_memory = False

    def __init__(self) -> None:
        self.num_fetched = 0

    def __len__(self) -> int:
        return NUM_EXAMPLES

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        self.num_fetched += len(indices)
        time.sleep(READ_S * len(indices))
        return torch.zeros(len(indices), 3, 32, 32), indices.clone()


def time_s(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def train(num_workers: int) -> None:
    for _ in training_batches(SlowSplit(), BATCH_SIZE, 0, 0, NUM_STEPS, num_workers):
        time.sleep(READ_S * BATCH_SIZE)  # the device computes


def step_ratio() -> float:
    return median(time_s(lambda: train(NUM_WORKERS)) / time_s(lambda: train(0)) for _ in range(NUM_REPEATS))


def evaluation_ratio() -> float:
    """The median of later evaluations, against that of new loaders."""

    def evaluate(loader: EvaluationLoader) -> None:
        for _ in loader:
            pass

    def evaluate_anew() -> None:
        loader = EvaluationLoader(SlowSplit(), BATCH_SIZE, NUM_WORKERS)
        evaluate(loader)
        loader.close()

    living = EvaluationLoader(SlowSplit(), BATCH_SIZE, NUM_WORKERS)
    evaluate(living)
    ratios = [time_s(lambda: evaluate(living)) / time_s(evaluate_anew) for _ in range(NUM_REPEATS)]
    living.close()
    return median(ratios)


def fetched_fraction(num_replicas: int = 4) -> float:
    split = SlowSplit()
    for _ in training_batches(split, BATCH_SIZE, 0, 0, 2, 0, DataShard(1, num_replicas)):
        pass
    return split.num_fetched / (2 * BATCH_SIZE)


def main() -> None:
    results = (
        ("step time, 2 workers / none", step_ratio(), 0.7),
        ("evaluation, living workers / new ones", evaluation_ratio(), 1.0),
        ("examples fetched by 1 of 4 replicas / global batch", fetched_fraction(), 0.25),
    )
    for name, ratio, budget in results:
        print(f"{name}: {ratio:.3f} (budget {budget})")
    sys.exit(any(ratio > budget for _, ratio, budget in results))


if __name__ == "__main__":
    main()
