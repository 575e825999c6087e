import os
import re
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from experiments.train.data_loading import training_batches
from modules.data.base import Batch, ComponentWarning, DataError
from modules.data.image_folder import ImageFolder
from tests.support.batches import fetch


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
    return folder


def _data(folder: Path, augment: bool = True, num_classes: int = 2) -> ImageFolder:
    return ImageFolder(str(folder.parent), folder.name, None, 16, 12, augment, [3, 12, 12], 432, num_classes)


def _batch(folder: Path, split: str, seed: int, augment: bool = True) -> Tensor:
    return cast(Tensor, fetch(_data(folder, augment).load(split), torch.arange(5), seed)[0])


def test_photos_of_all_sizes_become_floats_of_one(folder: Path) -> None:
    data = _data(folder)
    split = data.load("val")
    images, classes = cast(tuple[Tensor, Tensor], fetch(split, torch.tensor([4, 0, 1])))
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


def test_training_crops_depend_only_on_the_seeds(folder: Path) -> None:
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
            f"{path} cannot be read as a photo (unknown format); replace or remove it, or set data.on_bad_example=skip to "
            "train without such files"
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
    with pytest.raises(DataError, match=r"test has no photos; a split needs files that end in \.jpg, \.jpeg, \.png"):
        _data(folder).load("test")


def _save(path: Path, kind: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _photo(20, 20, 9).save(path, kind)


def _names(folder: Path, split: str = "train") -> list[str]:
    return [name.decode() for name in _data(folder).load(split).names.tolist()]


def test_hidden_files_and_those_of_the_system_do_not_count(folder: Path) -> None:
    before = _names(folder)
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "bee/.ipynb_checkpoints", "bee/__MACOSX"):
        _save(folder / "train" / name / "1.png")
    (folder / "train" / "bee" / "._1.png").write_bytes(b"no photo")
    (folder / "train" / "bee" / ".DS_Store").write_bytes(b"no photo")
    (folder / "train" / "notes.txt").write_text("beside the classes")
    assert _names(folder) == before


def test_photos_of_many_endings_and_in_folders_below_their_class_are_read(folder: Path) -> None:
    for ending in ("webp", "BMP", "Tif", "TIFF", "gif", "ppm", "pgm", "PNG"):
        _save(folder / "train" / "bee" / "b" / f"x.{ending}")
    (folder / "far").mkdir()
    _save(folder / "far" / "y.jpg")
    (folder / "train" / "bee" / "link").symlink_to(folder / "far")
    (folder / "train" / "bee" / "loop").symlink_to(folder / "train" / "bee")
    (folder / "train" / "bee" / "z.png").symlink_to(folder / "far" / "y.jpg")
    split = _data(folder, augment=False).load("train")
    added = [name.decode() for name in split.names.tolist() if name.count(b"/") > 1 or b"z" in name]
    assert added == [
        *(f"bee/b/x.{ending}" for ending in ("BMP", "PNG", "TIFF", "Tif", "gif", "pgm", "ppm", "webp")),
        "bee/link/y.jpg",
        "bee/z.png",
    ]
    assert len(fetch(split, torch.arange(len(split)))[0]) == len(split) == len(split.targets) == 15


def test_other_files_are_counted_in_a_warning(folder: Path) -> None:
    for name in ("a.txt", "b.TXT", "nested/c.json", "README"):
        (folder / "train" / "bee" / name).parent.mkdir(exist_ok=True)
        (folder / "train" / "bee" / name).write_text("no photo")
    os.mkfifo(folder / "train" / "bee" / "pipe.png")
    with pytest.warns(ComponentWarning) as caught:
        assert len(_data(folder).load("train")) == 5
    assert re.search(r"train has 5 photos and 5 other files, which are left out \(2 \.txt, ", str(caught[0].message))
    for part in ("1 .json", "1 without an ending", "1 .png (no file)"):
        assert part in str(caught[0].message)


def test_a_class_without_photos_is_refused(folder: Path) -> None:
    (folder / "train" / "cow").mkdir()
    with pytest.raises(DataError, match="train/cow has no photo, but no other file; photos are files that end in"):
        _data(folder, num_classes=3).load("train")
    for name in ("1.heic", "2.heic", "3.txt"):
        (folder / "train" / "cow" / name).write_bytes(b"")
    with pytest.raises(
        DataError, match=r"train/cow has no photo, but 2 \.heic, 1 \.txt; photos are files that end in \.jpg"
    ):
        _data(folder, num_classes=3).load("train")
    (folder / "val" / "cow").mkdir()
    assert len(_data(folder, num_classes=3).load("val")) == 5, "a small split may lack a class"


def test_a_link_to_a_photo_that_is_gone_is_refused(folder: Path) -> None:
    (folder / "val" / "bee" / "9.jpg").symlink_to("gone.jpg")
    with pytest.raises(
        DataError, match=r"val/bee/9\.jpg is a link to gone\.jpg, which does not exist; every photo must"
    ):
        _data(folder).load("val")


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
    test, val = (fetch(data.load(split), torch.arange(5)) for split in ("test", "val"))
    assert torch.equal(cast(Tensor, test[0]), cast(Tensor, val[0]))
    with pytest.raises(ValueError, match=re.escape("split_folders of train, val and test, but got ['dev']")):
        ImageFolder("/nowhere", "photos", None, 16, 12, True, [3, 12, 12], 432, 2, split_folders={"dev": "val"})
