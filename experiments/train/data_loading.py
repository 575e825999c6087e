"""Batches for training and evaluation. Their order is a pure function of (seed, step) and the global batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from experiments.core.seeding import derive_seed
from experiments.train.loading.split_signature import check_signature, is_split
from experiments.train.loading.workers import Batches, Workers
from modules.data.base import Batch, Ordered, Split, Stream, StreamShard, has_method


@dataclass(frozen=True)
class DataShard:
    """The part of every batch that one replica gets: replica ``number`` of ``count``."""

    number: int = 0
    count: int = 1


ALL = DataShard()


def training_batches(
    split: Split | Stream,
    batch_size: int,
    seed: int,
    first_step: int,
    num_steps: int,
    num_workers: int,
    shard: DataShard = ALL,
) -> Iterator[Batch]:
    """Return the batches of the steps ``first_step .. num_steps - 1``; a resumed run gets the same ones.

    An epoch is one permutation of the split: random, or the order of an `Ordered` split. Examples at its end that do not
    fill a batch are skipped in this epoch.

    Args:
        split: the training split, or a stream.
        batch_size: examples of one step over all devices.
        seed: determines order and augmentation, together with the step.
        first_step: counted from 0; above 0 after a resume.
        num_steps: length of the whole training.
        num_workers: processes that prefetch from a split that is not in memory; 0: fetch in this process.
        shard: the part to fetch.

    Raises:
        ValueError: the split is smaller than one batch.
    """
    _check(batch_size, num_workers)
    batches = make_training_batches(split, batch_size, seed, shard)
    if getattr(split, "is_sequential", False):
        num_workers = min(num_workers, 1)  # each would read everything
    return _fetch(batches, range(first_step, num_steps), split, num_workers)


def make_training_batches(
    split: Split | Stream, batch_size: int, seed: int, shard: DataShard = ALL
) -> TrainingBatches | StreamBatches:
    """Return the training batches by step; arguments and errors as `training_batches`."""
    check_signature(split)
    if not is_split(split):
        return StreamBatches(split, batch_size, seed, shard)
    if batch_size > len(split):
        raise ValueError(
            f"batch_size_global={batch_size} is more than the {len(split)} examples of the training split; "
            f"lower batch_size_global to at most {len(split)}"
        )
    return TrainingBatches(split, batch_size, seed, shard)


class EvaluationLoader:
    """The batches of a split in order, for any number of evaluations. Its workers live until `close`.

    Every example comes once. Batches go to the replicas in turn; the last one may be smaller. Every replica gets the same
    number of batches. The flag is False for a repeated batch that only fills up this number and does not count.
    """

    def __init__(self, split: Split, batch_size: int, num_workers: int, shard: DataShard = ALL) -> None:
        """
        Raises:
            ValueError: the split is empty, or has no ``batch(indices, seeds)``.
        """
        _check(batch_size, num_workers)
        check_signature(split)
        if len(split) == 0:
            raise ValueError("the evaluation split has 0 examples and needs at least 1; add examples to it")
        self.split = split
        num_batches = -(-len(split) // batch_size)
        numbers = range(shard.number, -(-num_batches // shard.count) * shard.count, shard.count)
        self._is_counted = [number < num_batches for number in numbers]
        self._numbers = [number if number < num_batches else 0 for number in numbers]
        self._batches = _EvaluationBatches(split, batch_size)
        is_parallel = num_workers > 0 and not split.in_memory
        self._workers = Workers(self._batches, self._numbers, num_workers) if is_parallel else None

    def __iter__(self) -> Iterator[tuple[Batch, bool]]:
        fetched = self._workers or (self._batches[number] for number in self._numbers)
        return zip(fetched, self._is_counted, strict=True)

    def close(self) -> None:
        """End the workers."""
        if self._workers is not None:
            self._workers.close()


class TrainingBatches:
    """Training batches by step, in any order."""

    def __init__(self, split: Split, batch_size: int, seed: int, shard: DataShard = ALL) -> None:
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.shard = shard
        self.epoch = -1
        self.permutation = self.seeds = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, number: int) -> Batch:
        return self.fetch(number, self.shard)

    def fetch(self, number: int, shard: DataShard) -> Batch:
        """Fetch one shard of the batch of a step: its own examples only."""
        epoch, batch_in_epoch = divmod(number, len(self.split) // self.batch_size)
        if epoch != self.epoch:
            self.start_epoch(epoch)
        size = self.batch_size // shard.count
        first = batch_in_epoch * self.batch_size + shard.number * size
        rows = slice(first, first + size)
        return self.split.batch(self.permutation[rows], self.seeds[rows])

    def start_epoch(self, epoch: int) -> None:
        """Draw the order and the seeds of an epoch."""
        generator = Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        if isinstance(self.split, Ordered) and has_method(self.split, "order"):
            self.permutation = self.split.order(self.batch_size, generator)
        else:
            self.permutation = torch.randperm(len(self.split), generator=generator)
        self.seeds = _draw_seeds(len(self.permutation), derive_seed(self.seed, "augment", epoch))
        self.epoch = epoch


class StreamBatches:
    """Batches of a stream by step."""

    def __init__(self, stream: Stream, batch_size: int, seed: int, shard: DataShard = ALL) -> None:
        self.stream, self.batch_size, self.shard = stream, batch_size, shard
        self.seed = derive_seed(seed, "stream")

    def __getitem__(self, number: int) -> Batch:
        return self.fetch(number, self.shard)

    def fetch(self, number: int, shard: DataShard) -> Batch:
        """Fetch one shard of the batch of a step."""
        rows = StreamShard(shard.number, shard.count, self.batch_size // shard.count)
        return self.stream.batch(number, rows, self.seed)


def _draw_seeds(num_examples: int, seed: int) -> Tensor:
    """Draw the seed of each example, int64 [num_examples], at least 0."""
    return torch.randint(2**63 - 1, (num_examples,), generator=Generator().manual_seed(seed))


class _EvaluationBatches:
    def __init__(self, split: Split, batch_size: int) -> None:
        self.split = split
        self.batch_size = batch_size
        self.seeds = _draw_seeds(len(split), derive_seed(0, "evaluation"))  # the same in every evaluation

    def __getitem__(self, number: int) -> Batch:
        first = number * self.batch_size
        indices = torch.arange(first, min(first + self.batch_size, len(self.split)))
        return self.split.batch(indices, self.seeds[first : first + self.batch_size])


def _fetch(batches: Batches, numbers: Sequence[int], split: Split | Stream, num_workers: int) -> Iterator[Batch]:
    if split.in_memory or num_workers == 0 or not numbers:
        return (batches[number] for number in numbers)
    return _fetch_in_workers(batches, numbers, num_workers)


def _fetch_in_workers(batches: Batches, numbers: Sequence[int], num_workers: int) -> Iterator[Batch]:
    workers = Workers(batches, numbers, num_workers)
    try:
        yield from workers
    finally:
        workers.close()


def _check(batch_size: int, num_workers: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size_global={batch_size} is not a valid batch size; set 1 or more")
    if num_workers < 0:
        raise ValueError(f"num_workers={num_workers} is not a valid number of processes; set 0 or more")
