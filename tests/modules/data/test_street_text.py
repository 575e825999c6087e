import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.data.base import DataError
from modules.data.street_text import StreetText
from tests.support.batches import fetch
from tests.support.masks import encode, laid_end_to_end


def made(root: Path, **changed: Any) -> StreetText:
    """20 photos of one grey each, so that letters are all that is to see but noise."""
    folder = root / "greys"
    folder.mkdir(exist_ok=True)
    jpeg, offsets = laid_end_to_end([encode(np.full((16, 20, 3), 10 * grey, np.uint8), "JPEG") for grey in range(20)])
    np.savez(folder / "greys.npz", jpeg=jpeg, offsets=offsets)
    given: dict[str, Any] = {
        "root": str(root), "folder": "greys", "files": {"greys.npz": None}, "photos": ["jpeg", "offsets"],
        "words": ["Taxi", "STOP"], "max_words": 2, "letter_sizes": [10, 14], "seed": 0, "num_train": 30, "num_val": 5,
        "num_test": 7, "image_shape": [3, 40, 60], "num_features": 7200, "num_classes": 2,
    }  # fmt: skip
    return StreetText(**(given | changed))


def test_an_example_is_a_pure_function_of_seed_split_and_number(tmp_path: Path) -> None:
    split = made(tmp_path).load("train")
    inputs, targets = fetch(split, torch.tensor([3, 29, 3]), 1)
    assert isinstance(inputs, Tensor)
    assert isinstance(targets, Tensor)
    again, masks = fetch(made(tmp_path).load("train"), torch.tensor([3]), 2)
    assert torch.equal(inputs[:1], again)  # type: ignore[arg-type]
    assert torch.equal(targets[:1], masks)  # type: ignore[arg-type]
    assert torch.equal(inputs[0], inputs[2])
    assert not torch.equal(inputs[0], inputs[1])
    others = made(tmp_path).load("val"), made(tmp_path, seed=1).load("train")
    assert all(not torch.equal(inputs[0], split.draw(3)[0]) for split in others)


def test_the_mask_is_where_the_letters_are(tmp_path: Path) -> None:
    split = made(tmp_path).load("train")
    drawn = [split.draw(number) for number in range(30)]
    shares = [float(mask.float().mean()) for _, mask in drawn]
    assert min(shares) == 0, "some photos have no words"
    assert 0.01 < float(np.mean(shares)) < 0.3
    for pixels, mask in drawn:
        assert pixels.shape == (3, 40, 60)
        if float(mask.float().mean()) > 0.02:
            inside, outside = pixels[:, mask == 1].mean(dim=1), pixels[:, mask == 0].mean(dim=1)
            assert (inside - outside).abs().max() > 0.5


def test_splits_have_their_lengths_and_photos_of_their_own(tmp_path: Path) -> None:
    data = made(tmp_path)
    splits = [data.load(name) for name in ("train", "val", "test")]
    assert [len(split) for split in splits] == [30, 5, 7]
    greys = [{int(photo.mean()) for photo in split.photos} for split in splits]
    assert [len(each) for each in greys] == [16, 2, 2]
    assert len(greys[0] | greys[1] | greys[2]) == 20


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"words": []}, "StreetText wants words to render"),
        ({"words": ["a", " "]}, "none of them empty"),
        ({"letter_sizes": [9, 8]}, "wants letter_sizes as [smallest, largest]"),
        ({"num_classes": 3}, "num_classes=2, but got [3, 40, 60] and 3"),
        ({"photos": ["jpeg", "offsets", "more"]}, "wants data.photos as [bytes, offsets]"),
        ({"num_val": 0}, "num_val of at least 1, but got 0"),
    ],
)
def test_a_wrong_argument_is_reported(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        made(tmp_path, **changed)


def test_an_archive_of_other_members_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has no 'jpeg_offsets'"):
        made(tmp_path, photos=["jpeg", "jpeg_offsets"]).load("val")
