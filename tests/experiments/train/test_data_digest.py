import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.run.journal import Journal
from experiments.run.split_digest import differ, is_partial
from experiments.train import data_digest
from experiments.train.data_digest import fingerprint, load_split
from modules.data.base import Batch, Data, StreamShard
from modules.data.image.masked_images import MaskedImage, MaskedImages
from modules.data.image.tar_index import TarIndex
from modules.data.image_folder import ImageFolder
from modules.data.image_shards import ImageShards, ShardSplit
from modules.data.own.folder_split import FolderSplit
from modules.data.tensors import TensorSplit
from modules.data.text.token_windows import TokenWindows

COUNT = 1203
"""More examples than the part that the model's inputs are hashed of."""
LATE = 1201


class Own:
    """A split of a user, with what it is given as an attribute, or with none."""

    in_memory = False

    def __init__(self, held: object, values: list[int]) -> None:
        if held is not None:
            self.held = held
        self.look: Callable[[int], int] = lambda index: values[index]

    def __len__(self) -> int:
        return COUNT

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        numbers = torch.tensor([self.look(index) for index in indices.tolist()])
        return numbers, numbers


@dataclass
class Row:
    label: np.ndarray


def changed_late(values: Any, by: Any = 1) -> Any:
    copy = values.clone() if isinstance(values, Tensor) else values.copy()
    copy[LATE] = by
    return copy


NUMBERS = torch.zeros(COUNT, dtype=torch.int64)
SPLITS: dict[str, Callable[[bool], Any]] = {
    "a target": lambda is_changed: TensorSplit(NUMBERS[:, None], changed_late(NUMBERS) if is_changed else NUMBERS),
    "an input": lambda is_changed: TensorSplit(changed_late(NUMBERS) if is_changed else NUMBERS, NUMBERS),
    "bf16": lambda is_changed: TensorSplit(changed_late(NUMBERS.bfloat16(), int(is_changed)), NUMBERS),
    "a token": lambda is_changed: TokenWindows(changed_late(NUMBERS) if is_changed else NUMBERS, 1),
    "a list of labels": lambda is_changed: Own(changed_late([0] * COUNT, int(is_changed)), [0] * COUNT),
    "a list of names": lambda is_changed: Own(changed_late(["a"] * COUNT, "b" if is_changed else "a"), [0] * COUNT),
    "a list of pairs": lambda is_changed: Own([("a.png", 0)] * LATE + [("a.png", int(is_changed))], [0] * COUNT),
    "a dictionary": lambda is_changed: Own({"x": [0], "y": changed_late(NUMBERS, int(is_changed))}, [0] * COUNT),
    "a list of objects": lambda is_changed: Own([Row(np.array([0]))] * 20 + [Row(np.array([is_changed]))], [0] * COUNT),
    "nothing to look at": lambda is_changed: Own(None, [0] * 1150 + [int(is_changed)] * (COUNT - 1150)),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_a_change_behind_the_first_examples_changes_the_digest(kind: str) -> None:
    before, again, after = (fingerprint(SPLITS[kind](is_changed)) for is_changed in (False, False, True))
    assert before == again
    assert before.partition("-")[0] == after.partition("-")[0]
    assert differ(before, after)


def test_a_changed_photo_mask_or_word_changes_the_digest() -> None:
    def masked(value: int) -> MaskedImages:
        masks = [np.full((2, 3), number // 20 * value, np.int16) for number in range(21)]
        photos = [MaskedImage(np.zeros((2, 3, 1), np.uint8), (mask,)) for mask in masks]
        return MaskedImages(photos, (2, 3), None)

    assert differ(fingerprint(masked(0)), fingerprint(masked(1)))


def shards(label: int, size: int) -> ShardSplit:
    data = ImageShards(
        "/nowhere", "photos", dict.fromkeys(("train", "val", "test"), "a.tar"), None, 3, 2, False, [3, 2, 2], 12, 9
    )
    numbers = np.arange(20)
    labels, sizes = np.where(numbers == 19, label, 0), np.where(numbers == 19, size, 9)
    split = ShardSplit(data, [], False, TarIndex(numbers.astype(np.int32), numbers, sizes, labels))
    split.batch = lambda indices, seeds: (indices, indices)  # type: ignore[method-assign]
    return split


def test_a_label_or_the_size_of_a_photo_in_a_shard_changes_the_digest() -> None:
    assert len({fingerprint(shards(*given)) for given in ((0, 9), (1, 9), (0, 8))}) == 3


def test_names_labels_and_sizes_of_photos_count_but_not_where_they_are(tmp_path: Path) -> None:
    def folder(name: str, names: list[str], targets: list[int], size: int = 5) -> str:
        (tmp_path / name).mkdir()
        for each in names:
            (tmp_path / name / each).write_bytes(b"x" * size)
        data = ImageFolder("/nowhere", "photos", None, 3, 2, False, [3, 2, 2], 12, 9)
        split = FolderSplit(
            data, tmp_path / name, False, np.array([each.encode() for each in names]), torch.tensor(targets)
        )
        split.batch = lambda indices, seeds: (indices, indices)  # type: ignore[method-assign]
        return fingerprint(split)

    names = [f"{number:02d}.png" for number in range(20)]
    first = folder("a", names, [0] * 20)
    assert folder("moved", names, [0] * 20) == first
    changes = {
        folder("b", names, [0] * 19 + [1]),
        folder("c", [*names[:19], "x.png"], [0] * 20),
        folder("d", names, [0] * 20, 6),
    }
    assert len({first, *changes}) == 4


def test_of_a_huge_array_blocks_from_all_over_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_digest, "MAX_BYTES", 2**21)
    array = np.zeros(2**22, np.uint8)
    first = b"".join(data_digest._blocks(array))
    assert len(first) == 2**21
    for place in (0, -1):
        array[:] = 0
        array[place] = 1
        assert b"".join(data_digest._blocks(array)) != first


def test_digests_of_an_earlier_version_are_compared_as_far_as_they_go() -> None:
    assert not differ("aa", "aa-bb")
    assert is_partial("aa", "aa-bb")
    assert differ("aa", "ab-bb")
    assert differ("aa-bb", "aa-bc")
    assert not is_partial("aa-bb", "aa-bc")


class Endless:
    """A data set whose training examples are a stream."""

    in_memory = True

    def __init__(self, start: int) -> None:
        self.start = start

    def load(self, split: str) -> Any:
        return self

    def batch(self, step: int, shard: StreamShard, seed: int) -> Batch:
        numbers = torch.arange(shard.size) + self.start
        return numbers, numbers


def test_a_stream_is_recorded_by_its_first_examples_and_only_to_train_on(tmp_path: Path) -> None:
    def load(start: int, split: str = "train", **config: object) -> str:
        with Journal(tmp_path / f"{start}.jsonl") as journal:
            load_split(
                cast(Data, Endless(start)), split, {"_target_": "lab.Endless", **config}, journal, {}, is_first=True
            )
        return str(json.loads((tmp_path / f"{start}.jsonl").read_text().splitlines()[-1])["digest"])

    assert load(0) == load(0) != load(1)
    with pytest.raises(
        ValueError, match="data=endless gives a stream for 'val', but evaluation shows every example once"
    ):
        load(0, "val")
    with pytest.raises(
        ValueError, match=r"data\.num_train=9: the training data of endless is a stream, .* max_steps instead"
    ):
        load(0, num_train=9)
