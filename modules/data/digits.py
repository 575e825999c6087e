"""The handwritten digits that come with scikit-learn: no download, small enough for a laptop's minute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits

from modules.data.base import Batch
from modules.data.tensors import TensorSplit, check_image_shape, check_split

_BOUNDS = {"train": (0, 1297), "val": (1297, 1497), "test": (1497, 1797)}


class Digits:
    """1,797 grey images of 8x8 in [0, 1] and their digits: 1,297 to train, 200 to validate, 300 to test.

    Source: Alpaydin and Kaynak 1998, doi:10.24432/C50P49 (the test part of the UCI set).
    """

    def __init__(self, image_shape: Sequence[int], num_features: int, num_classes: int) -> None:
        """The numbers are there for the model to point at, and must be the set's own.

        Args:
            image_shape: [1, 8, 8].
            num_features: 64.
            num_classes: 10.
        """
        self.image_shape = check_image_shape("Digits", image_shape, num_features)
        if self.image_shape != (1, 8, 8) or num_classes != 10:
            raise ValueError(
                f"Digits wants image_shape=[1, 8, 8] and num_classes=10, for that is what the set is, "
                f"but got {list(image_shape)} and {num_classes}"
            )

    def load(self, split: str) -> TensorSplit:
        check_split("Digits", split)
        digits = load_digits()
        # Never the training's seed: test images would change sides. NumPy promises RandomState's numbers for ever.
        order = np.random.RandomState(0).permutation(len(digits.target))
        first, last = _BOUNDS[split]
        chosen = order[first:last]
        pixels = torch.from_numpy(digits.images[chosen]).float().div_(16)
        return TensorSplit(pixels.reshape(-1, *self.image_shape), torch.from_numpy(digits.target[chosen]).long())

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)
