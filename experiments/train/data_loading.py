"""Which examples come when: a pure function of (seed, step) and the global batch, whoever fetches them."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.core.seeding import derive_seed
from modules.data.base import Batch, DataError, Ordered, Split, Tensors


@dataclass(frozen=True)
class DataShard:
    """Whose part of every batch is fetched: replica ``number`` of ``count``."""

    number: int = 0
    count: int = 1


ALL = DataShard()


def training_batches(
    split: Split,
    batch_size: int,
    seed: int,
    first_step: int,
    num_steps: int,
    num_workers: int,
    share: DataShard = ALL,
) -> Iterator[Batch]:
    """The batches of the steps ``first_step .. num_steps - 1``; a resume gets what it would have got.

    An epoch is one permutation of the split, by chance or as an `Ordered` split has it; the examples that fill no batch at
    its end wait for another epoch.

    Args:
        split: what to draw from.
        batch_size: examples of one step over all devices.
        seed: with the step, all that decides order and augmentation.
        first_step: counted from 0; later than 0 after a resume.
        num_steps: length of the whole training, as the schedule counts it.
        num_workers: processes that fetch ahead where the split reads or decodes; 0 fetches in this one.
        share: whose part to give; every replica fetches the whole, as one stream of chance augments it, and cuts.

    Raises:
        ValueError: the split is smaller than one batch.
    """
    _check(batch_size, num_workers)
    if batch_size > len(split):
        raise ValueError(
            f"batch_size_global={batch_size} is more than the {len(split)} examples of the training split; "
            f"lower batch_size_global to at most {len(split)}"
        )
    return _fetch(TrainingBatches(split, batch_size, seed, share), range(first_step, num_steps), split, num_workers)


def evaluation_batches(
    split: Split, batch_size: int, num_workers: int, share: DataShard = ALL
) -> Iterator[tuple[Batch, bool]]:
    """Every example of a split once and in its own order, dealt to the replicas in turn; the last batch may be smaller.

    Every replica gets as many batches. Where there are too few, False comes with one that was given already and does not
    count.

    Raises:
        ValueError: the split is empty.
    """
    _check(batch_size, num_workers)
    if len(split) == 0:
        raise ValueError("evaluation wants a split of at least 1 example, but got 0; give the split more examples")
    num_batches = -(-len(split) // batch_size)
    numbers = range(share.number, -(-num_batches // share.count) * share.count, share.count)
    dealt = [number if number < num_batches else 0 for number in numbers]
    fetched = _fetch(_Evaluation(split, batch_size), dealt, split, num_workers)
    return ((batch, number < num_batches) for batch, number in zip(fetched, numbers, strict=True))


class _Batches(Protocol):
    """Batches by number. Only numbers travel to the workers: each finds the examples itself, as order is pure."""

    def __getitem__(self, number: int) -> Batch: ...


class TrainingBatches:
    """Batches of a training by step, in any order."""

    def __init__(self, split: Split, batch_size: int, seed: int, share: DataShard = ALL) -> None:
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.share = share
        self.epoch = -1
        self.permutation = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, number: int) -> Batch:
        return self.of(number, self.share)

    def of(self, number: int, share: DataShard) -> Batch:
        """A share of one step's batch."""
        generator = Generator().manual_seed(derive_seed(self.seed, "augment", number))
        inputs, targets = self.split.batch(self._indices(number), generator)
        if share.count == 1:
            return inputs, targets
        size = self.batch_size // share.count
        own = slice(share.number * size, (share.number + 1) * size)
        return _cut(inputs, own), _cut(targets, own)

    def _indices(self, step: int) -> Tensor:
        epoch, number = divmod(step, len(self.split) // self.batch_size)
        if epoch != self.epoch:
            generator = Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            if isinstance(self.split, Ordered):
                self.permutation = self.split.order(self.batch_size, generator)
            else:
                self.permutation = torch.randperm(len(self.split), generator=generator)
            self.epoch = epoch
        return self.permutation[number * self.batch_size : (number + 1) * self.batch_size]


def _cut(tensors: Tensors, own: slice) -> Tensors:
    return tensors[own] if isinstance(tensors, Tensor) else tuple(tensor[own] for tensor in tensors)


class _Evaluation:
    def __init__(self, split: Split, batch_size: int) -> None:
        self.split = split
        self.batch_size = batch_size

    def __getitem__(self, number: int) -> Batch:
        first = number * self.batch_size
        indices = torch.arange(first, min(first + self.batch_size, len(self.split)))
        return self.split.batch(indices, Generator().manual_seed(derive_seed(0, "evaluation", number)))


def _fetch(batches: _Batches, numbers: Sequence[int], split: Split, num_workers: int) -> Iterator[Batch]:
    if split.in_memory or num_workers == 0 or not numbers:
        return (batches[number] for number in numbers)
    return _fetch_ahead(batches, numbers, num_workers)


def _fetch_ahead(batches: _Batches, numbers: Sequence[int], num_workers: int) -> Iterator[Batch]:
    loader: DataLoader[Batch] = DataLoader(
        cast("Dataset[Batch]", _Fallible(batches)),
        batch_size=None,
        sampler=numbers,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=Generator(),  # else the loader draws from torch's own stream, and dropout would depend on num_workers
    )
    for fetched in loader:
        if isinstance(fetched, DataError):
            raise fetched
        yield fetched


class _Fallible:
    """Hands a `DataError` back as it is; the loader would bury its message under a worker's traceback."""

    def __init__(self, batches: _Batches) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Batch | DataError:
        try:
            return self.batches[number]
        except DataError as err:
            return err


def _as_it_is(fetched: object) -> object:
    return fetched


def _leave_signals_to_the_parent(worker: int) -> None:
    """SLURM and Ctrl-C signal every process; a worker that dies of it takes the parent's last checkpoint along.

    Workers still end with their parent: the loader tells them to, and they watch its process id.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _check(batch_size: int, num_workers: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size_global={batch_size} is no size of a batch; give 1 or more")
    if num_workers < 0:
        raise ValueError(f"num_workers={num_workers} is no number of processes; give 0 or more")
