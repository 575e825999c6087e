"""Cross-validation: for any sizes, the folds are disjoint, complete and about equal, and the test part is none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.data.image.photo_folder import PHOTOS
from modules.data.own.class_folders import ClassFolders
from modules.data.own.columns import take_part
from modules.data.own.folds import check_fold, find_fold

SPLITS = ("train", "val", "test")


@given(st.integers(2, 12), st.integers(0, 60), st.sampled_from([(), ("test",)]), st.floats(0.05, 0.3))
def test_rows_are_in_one_fold_each(num_folds: int, more: int, own: tuple[str, ...], share: float) -> None:
    num_rows = 4 * num_folds + more
    parts = [
        {split: take_part(num_rows, split, own, share, fold, num_folds) for split in SPLITS}
        for fold in range(num_folds)
    ]
    test = parts[0]["test"]
    rest = np.setdiff1d(np.arange(num_rows), test)
    assert np.array_equal(test, take_part(num_rows, "test", own, share) if "test" not in own else test[:0])
    assert np.array_equal(np.sort(np.concatenate([part["val"] for part in parts])), rest)
    for part in parts:
        assert np.array_equal(part["test"], test)
        assert np.array_equal(np.union1d(part["train"], part["val"]), rest)
        assert not len(np.intersect1d(part["train"], part["val"]))
    sizes = [len(part["val"]) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("has_test", [False, True])
def test_photos_of_every_class_are_in_one_fold_each(share: float, has_test: bool, tmp_path: Path) -> None:
    for folder, names in (("train", "cat dog"), *([("test", "cat dog")] if has_test else [])):
        for name in names.split():
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(11):
                (tmp_path / folder / name / f"{number}.jpg").touch()
    folders = {"train": "train", "val": "train", "test": "test" if has_test else "train"}
    parts = [
        {
            split: set(ClassFolders(PHOTOS, tmp_path, "pets", folders, share, fold, 3).files(split)[0])
            for split in SPLITS
        }
        for fold in range(3)
    ]
    test = parts[0]["test"]
    every = {f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(11)}
    rest = every if has_test or not share else every - test
    assert set.union(*(part["val"] for part in parts)) == rest
    assert sum(len(part["val"]) for part in parts) == len(rest)
    for part in parts:
        assert part["test"] == test == set(ClassFolders(PHOTOS, tmp_path, "pets", folders, share).files("test")[0])
        assert (part["train"] | part["val"], part["train"] & part["val"]) == (rest, set())
        assert {name.partition("/")[0] for name in part["val"]} == {"cat", "dog"}


def test_a_fold_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fold from 0 to 4 \(num_folds - 1\), but got 5"):
        check_fold("CsvFile", 5, 5)
    with pytest.raises(ValueError, match=r"num_folds of at least 2, but got 1"):
        check_fold("CsvFile", None, 1)
    with pytest.raises(ValueError, match=r"3 examples are too few for data\.num_folds=5"):
        find_fold(3, 0, 5)
    with pytest.raises(ValueError, match=r"data\.val_path has some; set one to null"):
        take_part(20, "train", ["val"], 0.1, 0, 5)
    with pytest.raises(ValueError, match=r"val/ has some; set data\.fold=null"):
        ClassFolders(PHOTOS, tmp_path, "pets", {"train": "train", "val": "val", "test": "test"}, 0.1, 0, 5)
