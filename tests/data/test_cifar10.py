import os
import re
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from modules.data.base import DataError
from modules.data.cifar10 import Cifar10

FILES = {"tiny_train_1.npz": None, "tiny_train_2.npz": None, "tiny_test.npz": None}


def _encode(grey: int, size: int = 32) -> bytes:
    encoded = BytesIO()
    Image.fromarray(np.full((size, size, 3), grey, np.uint8)).save(encoded, "JPEG")
    return encoded.getvalue()


def _write(path: Path, photos: list[bytes], labels: list[int]) -> None:
    offsets = np.cumsum([0, *(len(photo) for photo in photos)])
    jpeg = np.frombuffer(b"".join(photos), np.uint8)
    np.savez(path, jpeg=jpeg, offsets=offsets, labels=np.array(labels, np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """4 and 3 photos to train on and 2 to test on, each of one grey: 20 times its number."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    _write(folder / "tiny_train_1.npz", [_encode(20 * number) for number in range(4)], [0, 1, 2, 3])
    _write(folder / "tiny_train_2.npz", [_encode(20 * number) for number in range(4, 7)], [0, 1, 2])
    _write(folder / "tiny_test.npz", [_encode(20 * number) for number in range(7, 9)], [3, 0])
    return folder


def _data(folder: Path, num_val: int = 2, crop_size: int = 24, augment: bool = False, num_classes: int = 4) -> Cifar10:
    shape = [3, crop_size, crop_size]
    num_features = 3 * crop_size * crop_size
    return Cifar10(
        str(folder.parent),
        folder.name,
        FILES,
        7 - num_val,
        num_val,
        crop_size,
        augment,
        shape,
        num_features,
        num_classes,
    )


def test_photos_come_in_the_files_order_and_the_last_validate(folder: Path) -> None:
    data = _data(folder)
    told = {name: (data.load(name).inputs[:, 2, 31, 31] / 20).round().tolist() for name in ("train", "val", "test")}
    assert told == {"train": [0, 1, 2, 3, 4], "val": [5, 6], "test": [7, 8]}
    assert data.load("train").targets.tolist() == [0, 1, 2, 3, 0]
    assert data.load("train").inputs.dtype == torch.uint8


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_batch_looks_like_the_example(folder: Path, split: str, augment: bool) -> None:
    data = _data(folder, augment=augment)
    batch = data.load(split).batch(torch.tensor([1, 0]), Generator())
    for real, blank in zip(batch, data.example(2), strict=True):
        real, blank = cast(Tensor, real), cast(Tensor, blank)
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype)


def test_only_training_is_augmented_and_only_by_its_dice(folder: Path) -> None:
    rows = np.linspace(0, 255, 32).astype(np.uint8)
    encoded = BytesIO()
    Image.fromarray(np.add.outer(rows // 2, rows // 3).astype(np.uint8)).convert("RGB").save(encoded, "JPEG")
    _write(folder / "tiny_train_1.npz", [encoded.getvalue()] * 4, [0] * 4)

    def see(split: str, seed: int, augment: bool = True) -> Tensor:
        loaded = _data(folder, num_val=3, augment=augment).load(split)
        return cast(Tensor, loaded.batch(torch.tensor([0, 1]), Generator().manual_seed(seed))[0])

    assert torch.equal(see("train", 1), see("train", 1))
    assert not torch.equal(see("train", 1), see("train", 2))
    assert not torch.equal(see("train", 1)[0], see("train", 1)[1])
    assert torch.equal(see("val", 1), see("val", 2))
    assert torch.equal(see("train", 1, augment=False), see("train", 2, augment=False))


def test_a_damaged_photo_is_told_with_its_file(folder: Path) -> None:
    _write(folder / "tiny_test.npz", [_encode(0), b"no photo"], [0, 1])
    with pytest.raises(DataError, match=r"tiny/tiny_test\.npz is damaged or of another format \(cannot identify image"):
        _data(folder).load("test")
    _write(folder / "tiny_test.npz", [_encode(0), _encode(0, size=16)], [0, 1])
    with pytest.raises(DataError, match=re.escape("image 1 has the size (16, 16), not (32, 32)")):
        _data(folder).load("test")


def test_labels_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"it has 4 labels up to 3 for 4 photos, but data.num_classes is 3"):
        _data(folder, num_classes=3).load("train")
    with pytest.raises(ValueError, match=r"num_train of at least 1, but got 0"):
        _data(folder, num_val=7).load("train")


def test_building_checks_sizes_and_names() -> None:
    with pytest.raises(ValueError, match=re.escape("but got 24 and [3, 32, 32]; set data.image_shape=[3,24,24]")):
        Cifar10("/nowhere", "tiny", FILES, 5, 2, 24, True, [3, 32, 32], 3072, 10)
    with pytest.raises(ValueError, match="Cifar10 wants crop_size of at most 32"):
        _data(Path("/nowhere/tiny"), crop_size=33)
    with pytest.raises(ValueError, match=re.escape("'test' in that of the one, but got ['tiny_train.npz']")):
        Cifar10("/nowhere", "tiny", {"tiny_train.npz": None}, 5, 2, 24, True, [3, 24, 24], 1728, 10)


def test_cifar10_itself_has_a_thousand_test_photos_a_class() -> None:
    root = os.environ.get("LATHE_DATA")
    if not root or not (Path(root) / "cifar10").is_dir():
        pytest.skip("CIFAR-10 is not here; set LATHE_DATA to the folder that holds 'cifar10'")
    files = {"cifar10_train_1.npz": None, "cifar10_test.npz": None}
    data = Cifar10(root, "cifar10", files, 5000, 5000, 24, True, [3, 24, 24], 1728, 10)
    split = data.load("test")
    assert split.targets.bincount().tolist() == [1000] * 10
    assert split.targets[:3].tolist() == [1, 5, 2]
