"""Splits with a part of the examples, for `fast_dev_run` and `overfit_batches`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from experiments.train.data_loading import TrainingBatches
from experiments.train.loading.split_signature import is_split
from experiments.trial.debug_run import FAST_STEPS
from modules.data.base import Batch, Collector, Split, Stream


class LimitedSplit:
    """Some examples of a split. Its other attributes are those of the whole split, for an evaluator that reads them."""

    def __init__(self, whole: Split, indices: Tensor, seeds: Tensor | None = None) -> None:
        """
        Args:
            whole: the split.
            indices: of the examples, int64 [examples].
            seeds: of the examples, int64 [examples], the same in every epoch and evaluation; None: as the caller draws them.
        """
        self.whole, self.indices, self.seeds = whole, indices, seeds
        self.in_memory = whole.in_memory

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        own = seeds if self.seeds is None else self.seeds[indices]
        return self.whole.batch(self.indices[indices], own)

    def order(self, batch_size: int, generator: Generator) -> Tensor:
        """The examples as they are: each step gets the same batch in every epoch."""
        return torch.arange(len(self.indices))

    def __getattr__(self, name: str) -> Any:
        if name == "whole":  # while a data worker copies this object
            raise AttributeError(name)
        return getattr(self.whole, name)


def limit_training(
    train: Split | Stream | Collector, config: Mapping[str, Any], batch_size: int
) -> Split | Stream | Collector:
    """Reduce the training data to the first batches of the training with `overfit_batches`; else return them.

    Raises:
        ValueError: they have no examples that could come again, or too few.
    """
    count = config.get("overfit_batches")
    if count is None:
        return train
    if isinstance(train, Collector) or not is_split(train):
        raise ValueError(
            f"overfit_batches={count} repeats batches of a data set, but these training data have no end; "
            "set overfit_batches=null"
        )
    if count * batch_size > len(train):
        raise ValueError(
            f"overfit_batches={count} needs {count * batch_size} examples, and the training split has {len(train)}; "
            f"use at most {len(train) // batch_size}"
        )
    batches = TrainingBatches(train, batch_size, config["seed"])
    batches.start_epoch(0)
    rows = slice(count * batch_size)
    return LimitedSplit(train, batches.permutation[rows], batches.seeds[rows])


def limit_evaluation(
    split: Split, train: Split | Stream | Collector, config: Mapping[str, Any], num_replicas: int
) -> Split:
    """Reduce a split for evaluation: to the limited training data with `overfit_batches`, or to a few batches of each replica."""
    if config.get("overfit_batches") is not None and isinstance(train, LimitedSplit):
        split = train
    count = FAST_STEPS * config["batch_size_eval"] * num_replicas
    if config.get("fast_dev_run") and len(split) > count:
        return LimitedSplit(split, torch.arange(count))
    return split
