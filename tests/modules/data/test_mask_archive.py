import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.data.base import IGNORED, DataError
from modules.data.image.masked_images import MaskedImages
from tests.support.batches import fetch
from tests.support.masks import archive, encode, laid_end_to_end, photo_and_mask, write_archive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    write_archive(tmp_path / "tiny" / "tiny.npz")
    return tmp_path / "tiny"


def raw(split: MaskedImages, inputs: Tensor, number: int) -> Tensor:
    """The pixels of the file, from what was brought to mean 0 and variance 1."""
    mean, deviation = split.scales[number]
    return (inputs * deviation + mean).round()


def test_groups_are_split_whole_and_the_last_are_for_testing(folder: Path) -> None:
    data = archive(folder)
    assert [len(data.load(name)) for name in ("train", "val", "test")] == [3 * 4, 2, 1]
    assert [photo.pixels.shape[:2] for photo in data.load("val").photos] == [(10, 12), (10, 12)]


def test_a_whole_photo_comes_with_its_classes_and_its_padding_is_ignored(folder: Path) -> None:
    split = archive(folder).load("val")
    inputs, targets = fetch(split, torch.tensor([1, 0]))
    assert isinstance(inputs, Tensor)
    assert isinstance(targets, Tensor)
    assert inputs.shape == (2, 3, 10, 12)
    pixels, mask = photo_and_mask(4)
    expected = np.where(mask == 7, IGNORED, mask == 3)
    assert torch.equal(targets[0, :5, :6], torch.from_numpy(expected))
    assert (targets[0, 5:] == IGNORED).all()
    assert (targets[0, :, 6:] == IGNORED).all()
    actual = raw(split, inputs[0], 1)
    assert torch.equal(actual[:, :5, :6], torch.from_numpy(pixels.transpose(2, 0, 1)).float())
    assert torch.equal(actual[:, 5:], actual[:, :5].flip(1)), "beyond the edge lies the mirror image"
    assert inputs[0, :, :5, :6].mean() == pytest.approx(0, abs=1e-6)
    assert inputs[0, :, :5, :6].std(correction=0) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    "distorted", [{}, {"flip": True}, {"turn": True, "image_shape": [3, 5, 5], "num_features": 75}]
)
def test_a_crop_and_its_mask_are_cut_and_turned_alike(folder: Path, distorted: dict[str, Any]) -> None:
    split = archive(folder, **distorted).load("train")
    indices = torch.arange(12).repeat(20)
    inputs, targets = fetch(split, indices, 3)
    assert isinstance(targets, Tensor)
    seen = set()
    for row, index in enumerate(indices.tolist()):
        rows, columns, numbers = raw(split, inputs[row], index // 4).long()
        mask = torch.from_numpy(photo_and_mask(index // 4)[1].astype(np.int64))
        there = mask[rows, columns]
        assert torch.equal(there, numbers)
        assert torch.equal(targets[row], torch.where(there == 7, IGNORED, (there == 3).long()))
        seen.add((int(rows[1, 0] - rows[0, 0]), int(columns[0, 1] - columns[0, 0])))
    expected = {"flip": {(1, 1), (1, -1), (-1, 1), (-1, -1)}, "turn": {(1, 1), (0, 0)}}
    assert seen == expected.get(next(iter(distorted), ""), {(1, 1)})


def test_randomness_comes_only_from_the_seeds(folder: Path) -> None:
    split = archive(folder, flip=True, jitter=0.3).load("train")
    first, second, third = (fetch(split, torch.tensor([0, 0, 5]), seed)[0] for seed in (1, 1, 2))
    assert isinstance(first, Tensor)
    assert torch.equal(first, second)  # type: ignore[arg-type]
    assert not torch.equal(first, third)  # type: ignore[arg-type]
    assert not torch.equal(first[0], first[1]), "two crops of one photo"


def test_a_photo_smaller_than_a_crop_is_padded(folder: Path) -> None:
    split = archive(folder, image_shape=[3, 24, 40], num_features=2880).load("train")
    inputs, targets = fetch(split, torch.tensor([0]))
    assert inputs[0].shape == (3, 24, 40)
    assert int((targets[0] != IGNORED).sum()) == int((photo_and_mask(0)[1] != 7).sum())


def test_a_mask_of_classes_is_not_changed(folder: Path) -> None:
    data = archive(folder, positive_values=None, num_classes=6)
    _, targets = fetch(data.load("test"), torch.tensor([0]))
    mask = torch.from_numpy(photo_and_mask(5)[1].astype(np.int64))
    assert torch.equal(targets[0, :, :11], torch.where(mask == 7, IGNORED, mask))  # type: ignore[call-overload]


def test_masks_of_a_second_annotator_follow_the_first(folder: Path) -> None:
    data = archive(folder, second_masks=["mask2_png", "mask2_offsets"])
    _, targets = fetch(data.load("test"), torch.tensor([0]))
    assert isinstance(targets, tuple)
    assert [mask.shape for mask in targets] == [(1, 10, 12)] * 2
    assert (targets[1][0, :, :11] == 1).all()
    promised = data.example(2)[1]
    assert [mask.shape for mask in promised] == [(2, 4, 6)] * 2
    assert [mask.dtype for mask in promised] == [mask.dtype for mask in targets]


def test_grey_photos_have_one_channel(folder: Path) -> None:
    inputs, _ = fetch(archive(folder, image_shape=[1, 4, 6], num_features=24).load("val"), torch.tensor([0]))
    assert inputs.shape == (1, 1, 10, 12)  # type: ignore[union-attr]


def test_archives_are_joined_and_photos_without_names_go_by_their_number(folder: Path) -> None:
    write_archive(folder / "tiny2.npz", names=None)
    write_archive(folder / "tiny.npz", names=None)
    files = {"tiny2.npz": None, "tiny.npz": None}
    data = archive(folder, files=files, names=None, group_pattern=".*", num_train=None)
    assert [len(data.load(name).photos) for name in ("train", "val", "test")] == [10, 1, 1]


def test_a_shuffle_changes_the_groups_and_is_deterministic(folder: Path) -> None:
    one, two = (archive(folder, shuffle_seed=1, num_train=None).load("test").photos for _ in range(2))
    assert [photo.pixels.tobytes() for photo in one] == [photo.pixels.tobytes() for photo in two]
    plain = archive(folder).load("test").photos
    assert [photo.pixels.tobytes() for photo in one] != [photo.pixels.tobytes() for photo in plain]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eval_size": [9, 12]}, "photo town1_b is 10 high and 8 wide, but data.eval_size=[9, 12]"),
        ({"positive_values": None, "num_classes": 5}, "a mask has the class 5, but data.num_classes=5"),
        ({"num_train": 13}, "3 training photos x crops_per_photo=4 are not data.num_train=13"),
        ({"num_val_groups": 3}, "leave none of 4 groups to train on"),
        ({"group_pattern": "village"}, "data.group_pattern='village' does not match the name 'town1_a'"),
        ({"masks": ["mask3_png", "mask_offsets"]}, "it has no 'mask3_png'"),
        ({"files": {"other.npz": None}}, "other.npz is missing"),
    ],
)
def test_arguments_that_contradict_the_files_are_reported(folder: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        archive(folder, **changed).load("train")


def test_a_damaged_archive_is_reported(folder: Path) -> None:
    colours = laid_end_to_end([encode(photo_and_mask(number)[0]) for number in range(6)])
    write_archive(folder / "tiny.npz", mask_png=colours[0], mask_offsets=colours[1])
    with pytest.raises(DataError, match="mask 0 has the mode RGB, but a mask has one 8-bit value per pixel"):
        archive(folder).load("val")
    other = laid_end_to_end([encode(photo_and_mask(0)[1])] * 6)
    write_archive(folder / "tiny.npz", mask_png=other[0], mask_offsets=other[1])
    with pytest.raises(DataError, match=re.escape("photo town1_b is 8x10, but a mask of it (12, 9)")):
        archive(folder).load("val")
    write_archive(folder / "tiny.npz", mask_offsets=other[1][:3])
    with pytest.raises(DataError, match="it has 6 photos, 6 names and 2 masks"):
        archive(folder).load("val")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_classes": 3}, "wants data.num_classes=2 and at least one of data.positive_values"),
        ({"positive_values": []}, "at least one of data.positive_values"),
        ({"turn": True}, "wants square crops to turn them, but got 4x6; set data.turn=false"),
        ({"photos": ["jpeg"]}, "wants data.photos as [bytes, offsets]"),
        ({"group_pattern": "("}, "data.group_pattern='(' is not a regular expression"),
        ({"num_test_groups": 0}, "num_test_groups of at least 1, but got 0"),
        ({"eval_size": [4]}, "wants eval_size as [height, width]"),
        ({"jitter": 1.0}, "wants jitter in [0, 1), but got 1.0"),
        ({"image_shape": [2, 4, 6], "num_features": 48}, "with 3 channels, or 1 to see grey, but got 2"),
    ],
)
def test_a_wrong_argument_is_reported_before_a_file_is_read(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        archive(tmp_path / "nothing", **changed)


@pytest.mark.parametrize("option", ["retina_chase", "solar_gsi", "aerial_dubai"])
def test_no_group_of_the_real_sets_is_in_two_splits(option: str) -> None:
    from experiments.components.instantiate import instantiate
    from experiments.config.compose import compose
    from modules.data.mask_archive import MaskArchive

    data = instantiate(
        compose([f"data={option}", "model=unet", "objective=pixel_cross_entropy"]).config["data"], "data"
    )
    assert isinstance(data, MaskArchive)
    try:
        names = [name for file in data.files.files for name in data.files.read_npz(file)["names"].tolist()]
    except DataError as err:
        pytest.skip(f"files are missing: {err}")
    splits = data.groups.splits(names)
    of_group: dict[str, set[str]] = {}
    for name, split in zip(names, splits, strict=True):
        actual = data.groups.pattern.search(name)
        assert actual is not None
        of_group.setdefault(actual.group(), set()).add(split)
    assert all(len(split) == 1 for split in of_group.values())
    if option == "retina_chase":
        assert splits == ["train"] * 16 + ["val"] * 4 + ["test"] * 8, "the usual split, both eyes of a child together"
