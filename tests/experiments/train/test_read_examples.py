"""A replica of N reads 1/N of the examples, whatever kind of data set it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import IterableDataset, get_worker_info

from experiments.train.data_loading import DataShard, training_batches
from experiments.train.loading.collected import collect_batches
from modules.data.adapters.torch_dataset import TorchDataset
from modules.data.base import Batch, DataError, StreamShard
from modules.data.image import decoding
from modules.data.image_folder import ImageFolder
from modules.data.sampling.example_random import ExampleRandom, example_seeds
from modules.data.tensors import TensorSplit
from modules.data.text.token_windows import TokenWindows

ROWS, BATCH, STEPS, REPLICAS = 24, 12, 4, 3
Read = list[Any]
"""What a data set has read: an entry for each example."""


class Arrays(TensorSplit):
    def __init__(self, read: Read) -> None:
        super().__init__(torch.arange(ROWS), torch.arange(ROWS))
        self.read = read

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        self.read += indices.tolist()
        return super().batch(indices, seeds)


class Text(TokenWindows):
    def __init__(self, read: Read) -> None:
        super().__init__(torch.arange(ROWS * 2 + 1), context_tokens=2, shift=False)
        self.read = read

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        self.read += indices.tolist()
        return super().batch(indices, seeds)


class MapStyle:
    def __init__(self, read: Read) -> None:
        self.read = read

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return torch.tensor([float(index), 0.0]), index


class Rows(IterableDataset[Any]):
    """Does not divide its rows."""

    def __init__(self, read: Read, num_rows: int = ROWS) -> None:
        self.read, self.numbers = read, range(num_rows)

    def __iter__(self) -> Iterator[Any]:
        for number in self.numbers:
            self.read.append(number)
            yield torch.tensor([float(number), torch.rand(()).item()]), number


class DividedRows(Rows):
    """Divides its rows between workers in torch's way."""

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        first, count = (0, 1) if info is None else (info.id, info.num_workers)
        for number in islice(self.numbers, first, None, count):
            self.read.append(number)
            yield torch.tensor([float(number), torch.rand(()).item()]), number


class Numbers:
    in_memory = True

    def __init__(self, read: Read) -> None:
        self.read = read

    def batch(self, step: int, shard: StreamShard, seed: int) -> Batch:
        first = shard.first_example(step)
        self.read += range(first, first + shard.size)
        return ExampleRandom(example_seeds(seed, first, shard.size)).uniform(2), torch.arange(first, first + shard.size)


class Collected:
    def __init__(self, read: Read) -> None:
        self.read = read

    def collect(self, model: nn.Module, step: int, batch_size: int, generator: torch.Generator) -> Batch:
        self.read += range(batch_size)
        return torch.rand(batch_size, 2, generator=generator), torch.arange(batch_size)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def adapt(train: Callable[[], Any]) -> Any:
    return TorchDataset(train, train, train, num_features=2, example=None).load("train")


def open_images(read: Read, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for number in range(ROWS):
        path = folder / "photos" / "train" / "ab"[number % 2] / f"{number}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 3), (number, 0, 0)).save(path)

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(Image, name)

        def open(self, file: Any) -> Any:
            read.append(file)
            return Image.open(file)

    monkeypatch.setattr(decoding, "Image", Counting())
    return ImageFolder(str(folder), "photos", ROWS, 3, 2, True, [3, 2, 2], 12, 2).load("train")


KINDS: dict[str, tuple[Callable[..., Any], float]] = {
    "arrays": (Arrays, 1 / REPLICAS),
    "image folder": (open_images, 1 / REPLICAS),
    "text": (Text, 1 / REPLICAS),
    "map-style": (lambda read: adapt(lambda: MapStyle(read)), 1 / REPLICAS),
    "iterable that divides its rows": (lambda read: adapt(lambda: DividedRows(read)), 1 / REPLICAS),
    "iterable": (lambda read: adapt(lambda: Rows(read)), 1),
    "stream": (Numbers, 1 / REPLICAS),
    "collector": (Collected, 1),
}
"""By kind, what makes its training data, and the share that a replica reads: an iterable that does not divide its rows can only
be read whole, and replicas need the same state of a collector."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_reads_its_share_of_the_examples(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, share = KINDS[kind]

    def read_batches(number: int, count: int, first_step: int = 0) -> tuple[Read, list[Any]]:
        read: Read = []
        train = make(read, tmp_path, monkeypatch) if make is open_images else make(read)
        read.clear()
        if kind == "collector":
            batches = collect_batches(train, nn.Module(), range(first_step, STEPS), BATCH, 5, (number, count))
        else:
            batches = training_batches(train, BATCH, 5, first_step, STEPS, 0, DataShard(number, count))
        return read, list(batches)

    whole = read_batches(0, 1)[1]
    parts = [read_batches(number, REPLICAS) for number in range(REPLICAS)]
    for read, batches in parts:
        # a replica is at most a batch behind the end of an iterable, and reads one row to see whether it divides them
        assert STEPS * BATCH * share - BATCH <= len(read) <= STEPS * BATCH * share + 1
        assert all(len(targets) == BATCH // REPLICAS for _, targets in batches)
    assert is_equal(read_batches(1, REPLICAS, first_step=2)[1], parts[1][1][2:]), "a resume is exact"
    for step, (inputs, _) in enumerate(whole):
        joined = torch.cat([batches[step][0] for _, batches in parts])
        assert sorted(map(str, joined.tolist())) == sorted(map(str, inputs.tolist())), "the global batch is the same"


def is_equal(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


class TwoParts(DividedRows):
    num_shards = 2


class OwnIterator(Rows):
    """It cannot start again."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.read.append(len(self.read))
        return torch.tensor([float(len(self.read))]), len(self.read)


@pytest.mark.parametrize("kind", [TwoParts, OwnIterator])
def test_rows_that_cannot_be_divided_between_the_replicas_are_read_by_each(kind: type[Rows]) -> None:
    read: Read = []
    train = adapt(lambda: kind(read))
    batches: list[Any] = list(training_batches(train, BATCH, 5, 0, 1, 0, DataShard(2, REPLICAS)))
    assert len(read) == BATCH
    assert [targets.tolist() for _, targets in batches] == [[9, 10, 11, 12] if kind is OwnIterator else [8, 9, 10, 11]]


def test_a_replica_without_a_part_is_reported() -> None:
    train = adapt(lambda: DividedRows([], num_rows=2))
    with pytest.raises(DataError, match=r"data\.train gives no rows to replica 2 of 3; use at most as many replicas"):
        list(training_batches(train, BATCH, 5, 0, 1, 0, DataShard(2, REPLICAS)))
