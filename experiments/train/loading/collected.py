"""Batches that the model makes itself, step by step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, nn

from experiments.core.seeding import derive_seed
from modules.data.base import Collector, Tree, slice_rows


def collect_batches(
    collector: Collector, model: nn.Module, steps: range, batch_size: int, seed: int, shard: tuple[int, int]
) -> Iterator[Tree]:
    """Return one replica's part of the batch of each step.

    Args:
        collector: makes the global batch.
        model: that is trained.
        steps: counted from 0.
        batch_size: examples of the global batch.
        seed: of the experiment.
        shard: number of this replica, and number of replicas.
    """
    number, count = shard
    rows = slice(number * batch_size // count, (number + 1) * batch_size // count)
    for step in steps:
        generator = Generator().manual_seed(derive_seed(seed, "collect", step))
        # Dropout of the model draws from torch's global generators: every replica, and a resumed run, gets the same batch.
        global_seed = derive_seed(seed, "collect", step, "global")
        torch.default_generator.manual_seed(global_seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed(global_seed)
        with torch.no_grad():
            batch = collector.collect(model, step, batch_size, generator)
        yield batch if count == 1 else slice_rows(batch, rows)
