"""Photos with captions and their tags: splits, tags, crops, and odd files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.data.base import DataError
from modules.data.captions.tagged_photos import TaggedPhotos
from tests.support.captions import FILES, LINES, write_captions


def open_set(root: Path, **changes: Any) -> TaggedPhotos:
    arguments: dict[str, Any] = {
        "files": FILES, "num_train": None, "num_val": 1, "num_test": 1, "shuffle_seed": 0, "photo_size": 6,
        "image_shape": [3, 5, 5], "num_features": 75, "flip": True, "turn": True, "num_classes": 4, "min_photos": 2,
        "stop_words": ["The", "a"], **changes,
    }  # fmt: skip
    return TaggedPhotos(str(root), "set", **arguments)


def read_photos(data: TaggedPhotos, rows: Tensor, seeds: Tensor) -> Tensor:
    photos, _ = data.load("train").batch(rows, seeds)
    assert isinstance(photos, Tensor)
    return photos


def test_tags_are_classes_and_words_of_enough_training_photos(tmp_path: Path) -> None:
    write_captions(tmp_path)
    data = open_set(tmp_path)
    photos, (tags, places) = data.load("test").batch(torch.tensor([0]), torch.tensor([3]))
    assert isinstance(photos, Tensor)
    assert data.class_names == ["boat", "sea", "", ""], "two of four places are not used"
    assert tags.tolist() == [[1, 0, 0, 0]]
    assert places.tolist() == [[0, 1]]
    assert photos.shape == (1, 3, 5, 5)
    assert photos.mean().item() == pytest.approx(0, abs=1e-6)


def test_training_photos_are_mirrored_and_turned_by_their_seeds(tmp_path: Path) -> None:
    write_captions(tmp_path, sizes=[(40, 30), *[(7, 7)] * 3])  # photos of any size are resized
    rows, seeds = torch.zeros(40, dtype=torch.int64), torch.arange(40)
    photos = read_photos(open_set(tmp_path, photo_size=5), rows, seeds)
    assert len({tuple(photo.flatten().tolist()) for photo in photos}) == 8, "the symmetries of a square"
    assert torch.equal(photos[7:9], read_photos(open_set(tmp_path, photo_size=5), rows[:2], seeds[7:9]))
    still = read_photos(open_set(tmp_path, photo_size=5, flip=False, turn=False), rows[:2], seeds[:2])
    assert torch.equal(still[0], still[1])


def test_splits_without_a_line_are_dealt_out_of_training(tmp_path: Path) -> None:
    write_captions(tmp_path, [{**line, "split": "train"} for line in LINES])
    data = open_set(tmp_path)
    names = {split: [photo.name for photo in data.files.split(split)] for split in ("train", "val", "test")}
    assert [len(each) for each in names.values()] == [2, 1, 1]
    assert sorted(name for each in names.values() for name in each) == ["one", "three", "two", "zero"]
    with pytest.raises(DataError, match=r"data.num_val=4 photos cannot be dealt out of 4; set data.num_val"):
        open_set(tmp_path, num_val=4).load("train")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 5 is not JSON"),
        ([1], "line 5 is not an object"),
        ({"image": -1, "captions": ["a"]}, "line 5 has image=-1"),
        ({"image": 0, "captions": ["a"]}, "two lines have the same image"),
        ({"image": 9, "captions": ["a"]}, "names the photo 9, but photos.npz has 4"),
        ({"image": 4, "captions": "a boat"}, "line 5 has captions='a boat', which must be a list"),
        ({"image": 4, "captions": [" "]}, "line 5 has captions"),
        ({"image": 4, "captions": ["a"], "split": "dev"}, "line 5 has split='dev'"),
        ({"image": 4, "captions": ["a"], "cls": 3}, "line 5 has cls=3"),
    ],
)
def test_odd_lines_are_reported(tmp_path: Path, line: Any, problem: str) -> None:
    write_captions(tmp_path, [*LINES, line])
    with pytest.raises(DataError, match=re.escape(problem)):
        open_set(tmp_path).load("train")


def test_odd_files_and_options_are_reported(tmp_path: Path) -> None:
    folder = write_captions(tmp_path)
    with pytest.raises(DataError, match=r"lower data.min_photos"):
        open_set(tmp_path, min_photos=3).load("train")
    with pytest.raises(DataError, match=r"has 2 photos, but needs 3; change data.num_train"):
        open_set(tmp_path, num_train=3).load("train")
    with pytest.raises(ValueError, match=r"data.files wants the captions, in .jsonl"):
        open_set(tmp_path, files={"photos.npz": None})
    with pytest.raises(ValueError, match=r"photo_size of at least 5, but got 4"):
        open_set(tmp_path, photo_size=4)
    (folder / "photos.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"photos.npz is damaged"):
        open_set(tmp_path).load("train")
