"""Batches for training and evaluation. Their order is a pure function of (seed, step) and the global batch."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Listener
from multiprocessing.reduction import ForkingPickler
from typing import Final, Protocol, cast

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset

from experiments.core.errors import TrainingError
from experiments.core.seeding import derive_seed
from experiments.train.loading.split_signature import check_signature, is_split
from modules.data.base import Batch, Data, DataError, Ordered, Split, Stream, StreamShard

SHARED_MEMORY: Final = "/dev/shm"
"""Where torch puts the tensors that a worker sends."""
PREFETCHED_BATCHES: Final = 2
"""Batches that each worker prepares ahead; torch's default."""
SPARE_DESCRIPTORS: Final = 8


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


def evaluation_batches(
    split: Split, batch_size: int, num_workers: int, shard: DataShard = ALL
) -> Iterator[tuple[Batch, bool]]:
    """Return every example of a split once, in order. Batches go to the replicas in turn; the last one may be smaller.

    Every replica gets the same number of batches. The flag is False for a repeated batch that only fills up this number
    and does not count.

    Raises:
        ValueError: the split is empty.
    """
    _check(batch_size, num_workers)
    if len(split) == 0:
        raise ValueError("the evaluation split has 0 examples and needs at least 1; add examples to it")
    num_batches = -(-len(split) // batch_size)
    numbers = range(shard.number, -(-num_batches // shard.count) * shard.count, shard.count)
    own = [number if number < num_batches else 0 for number in numbers]
    fetched = _fetch(_EvaluationBatches(split, batch_size), own, split, num_workers)
    return ((batch, number < num_batches) for batch, number in zip(fetched, numbers, strict=True))


class _Batches(Protocol):
    """Batches by number. Workers receive only numbers and look up the examples themselves."""

    def __getitem__(self, number: int) -> Batch: ...


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
            self._start_epoch(epoch)
        size = self.batch_size // shard.count
        first = batch_in_epoch * self.batch_size + shard.number * size
        rows = slice(first, first + size)
        return self.split.batch(self.permutation[rows], self.seeds[rows])

    def _start_epoch(self, epoch: int) -> None:
        generator = Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        if isinstance(self.split, Ordered):
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


def _fetch(batches: _Batches, numbers: Sequence[int], split: Split | Stream, num_workers: int) -> Iterator[Batch]:
    if split.in_memory or num_workers == 0 or not numbers:
        return (batches[number] for number in numbers)
    return _prefetch(batches, numbers, num_workers)


def check_handover(data: Data, batch_size: int, num_workers: int, num_ranks: int) -> None:
    """Check, before training starts, that data workers can hand their batches over.

    Args:
        data: says how large an example is.
        batch_size: examples of a batch of one rank.
        num_workers: processes of one rank that prefetch.
        num_ranks: ranks on this machine.

    Raises:
        ValueError: the shared memory is too small, or no socket can be opened in the folder for temporary files.
    """
    num_bytes = batch_size * _count_bytes(data.example(1))
    needed, free = PREFETCHED_BATCHES * num_workers * num_ranks * num_bytes, _free_shared_bytes()
    if free is not None and needed > free:
        raise ValueError(
            f"num_data_workers={num_workers} needs {needed / 1e6:,.1f} MB of shared memory ({PREFETCHED_BATCHES} batches of "
            f"{num_bytes / 1e6:,.1f} MB for each worker, on {num_ranks} ranks), but {SHARED_MEMORY} has "
            f"{free / 1e6:,.1f} MB free; lower num_data_workers, set it to 0, or enlarge {SHARED_MEMORY} (Docker: --shm-size)"
        )
    try:
        Listener(family="AF_UNIX").close()
    except OSError as err:
        raise ValueError(
            f"num_data_workers={num_workers}: workers hand batches over by a socket in TMPDIR, but {tempfile.gettempdir()} does "
            f"not allow it ({err.strerror or err}); set TMPDIR to a short path of an existing folder, or num_data_workers=0"
        ) from err


def _count_bytes(batch: Batch) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))


def _free_shared_bytes() -> int | None:
    """None where the system has no such folder."""
    try:
        stats = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return stats.f_bavail * stats.f_frsize


def _prefetch(batches: _Batches, numbers: Sequence[int], num_workers: int) -> Iterator[Batch]:
    loader: DataLoader[bytes] = DataLoader(
        cast("Dataset[bytes]", _PackedBatches(batches)),
        batch_size=None,
        sampler=numbers,
        num_workers=num_workers,
        prefetch_factor=PREFETCHED_BATCHES,
        collate_fn=_identity,
        worker_init_fn=_ignore_signals,
        generator=Generator(),  # else the loader uses torch's global generator, and dropout would depend on num_workers
    )
    with _as_handover_error(num_workers):
        workers = iter(loader)
    try:
        for packed in workers:
            if isinstance(packed, DataError):
                raise packed
            if isinstance(packed, _NotPacked):
                raise _handover_error(num_workers, packed.reason, packed.num_bytes)
            with _as_handover_error(num_workers):
                batch = pickle.loads(packed)
            yield batch
    finally:
        # The loader ends its workers when it is freed, but the traceback of an error may hold it until the process ends, which
        # then waits for the workers, as they ignore SIGTERM.
        workers._shutdown_workers()  # type: ignore[attr-defined]


class _PackedBatches:
    """Batches in the form in which a worker sends them: pickled, with tensors in shared memory.

    The loader would pickle them in a thread of the worker. That thread only prints an error, and the training would wait for
    ever. A `DataError` is a value too, as the loader would add the worker's traceback to its message.
    """

    def __init__(self, batches: _Batches) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> bytes | DataError | _NotPacked:
        try:
            batch = self.batches[number]
        except DataError as err:
            return err
        try:
            with ExitStack() as stack:  # the server of the sockets needs some descriptors later
                for _ in range(SPARE_DESCRIPTORS):
                    stack.enter_context(open(os.devnull, encoding="utf-8"))
            return bytes(ForkingPickler.dumps(_own_storage(batch)))
        except Exception as err:  # system errors, and whatever the objects of a user raise
            return _NotPacked(f"{type(err).__name__}: {err}", _count_bytes(batch))


@dataclass(frozen=True)
class _NotPacked:
    """Why a batch could not be pickled, and its size."""

    reason: str
    num_bytes: int


def _own_storage(batch: Batch) -> Batch:
    """Copy tensors that are parts of larger ones, as the whole memory of a tensor is sent."""
    return cast(Batch, tree_map(_compact, batch))


def _compact(leaf: object) -> object:
    is_part = isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() > leaf.nbytes
    return leaf.clone() if isinstance(leaf, Tensor) and is_part else leaf


@contextmanager
def _as_handover_error(num_workers: int) -> Iterator[None]:
    try:
        yield
    except Exception as err:
        raise _handover_error(num_workers, f"{type(err).__name__}: {err}") from err


def _handover_error(num_workers: int, reason: str, num_bytes: int | None = None) -> TrainingError:
    """Say why a worker's batch did not arrive, and what can be done."""
    free, size = _free_shared_bytes(), "" if num_bytes is None else f" of {num_bytes / 1e6:,.1f} MB"
    room = "" if free is None else f", {SHARED_MEMORY} has {free / 1e6:,.1f} MB free"
    return TrainingError(
        f"num_data_workers={num_workers}: a batch{size} could not be handed over by a data worker ({' '.join(reason.split())}); "
        f"workers need shared memory, file descriptors and sockets in TMPDIR ({tempfile.gettempdir()}{room}, at most "
        f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} descriptors); enlarge what is short (Docker: --shm-size; `ulimit -n`), "
        "or set num_data_workers=0"
    )


def _identity(fetched: object) -> object:
    return fetched


def _ignore_signals(worker: int) -> None:
    """Ignore stop signals. SLURM and Ctrl-C send them to every process, and without workers the parent could not save.

    Workers still end with their parent: the loader ends them, and they watch its process id.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _check(batch_size: int, num_workers: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size_global={batch_size} is not a valid batch size; set 1 or more")
    if num_workers < 0:
        raise ValueError(f"num_workers={num_workers} is not a valid number of processes; set 0 or more")
