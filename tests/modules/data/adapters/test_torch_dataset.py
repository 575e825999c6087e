import random
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset, IterableDataset

from experiments.components.instantiate import instantiate
from experiments.core.errors import InputError
from experiments.train.data_loading import DataShard, training_batches
from modules.data.adapters.rows import Pad, stack_rows
from modules.data.adapters.torch_dataset import TorchDataset
from modules.data.base import Batch, DataError, Split, Stream
from tests.support.batches import fetch


class Jittered(Dataset[Any]):
    """Images that draw from every global generator, as transforms of torchvision and others do."""

    classes = ("cat", "dog")

    def __init__(self, size: int = 7) -> None:
        self.size, self.classes = size, ["cat", "dog"]  # type: ignore[assignment]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        noise = torch.rand(1) + float(np.random.rand()) + random.random()
        return noise.expand(1, 2, 3) + index, index % 2


class Rows(Dataset[Any]):
    """Rows as Hugging Face gives them: maps of images, numbers, lists and texts."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        image = Image.fromarray(np.full((2, 3), 51 * index, np.uint8))
        return {"image": image, "label": index, "ids": list(range(index + 1)), "text": "a word"}


class Lines(IterableDataset[Any]):
    """An iterable with random numbers, whose passes differ."""

    num_passes = 0

    def set_epoch(self, epoch: int) -> None:
        self.num_passes = epoch

    def __iter__(self) -> Iterator[Any]:
        for number in range(5):
            yield torch.tensor([float(number), random.random(), torch.rand(1).item()]), self.num_passes


def make(train: Callable[[], Any], **others: Any) -> TorchDataset:
    return TorchDataset(train, Rows, Rows, **{"image_shape": [1, 2, 3], **others})


def batches(data: TorchDataset, batch_size: int, num_steps: int, first_step: int = 0, **others: Any) -> list[Any]:
    train = data.load("train")
    return list(training_batches(train, batch_size, 5, first_step, num_steps, others.pop("num_workers", 0), **others))


def split_of(data: TorchDataset, name: str) -> Split:
    return cast(Split, data.load(name))


def is_same(one: Any, other: Any) -> bool:
    return all(map(torch.equal, tree_leaves(one), tree_leaves(other)))


@pytest.mark.parametrize("train", [Jittered, Lines])
def test_random_transforms_are_the_same_on_any_topology_and_after_a_resume(train: Callable[[], Any]) -> None:
    options: dict[str, Any] = (
        {"image_shape": [1, 2, 3]} if train is Jittered else {"num_features": 3, "image_shape": None}
    )
    torch.manual_seed(3)
    state = torch.get_rng_state()
    whole = batches(make(train, **options), 4, 6)
    assert torch.equal(torch.get_rng_state(), state), "the training's own generators are untouched"
    torch.rand(9), random.random()
    parts = [batches(make(train, **options), 4, 6, shard=DataShard(number, 2)) for number in range(2)]
    for step, batch in enumerate(whole):
        assert is_same(batch, tree_map(lambda *rows: torch.cat(rows), *(part[step] for part in parts)))
    assert is_same(batches(make(train, **options), 4, 6, first_step=4), whole[4:])
    assert len({float(number) for number in torch.cat([inputs.flatten() for inputs, _ in whole])}) > 20


def test_workers_give_the_same_batches_of_a_stream_in_its_order() -> None:
    options: dict[str, Any] = {"num_features": 3, "image_shape": None}
    assert is_same(batches(make(Lines, **options), 3, 5, num_workers=2), batches(make(Lines, **options), 3, 5))


def test_a_finite_iterable_starts_again_and_knows_its_pass() -> None:
    rows = batches(make(Lines, num_features=3, image_shape=None), 3, 4)
    numbers = list(chain.from_iterable(inputs[:, 0].tolist() for inputs, _ in rows))
    passes = list(chain.from_iterable(targets.tolist() for _, targets in rows))
    assert numbers == [0, 1, 2, 3, 4] * 2 + [0, 1]
    assert passes == [0] * 5 + [1] * 5 + [2] * 2


def test_rows_that_are_maps_give_inputs_and_targets_by_the_names_of_fields() -> None:
    split = split_of(make(Rows, fields={"inputs": "image", "targets": "label"}, num_classes=5), "val")
    inputs, targets = cast(tuple[Tensor, Tensor], fetch(split, torch.tensor([4, 0])))
    assert (inputs.shape, inputs.dtype, targets.tolist()) == ((2, 1, 2, 3), torch.float32, [4, 0])
    torch.testing.assert_close(inputs[0], torch.full((1, 2, 3), 0.8))
    image, label = {"shape": [1, 2, 3]}, {"shape": [], "dtype": "int64"}
    several = make(Rows, fields={"inputs": ["image", "label"], "targets": "label"}, example=[[image, label], label])
    shapes = [leaf.shape for leaf in tree_leaves(fetch(split_of(several, "train"), torch.arange(3)))]
    assert shapes == [(3, 1, 2, 3), (3,), (3,)]


def test_ragged_sequences_are_padded_and_maps_stay_maps() -> None:
    batch: Any = Pad()([([1, 2, 3], [4]), ([5], [6, 7])])
    assert batch[0].tolist() == [[1, 2, 3], [5, 0, 0]]
    assert batch[1].tolist() == [[4, -100], [6, 7]]
    named: Any = Pad({"ids": 9})([{"ids": torch.zeros(1, 2), "weight": 0.5}, {"ids": torch.zeros(2, 2), "weight": 1.5}])
    assert named["ids"].tolist() == [[[0, 0], [9, 9]], [[0, 0], [0, 0]]]
    assert named["weight"].tolist() == [0.5, 1.5]
    assert named["weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a", "b"], r"data: a row is the text 'a', which cannot be a tensor; convert it"),
        ([(torch.zeros(2), None), (torch.zeros(2), None)], r"the field 'targets' is of the type NoneType"),
        (
            [(torch.zeros(2), 0), (torch.zeros(3), 0)],
            r"the field 'inputs' has the shapes \[2\], \[3\] in one batch.*rows\.Pad",
        ),
        ([{"a": 1}, {"b": 2}], r"data\.fields names 'a', but a row has the fields b"),
        ([(torch.zeros(2), 0), (torch.zeros(2), 0, 1)], r"rows have \[2, 3\] parts"),
    ],
)
def test_rows_that_cannot_be_a_batch_are_named(rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        stack_rows(rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": [1, 9, 9]}, r"the first row gives \(float32 \[1, 2, 3\], int64 \[\]\), but data\.example says"),
        ({"num_train": 6}, r"data\.num_train=6 is not the number of training examples, 7; .*; set data\.num_train=7"),
        ({"fields": {"inputs": "x", "targets": "y"}}, r"data\.fields=.* names fields, but a row is of the type tuple"),
    ],
)  # fmt: skip
def test_what_the_configuration_says_is_compared_with_the_first_row(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(Jittered, **options).load("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": None}, "TorchDataset wants the shapes of an example"),
        ({"fields": {"inputs": "x"}}, "wants fields as a map of inputs and targets"),
        ({"example": {"shape": [3], "dtype": "text"}}, "wants each part of example as a shape and a dtype of torch"),
        ({"example": 3}, "wants example as a list or map of parts with a shape, but got 3"),
    ],
)
def test_wrong_arguments_are_refused_before_a_file_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(Jittered, **options)


def test_a_stream_is_refused_where_examples_are_counted() -> None:
    with pytest.raises(DataError, match=r"data\.val is a Lines, but it needs __getitem__ and __len__, as evaluation"):
        TorchDataset(Lines, Lines, Lines, num_features=3).load("val")
    empty = cast(Stream, make(lambda: iter(())).load("train"))
    with pytest.raises(DataError, match=r"data\.train is an iterable without rows"):
        list(training_batches(empty, 1, 5, 0, 1, num_workers=0))


def test_a_data_set_of_a_trusted_package_is_created_when_it_is_loaded() -> None:
    node = {
        "_target_": "modules.data.adapters.torch_dataset.TorchDataset",
        "val": {"_target_": "collections.deque"},
        "test": {"_target_": "collections.deque"},
        "train": {"_target_": "fractions.Fraction", "numerator": "no number"},
        "num_features": 3,
        "collate": {"_target_": "modules.data.adapters.rows.Pad", "values": {"inputs": 7}},
    }
    with pytest.raises(
        InputError, match=r"data\.train\._target_=fractions\.Fraction is not on the list of code that may run"
    ):
        instantiate(node, "data", ["collections"])
    data = instantiate(node, "data", ["collections", "fractions", "_collections"])
    with pytest.raises(InputError, match=r"data\.train: Invalid literal for Fraction"):
        data.load("train")
    assert len(data.load("val")) == 0
    with pytest.raises(
        InputError, match=r"data\.train=3 names no class, but an object is created there; set data\.train\._t"
    ):
        instantiate({**node, "train": 3}, "data", ["collections", "fractions", "_collections"])
    inner = {"_target_": "modules.data.digits.Digits", "num_train": 3}
    with pytest.raises(InputError, match="which takes no component"):
        instantiate({**node, "train": inner}, "data", ["collections", "fractions", "_collections"])


def test_class_names_come_from_the_data_set() -> None:
    data = make(Jittered, num_train=7)
    batch: Batch = data.example(2)
    assert [(leaf.shape, leaf.dtype) for leaf in tree_leaves(batch)] == [
        ((2, 1, 2, 3), torch.float32),
        ((2,), torch.int64),
    ]
    data.load("train")
    assert data.class_names == ["cat", "dog"]
