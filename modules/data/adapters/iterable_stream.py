"""A stream of the rows of an iterable, such as torch's `IterableDataset`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data._utils import worker as torch_worker

from modules.data.adapters.random_state import restored_globals, seed_globals
from modules.data.base import Batch, Collate, DataError, StreamShard
from modules.data.sampling.example_random import example_seeds


class IterableStream:
    """A data set with ``__iter__``; it starts again at its end, and a resumed run skips the rows that it has seen.

    A replica is to the data set what a data worker is in torch: ``torch.utils.data.get_worker_info()`` gives its number and the
    number of replicas. A data set that asks for them reads only the rows of its replica. With one that does not ask, every
    replica reads all rows and keeps its own. If the data set has ``set_epoch``, it is called with the number of the pass.
    """

    in_memory = False
    is_sequential = True

    def __init__(self, dataset: Any, collate: Collate) -> None:
        self.dataset, self.collate = dataset, collate
        self._part: StreamShard | None = None
        """Of which replica the data set gives the rows; None: it gives all rows."""
        self._is_open = False
        self._rewind()

    def batch(self, step: int, shard: StreamShard, seed: int) -> Batch:
        with restored_globals():
            if not self._is_open:
                self._part, self._is_open = self._find_part(shard, seed), True
            first = shard.first_example(step) if self._part is None else step * shard.size
            if first < self._position:
                self._rewind()
            for skipped in self._make_seeds(seed, self._position, first - self._position):
                self._next(skipped)
            return self.collate([self._next(each) for each in self._make_seeds(seed, first, shard.size)])

    def _rewind(self) -> None:
        self._rows: Iterator[Any] = iter(())
        self._position = self._num_passes = 0

    def _find_part(self, shard: StreamShard, seed: int) -> StreamShard | None:
        """Read one row, to see whether the data set asks which part it is to give."""
        num_parts = getattr(self.dataset, "num_shards", None)  # of Hugging Face
        if shard.count == 1 or (isinstance(num_parts, int) and num_parts < shard.count):
            return None
        seed_globals(seed)
        replica = _WorkerInfo(shard, self.dataset)
        with _as_worker(replica):
            rows = iter(self.dataset)
            if rows is not self.dataset:  # else it cannot start again
                next(rows, None)
        return shard if replica.is_asked else None

    def _make_seeds(self, seed: int, first: int, count: int) -> list[int]:
        """Seeds of rows that this process reads, as if the parts of the replicas alternated in the whole stream."""
        if self._part is None:
            return list(example_seeds(seed, first, count).tolist())
        number, replicas = self._part.number, self._part.count
        return list(example_seeds(seed, first * replicas, count * replicas)[number::replicas].tolist())

    def _next(self, seed: int) -> Any:
        seed_globals(seed)
        with _as_worker(None if self._part is None else _WorkerInfo(self._part, self.dataset)):
            for row in self._rows:
                self._position += 1
                return row
            if hasattr(self.dataset, "set_epoch"):
                self.dataset.set_epoch(self._num_passes)
            self._num_passes += 1
            self._rows = iter(self.dataset)
            for row in self._rows:
                self._position += 1
                return row
        if self._part is not None:
            raise DataError(
                f"data.train gives no rows to replica {self._part.number} of {self._part.count}; use at most as many replicas as "
                "it has parts"
            )
        raise DataError("data.train is an iterable without rows, but training needs at least 1; check its arguments")


class _WorkerInfo:
    """What a data set gets from ``torch.utils.data.get_worker_info()``."""

    def __init__(self, shard: StreamShard, dataset: Any) -> None:
        self._shard, self.dataset, self.is_asked = shard, dataset, False

    @property
    def id(self) -> int:
        self.is_asked = True
        return self._shard.number

    @property
    def num_workers(self) -> int:
        self.is_asked = True
        return self._shard.count

    @property
    def seed(self) -> int:
        return self._shard.number


@contextmanager
def _as_worker(replica: _WorkerInfo | None) -> Iterator[None]:
    """Let torch name a replica as the data worker; None: leave it as it is."""
    if replica is None:
        yield
        return
    before = torch_worker._worker_info
    torch_worker._worker_info = replica  # type: ignore[assignment]
    try:
        yield
    finally:
        torch_worker._worker_info = before
