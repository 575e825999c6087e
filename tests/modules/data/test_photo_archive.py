import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from experiments.components.instantiate import instantiate
from experiments.config.compose import compose
from modules.data.base import DataError
from modules.data.photo_archive import PhotoArchive
from tests.support.batches import fetch

FILES = {"tiny_train_1.npz": None, "tiny_train_2.npz": None, "tiny_test.npz": None}


def _encode(grey: int, size: tuple[int, int] = (32, 32)) -> bytes:
    """A JPEG file of one grey; ``size`` is its width and height."""
    encoded = BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), grey, np.uint8)).save(encoded, "JPEG")
    return encoded.getvalue()


def _write(path: Path, photos: list[bytes], labels: list[int], **more: list[str] | list[int]) -> None:
    offsets = np.cumsum([0, *(len(photo) for photo in photos)])
    jpeg = np.frombuffer(b"".join(photos), np.uint8)
    members: dict[str, Any] = {name: np.array(member) for name, member in more.items()}
    np.savez(path, jpeg=jpeg, offsets=offsets, labels=np.array(labels, np.uint8), **members)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """4 and 3 photos to train on and 2 to test on, each of one grey: 20 times its number."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    _write(folder / "tiny_train_1.npz", [_encode(20 * number) for number in range(4)], [0, 1, 2, 3])
    _write(folder / "tiny_train_2.npz", [_encode(20 * number) for number in range(4, 7)], [0, 1, 2])
    _write(folder / "tiny_test.npz", [_encode(20 * number) for number in range(7, 9)], [3, 0])
    return folder


def _data(
    folder: Path, num_val: int = 2, crop_size: int = 24, augment: bool = False, num_classes: int = 4
) -> PhotoArchive:
    shape = [3, crop_size, crop_size]
    num_features = 3 * crop_size * crop_size
    return PhotoArchive(
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
    message = {name: (data.load(name).inputs[:, 2, 31, 31] / 20).round().tolist() for name in ("train", "val", "test")}
    assert message == {"train": [0, 1, 2, 3, 4], "val": [5, 6], "test": [7, 8]}
    assert data.load("train").targets.tolist() == [0, 1, 2, 3, 0]
    assert data.load("train").inputs.dtype == torch.uint8


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_batch_looks_like_the_example(folder: Path, split: str, augment: bool) -> None:
    data = _data(folder, augment=augment)
    batch = fetch(data.load(split), torch.tensor([1, 0]))
    for real, blank in zip(batch, data.example(2), strict=True):
        real, blank = cast(Tensor, real), cast(Tensor, blank)
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype)


def test_only_training_is_augmented_and_only_by_its_seeds(folder: Path) -> None:
    rows = np.linspace(0, 255, 32).astype(np.uint8)
    encoded = BytesIO()
    Image.fromarray(np.add.outer(rows // 2, rows // 3).astype(np.uint8)).convert("RGB").save(encoded, "JPEG")
    _write(folder / "tiny_train_1.npz", [encoded.getvalue()] * 4, [0] * 4)

    def see(split: str, seed: int, augment: bool = True) -> Tensor:
        loaded = _data(folder, num_val=3, augment=augment).load(split)
        return cast(Tensor, fetch(loaded, torch.tensor([0, 1]), seed)[0])

    assert torch.equal(see("train", 1), see("train", 1))
    assert not torch.equal(see("train", 1), see("train", 2))
    assert not torch.equal(see("train", 1)[0], see("train", 1)[1])
    assert torch.equal(see("val", 1), see("val", 2))
    assert torch.equal(see("train", 1, augment=False), see("train", 2, augment=False))


def test_a_damaged_photo_is_reported_with_its_file(folder: Path) -> None:
    _write(folder / "tiny_test.npz", [_encode(0), b"no photo"], [0, 1])
    with pytest.raises(DataError, match=r"tiny/tiny_test\.npz is damaged or of another format \(unknown format"):
        _data(folder).load("test")
    _write(folder / "tiny_test.npz", [_encode(0), _encode(0, (16, 16))], [0, 1])
    with pytest.raises(DataError, match=re.escape("photo 1 has the size 16x16, not 32x32")):
        _data(folder).load("test")


def test_labels_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"it has 4 photos of the split 'train', with labels up to 3, but data.num_classes is 3"
    ):
        _data(folder, num_classes=3).load("train")
    _write(folder / "tiny_test.npz", [_encode(0)], [3], classes=["a"])
    with np.load(folder / "tiny_test.npz") as archive:
        members = dict(archive)
    np.savez(folder / "tiny_test.npz", **(members | {"labels": np.array([-1])}))
    with pytest.raises(DataError, match="it has the label -1, but labels are numbered from 0"):
        _data(folder).load("test")
    _write(folder / "tiny_train_2.npz", [_encode(0, (40, 32))], [0])
    with pytest.raises(
        DataError, match=r"different sizes \(tiny_train_1\.npz 32x32, tiny_train_2\.npz 40x32\); all photos"
    ):
        _data(folder).load("train")
    with pytest.raises(ValueError, match=r"num_train of at least 1, but got 0"):
        _data(folder, num_val=7).load("train")


def test_building_checks_sizes_and_names() -> None:
    message = "but got [3, 32, 32] and crop_size=24; set data.image_shape=[3,24,24]"
    with pytest.raises(ValueError, match=re.escape(message)):
        PhotoArchive("/nowhere", "tiny", FILES, 5, 2, 24, True, [3, 32, 32], 3072, 10)
    with pytest.raises(
        ValueError, match=re.escape("'test' in that of the one, but got ['a_train.npz', 'b_train.npz']")
    ):
        PhotoArchive(
            "/nowhere", "tiny", {"a_train.npz": None, "b_train.npz": None}, 5, 2, 24, True, [3, 24, 24], 1728, 10
        )
    with pytest.raises(ValueError, match=re.escape("but got ['cat', 'dog']; set data.num_classes=2")):
        PhotoArchive("/nowhere", "tiny", FILES, 5, 2, 24, True, [3, 24, 24], 1728, 10, classes=["cat", "dog"])


def test_photos_smaller_than_the_crop_are_reported(folder: Path) -> None:
    with pytest.raises(DataError, match=r"its photos are 32x32, but data.crop_size is 33"):
        _data(folder, crop_size=33).load("test")


def _one(folder: Path, num_train: int = 3, **more: Any) -> PhotoArchive:
    """An archive for all splits of photos of 9 x 7, sorted by class, every third of them to test."""
    photos = [_encode(20 * number, (9, 7)) for number in range(9)]
    _write(folder / "all.npz", photos, [0] * 3 + [1] * 3 + [2] * 3, split=[0, 0, 1] * 3, classes=["ant", "bee", "cow"])
    arguments: dict[str, Any] = {"num_classes": 3, "image_shape": [3, 6, 6], "num_features": 108} | more
    return PhotoArchive(str(folder.parent), folder.name, {"all.npz": None}, num_train, 2, 6, False, **arguments)


def _greys(data: PhotoArchive, split: str) -> list[float]:
    return [round(float(grey) / 20) for grey in data.load(split).inputs[:, 0, 3, 3]]


def test_one_archive_names_its_test_photos(folder: Path) -> None:
    data = _one(folder, num_train=4)
    assert [_greys(data, split) for split in ("train", "val", "test")] == [[0, 1, 3, 4], [6, 7], [2, 5, 8]]
    assert data.load("train").inputs.shape == (4, 3, 7, 9)
    assert fetch(data.load("test"), torch.tensor([2, 0]))[0].shape == (2, 3, 6, 6)  # type: ignore[union-attr]


def test_chosen_classes_are_numbered_as_they_are_named(folder: Path) -> None:
    data = _one(folder, num_train=2, classes=["cow", "ant"], num_classes=2)
    assert [_greys(data, split) for split in ("train", "val", "test")] == [[0, 1], [6, 7], [2, 8]]
    assert [data.load(split).targets.tolist() for split in ("train", "val", "test")] == [[1, 1], [0, 0], [1, 0]]
    with pytest.raises(DataError, match=r"data\.classes=.*all\.npz has no class dog; choose among ant, bee, cow"):
        _one(folder, classes=["cow", "dog"], num_classes=2).load("test")


def test_a_shuffled_archive_holds_back_photos_of_any_class(folder: Path) -> None:
    data = _one(folder, num_train=4, shuffle_seed=0)
    train, val = _greys(data, "train"), _greys(data, "val")
    assert sorted(train + val) == [0, 1, 3, 4, 6, 7]
    assert train + val != [0, 1, 3, 4, 6, 7]
    assert [grey // 3 for grey in train] == data.load("train").targets.tolist()
    assert _greys(data, "test") == [2, 5, 8]
    assert _greys(_one(folder, num_train=4, shuffle_seed=0), "train") == train
    assert _greys(_one(folder, num_train=4, shuffle_seed=1), "train") != train


def test_photos_can_be_converted_to_grey(folder: Path) -> None:
    split = _one(folder, image_shape=[1, 6, 6], num_features=36).load("test")
    assert split.inputs.shape == (3, 1, 7, 9)
    assert fetch(split, torch.tensor([0]))[0].shape == (1, 1, 6, 6)  # type: ignore[union-attr]


@pytest.mark.parametrize(("option", "counts"), [("cat_dog", [1000, 1000]), ("flowers", [127, 180, 129, 140, 160])])
def test_the_sets_themselves_are_what_their_options_say(option: str, counts: list[int]) -> None:
    root = os.environ.get("LATHE_DATA")
    config = compose([f"data={option}"]).config["data"]
    if not root or not (Path(root) / config["folder"]).is_dir():
        pytest.skip(f"the files are not here; set LATHE_DATA to the folder that holds {config['folder']!r}")
    data = instantiate(config, "data")
    train, val, test = (data.load(split) for split in ("train", "val", "test"))
    assert [len(train), len(val)] == [config["num_train"], config["num_val"]]
    assert test.targets.bincount().tolist() == counts
    shares = val.targets.bincount(minlength=len(counts)) / len(val)
    assert float(shares.min()) > 0.1, "every class validates"


def test_cifar10_itself_has_a_thousand_test_photos_a_class() -> None:
    root = os.environ.get("LATHE_DATA")
    if not root or not (Path(root) / "cifar10").is_dir():
        pytest.skip("CIFAR-10 is not here; set LATHE_DATA to the folder that holds 'cifar10'")
    files = {"cifar10_train_1.npz": None, "cifar10_test.npz": None}
    data = PhotoArchive(root, "cifar10", files, 5000, 5000, 24, True, [3, 24, 24], 1728, 10)
    split = data.load("test")
    assert split.targets.bincount().tolist() == [1000] * 10
    assert split.targets[:3].tolist() == [1, 5, 2]
