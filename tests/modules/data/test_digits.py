import re
from typing import cast

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from modules.data.digits import Digits
from tests.support.batches import fetch


def test_the_splits_hold_all_of_scikit_learns_digits_once() -> None:
    data = Digits(1297, [1, 8, 8], num_features=64, num_classes=10)
    splits = [data.load(name) for name in ("train", "val", "test")]
    assert [len(split) for split in splits] == [1297, 200, 300]
    ours = torch.cat(
        [torch.cat([split.inputs.reshape(-1, 64) * 16, split.targets[:, None]], dim=1) for split in splits]
    )
    theirs = np.column_stack(load_digits(return_X_y=True))
    assert sorted(ours.tolist()) == sorted(theirs.tolist())


def test_the_split_is_deterministic() -> None:
    data = Digits(1297, [1, 8, 8], num_features=64, num_classes=10)
    assert data.load("train").targets[:8].tolist() == [2, 8, 2, 6, 6, 7, 1, 9]
    assert data.load("test").targets[:8].tolist() == [8, 8, 2, 2, 2, 9, 8, 8]


def test_a_batch_looks_like_the_example() -> None:
    data = Digits(1297, [1, 8, 8], num_features=64, num_classes=10)
    for real, blank in zip(fetch(data.load("val"), torch.arange(3)), data.example(3), strict=True):
        real, blank = cast(Tensor, real), cast(Tensor, blank)
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype)
        assert not blank.any()
    assert data.load("val").inputs.max() == 1


def test_digits_have_their_known_pixels() -> None:
    with pytest.raises(ValueError, match=re.escape("Digits has image_shape=[1, 8, 8] and num_classes=10")):
        Digits(1297, [1, 8, 8], num_features=64, num_classes=9)
