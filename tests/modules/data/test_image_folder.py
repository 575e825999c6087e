import re
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from experiments.train.data_loading import training_batches
from modules.data.base import Batch, DataError
from modules.data.image_folder import ImageFolder


def _photo(height: int, width: int, red: int) -> Image.Image:
    """Red all over; green rises with the rows, blue with the columns."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[..., 0] = red
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels[..., 2] = np.linspace(0, 255, width)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Classes ant and bee, 3 + 2 photos a split, of different sizes and kinds of file."""
    folder = tmp_path / "photos"
    for split in ("train", "val", "test"):
        for name in ("ant", "bee"):
            (folder / split / name).mkdir(parents=True)
        for number, image in enumerate(("ant/1.png", "ant/2.JPG", "ant/3.jpeg", "bee/1.png", "bee/2.jpg")):
            _photo(20 + 9 * number, 50 - 7 * number, 40 * number).save(folder / split / image)
        (folder / split / "bee" / "notes.txt").write_text("no photo")
    return folder


def _data(folder: Path, augment: bool = True, num_classes: int = 2) -> ImageFolder:
    return ImageFolder(str(folder.parent), folder.name, None, 16, 12, augment, [3, 12, 12], 432, num_classes)


def _batch(folder: Path, split: str, seed: int, augment: bool = True) -> Tensor:
    return cast(Tensor, _data(folder, augment).load(split).batch(torch.arange(5), Generator().manual_seed(seed))[0])


def test_photos_of_all_sizes_become_floats_of_one(folder: Path) -> None:
    data = _data(folder)
    split = data.load("val")
    images, classes = cast(tuple[Tensor, Tensor], split.batch(torch.tensor([4, 0, 1]), Generator()))
    assert (len(split), split.in_memory) == (5, False)
    assert classes.tolist() == [1, 0, 0]
    torch.testing.assert_close(images[:, 0].mean(dim=(1, 2)) * 255, torch.tensor([160.0, 0, 40]), atol=3, rtol=0)
    for real, blank in zip((images, classes), data.example(3), strict=True):
        assert (real.shape, real.dtype) == (cast(Tensor, blank).shape, cast(Tensor, blank).dtype)


def test_evaluation_crops_the_centre(folder: Path) -> None:
    images = _batch(folder, "val", seed=1)
    assert torch.equal(images, _batch(folder, "val", seed=2))
    torch.testing.assert_close(images[:, 1:].mean(dim=(2, 3)), torch.full((5, 2), 0.5), atol=0.03, rtol=0)
    height, width = 20, 50  # the first photo: shrunk to 16 x 40, cut to the middle 12 x 12
    torch.testing.assert_close(images[0, 1, -1, 0] - images[0, 1, 0, 0], torch.tensor(11 / 16), atol=0.05, rtol=0)
    seen = 11 / 12 * 12 / 16 * height / width
    torch.testing.assert_close(images[0, 2, 0, -1] - images[0, 2, 0, 0], torch.tensor(seen), atol=0.05, rtol=0)


def test_training_crops_depend_only_on_the_generator(folder: Path) -> None:
    assert torch.equal(_batch(folder, "train", seed=1), _batch(folder, "train", seed=1))
    assert not torch.equal(_batch(folder, "train", seed=1), _batch(folder, "train", seed=2))
    assert torch.equal(_batch(folder, "train", seed=1, augment=False), _batch(folder, "train", seed=2, augment=False))
    rises = torch.stack([_batch(folder, "train", seed)[:, 2, 0] for seed in range(9)])
    assert {1.0, -1.0} == set((rises[..., -1] - rises[..., 0]).sign().flatten().tolist())  # some are mirrored


def test_workers_read_the_same_photos(folder: Path) -> None:
    split = _data(folder).load("train")

    def see(num_workers: int) -> list[Batch]:
        return list(training_batches(split, 2, seed=3, first_step=0, num_steps=3, num_workers=num_workers))

    for (images, classes), (want_images, want_classes) in zip(see(2), see(0), strict=True):
        assert torch.equal(cast(Tensor, images), cast(Tensor, want_images))
        assert torch.equal(cast(Tensor, classes), cast(Tensor, want_classes))


def test_a_damaged_photo_is_named_by_workers_too(folder: Path) -> None:
    (folder / "train" / "bee" / "1.png").write_bytes(b"no photo")
    split = _data(folder).load("train")
    for num_workers in (0, 1):
        with pytest.raises(DataError) as caught:
            list(training_batches(split, 5, seed=3, first_step=0, num_steps=1, num_workers=num_workers))
        path = folder / "train" / "bee" / "1.png"
        assert str(caught.value) == (
            f"data.folder='photos': {path} cannot be read as an image (cannot identify image file '{path}'); "
            f"every file of a split must be an image; replace or remove it"
        )


def test_folders_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        _data(folder, num_classes=3).load("train")
    assert str(caught.value) == (
        f"data.folder='photos': {folder / 'train'} has 2 folders, but data.num_classes=3; every class needs one folder; "
        f"set data.num_classes=2"
    )
    (folder / "val" / "cow").mkdir()
    with pytest.raises(DataError, match="val/cow is a class that the training split does not have; every split needs"):
        _data(folder).load("val")
    for photo in (folder / "test").glob("*/*"):
        photo.unlink()
    with pytest.raises(DataError, match=r"test has no images; a split needs files that end in \.jpg, \.jpeg, \.png"):
        _data(folder).load("test")


def test_the_error_for_a_missing_folder_names_its_path() -> None:
    data = _data(Path("/nowhere/photos"))
    data.example(1)
    with pytest.raises(DataError) as caught:
        data.load("val")
    assert str(caught.value) == (
        "data.folder='photos': /nowhere/photos/train cannot be listed (No such file or directory); the set needs the "
        "folders train, val and test with one folder per class; set LATHE_DATA to the folder that holds 'photos'"
    )


def test_building_checks_its_sizes() -> None:
    with pytest.raises(ValueError, match="ImageFolder wants resize_size of at least 12, but got 11"):
        ImageFolder("/nowhere", "photos", None, 11, 12, True, [3, 12, 12], 432, 2)
    with pytest.raises(ValueError, match=re.escape("image_size=12; set data.image_shape=[3,12,12]")):
        ImageFolder("/nowhere", "photos", None, 16, 12, True, [3, 13, 13], 507, 2)


def test_splits_can_have_folders_with_other_names(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    data = ImageFolder(
        str(folder.parent), folder.name, None, 16, 12, True, [3, 12, 12], 432, 2, split_folders={"test": "val"}
    )
    test, val = (data.load(split).batch(torch.arange(5), Generator()) for split in ("test", "val"))
    assert torch.equal(cast(Tensor, test[0]), cast(Tensor, val[0]))
    with pytest.raises(ValueError, match=re.escape("split_folders of train, val and test, but got ['dev']")):
        ImageFolder("/nowhere", "photos", None, 16, 12, True, [3, 12, 12], 432, 2, split_folders={"dev": "val"})
